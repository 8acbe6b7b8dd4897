"""What every norm promises beside its formula: shapes, formats, errors, persistence, compilation."""

import copy
import io
import pickle

import pytest
import torch
from test_norms_formulas import ARGUMENTS, CHANNELS, SHAPES, build, reference
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from videogn.norms import BATCH_NORMS, NORMS, make_norm

FORMATS = [torch.contiguous_format, torch.channels_last_3d]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("memory_format", FORMATS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NORMS)
def test_dtype_and_memory_format_are_kept(name, training, dtype, memory_format):
    layer = build(name, dtype if dtype == torch.float64 else torch.float32).train(training)
    x = torch.randn(4, CHANNELS, 2, 4, 3).to(dtype).to(memory_format=memory_format).requires_grad_()
    y = layer(x)
    y.backward(torch.ones_like(y, memory_format=memory_format))
    for tensor in (y, x.grad):
        assert tensor.dtype == dtype
        assert tensor.stride() == x.stride()
    assert layer.weight.dtype == (dtype if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_autocast_changes_nothing(name, dtype):
    layer = build(name, torch.float32, track=False)
    x = torch.randn(4, CHANNELS, 2, 4, 3).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("name", NORMS)
def test_affine_is_there(name):
    layer = make_norm(name)(64)
    parameters = dict(layer.named_parameters())
    assert set(parameters) == {"weight", "bias"}
    assert torch.equal(parameters["weight"], torch.ones(64))
    assert torch.equal(parameters["bias"], torch.zeros(64))
    assert all(p.requires_grad == (name != "frozen_bn") for p in parameters.values())


@pytest.mark.parametrize("shape", SHAPES, ids=["3d", "4d", "5d"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NORMS)
def test_independence_of_the_batch(name, training, shape):
    layer = build(name, track=False).train(training)
    x = torch.randn(shape, dtype=torch.float64)
    changed = torch.cat([x[:1], torch.randn_like(x[1:]) * 5])
    independent = torch.allclose(layer(x)[0], layer(changed)[0], rtol=1e-12, atol=1e-12)
    assert independent == (name not in BATCH_NORMS or not training)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(4, CHANNELS, 1, 1, 1), (1, CHANNELS, 2, 1, 3), (1, CHANNELS, 1, 2, 1)], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_sizes_of_one(name, shape, training):
    layer = build(name, track=False).train(training)
    x = torch.randn(shape, dtype=torch.float64)
    if training and (name, shape[0]) in {("in", 4), ("sub_bn", 1)}:
        with pytest.raises(
            ValueError, match=r"more than 1 value per group|batch of 1 cannot be divided by num_splits=2"
        ):
            layer(x)
        return
    torch.testing.assert_close(layer(x), reference(name, layer, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NORMS)
def test_one_value_per_statistic_is_refused_in_training(name):
    samples = 2 if name in ("sub_bn", "in", "gn", "gn_ws") else 1
    channels = 1 if name == "ln" else CHANNELS
    arguments = {"channels_per_group": 1} if name in ("gn", "gn_ws") else {}
    layer = make_norm(name, **arguments)(channels)
    x = torch.randn(samples, channels, 1, 1, 1)
    if name == "frozen_bn":
        assert torch.isfinite(layer(x)).all()
        return
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=r"more than 1 value per (channel|group) when training"):
        layer(x)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
    assert torch.isfinite(layer.eval()(x)).all()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NORMS)
def test_inputs_that_make_no_sense_are_refused(name, training):
    layer = build(name, torch.float32).train(training)
    for shape in [(0, CHANNELS, 2, 2, 2), (4, CHANNELS, 2, 0, 2)]:
        with pytest.raises(ValueError, match="empty input"):
            layer(torch.randn(shape))
    with pytest.raises(ValueError, match=rf"{CHANNELS} channels, got an input of shape \(4, 6, 2, 2, 2\)"):
        layer(torch.randn(4, 6, 2, 2, 2))
    for shape in [(4, CHANNELS), (1, 4, CHANNELS, 2, 2, 2)]:
        with pytest.raises(ValueError, match="1 to 3 spatial dimensions"):
            layer(torch.randn(shape))


@pytest.mark.parametrize("name", NORMS)
def test_state_dict_copy_and_pickle(name):
    layer = build(name, torch.float32).train()
    x = torch.randn(4, CHANNELS, 2, 4, 3)
    layer(x)
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    builder = pickle.loads(pickle.dumps(make_norm(name, **ARGUMENTS.get(name, {}))))
    loaded = builder(CHANNELS)
    loaded.load_state_dict(torch.load(stored, weights_only=True), strict=True)
    if name in (*BATCH_NORMS, "frozen_bn"):
        assert list(layer.state_dict()) == list(torch.nn.BatchNorm3d(CHANNELS).state_dict())
    for twin in (loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        for mode in (True, False):
            assert torch.equal(copy.deepcopy(twin).train(mode)(x), copy.deepcopy(layer).train(mode)(x))


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_averaged_model(name, use_buffers):
    layer = build(name, torch.float32)
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use_buffers)
    average.update_parameters(layer)
    with torch.no_grad():
        layer.weight += 1.0
    layer(torch.randn(4, CHANNELS, 2, 4, 3))
    average.update_parameters(layer)
    torch.testing.assert_close(average.module.weight, layer.weight - 0.5)
    assert torch.isfinite(average.eval()(torch.randn(2, CHANNELS, 2, 4, 3))).all()


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_untracked_training_normalises_with_the_batch_and_updates_nothing(name):
    layer, x = build(name, torch.float32), torch.randn(4, CHANNELS, 2, 4, 3)
    before = copy.deepcopy(layer.state_dict())
    layer.track_running_stats = False
    first = layer(x)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    layer.track_running_stats = True
    assert torch.equal(layer(x), first)
    assert layer.num_batches_tracked == before["num_batches_tracked"] + 1
    assert not torch.equal(layer.running_mean, before["running_mean"])


@pytest.mark.parametrize("name", NORMS)
def test_compiled_evaluation(name):
    torch._dynamo.reset()
    memory_format = torch.channels_last_3d
    layer = build(name, torch.float32).eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for samples in (2, 3):
        x = torch.randn(samples, CHANNELS, 2, 4, 3).to(memory_format=memory_format)
        y = compiled(x)
        torch.testing.assert_close(y, layer(x))
        assert y.stride() == x.stride()
    x = torch.randn(2, CHANNELS, 2, 4, 3).bfloat16().to(memory_format=memory_format)
    assert compiled(x).dtype == torch.bfloat16


@pytest.mark.parametrize("name", NORMS)
def test_exported_evaluation(name):
    layer = build(name, torch.float32).eval()
    sizes = {0: torch.export.Dim("batch"), 3: torch.export.Dim("height"), 4: torch.export.Dim("width")}
    program = torch.export.export(layer, (torch.randn(2, CHANNELS, 2, 4, 3),), dynamic_shapes=(sizes,))
    for samples, height in ((1, 4), (5, 7)):
        x = torch.randn(samples, CHANNELS, 2, height, 3)
        torch.testing.assert_close(program.module()(x), layer(x))
