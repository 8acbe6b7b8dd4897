"""What the memory options recompute, that it changes no result, and that no layout changes on the way."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from videogn import NORMS, i3d_resnet
from videogn.norms import KeptStatistics, make_norm

ARGUMENTS = {
    "gn": {"num_groups": 4},
    "gn_ws": {"num_groups": 4},
    "brn": {"warmup_steps": 0, "r_ramp_steps": 0, "d_ramp_steps": 0, "momentum": 0.3},
}
OPTIONS = ("recompute", "low", "lowest")


def small(norm="gn", memory="keep", dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    arguments = {"num_classes": 5, "width": 8, "dropout": 0.0, "variant": "8x8", "zero_init_last_norm": False}
    net = i3d_resnet(norm=norm, norm_kwargs=ARGUMENTS.get(norm), memory=memory, **(arguments | kwargs)).to(dtype)
    for name, buffer in net.named_buffers():  # r and d of batch renormalisation are far from 1 and 0
        if name.endswith("running_mean"):
            buffer.normal_(std=0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return net


def clips(dtype=torch.float64, batch=2, frames=4, size=32):
    return torch.randn(batch, 3, frames, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


def gradients(net):
    return [p.grad for p in net.parameters() if p.requires_grad]


@pytest.mark.parametrize("memory", OPTIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_no_option_changes_a_result(norm, memory):
    reference, net = small(norm), small(norm, memory)
    for _ in range(2):  # the second time with running statistics that the first has moved
        for model in (reference, net):
            model.zero_grad()
            model(clips()).square().sum().backward()
        torch.testing.assert_close(gradients(net), gradients(reference))
        torch.testing.assert_close(dict(net.named_buffers()), dict(reference.named_buffers()))


@pytest.mark.parametrize("memory", OPTIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_what_is_run_again_is_equal_to_the_bit(norm, memory):
    net = small(norm, memory, torch.float32)
    seen = {}
    for name, layer in net.named_modules():
        if name.endswith(("act_a", "act_b", "norm_a", "norm_b", "norm_c", "activation", "pool")):
            layer.register_forward_hook(lambda m, i, o, name=name: seen.setdefault(name, []).append(o.detach().clone()))
    net(clips(torch.float32)).square().sum().backward()
    twice = {name: outputs for name, outputs in seen.items() if len(outputs) > 1}
    assert len(twice) >= 16
    assert all(torch.equal(first, again) for first, again in twice.values())


@pytest.mark.parametrize("memory", OPTIONS)
def test_what_is_recomputed(memory):
    net = small("gn", memory)
    calls = Counter()
    block = net.blocks[1].res_blocks[2]
    for name in ("norm_b", "conv_c", "norm_c", "conv_b", "conv_a"):
        getattr(block.branch2, name).register_forward_hook(lambda *_, name=name: calls.update([name]))
    net.blocks[2].register_forward_hook(lambda *_: calls.update(["pool2"]))
    net(clips()).sum().backward()
    # A checkpoint ends before the operation whose inputs were all that was missing; hooks see calls that returned.
    again = {
        "recompute": {"norm_b", "norm_c"},
        "low": {"norm_b", "norm_c", "conv_c"},
        "lowest": {"norm_b", "norm_c", "conv_a", "conv_b", "conv_c"},
    }[memory]
    assert {name for name, times in calls.items() if times == 2} == again
    assert calls["pool2"] == 1


@pytest.mark.parametrize(("norm", "memory"), [("bn", "low"), ("brn", "lowest"), ("gn", "recompute")])
def test_a_retained_graph_is_recomputed_each_time(norm, memory):
    reference, net = small(norm), small(norm, memory)
    for model in (reference, net):
        loss = model(clips()).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    torch.testing.assert_close(gradients(net), gradients(reference))
    torch.testing.assert_close(dict(net.named_buffers()), dict(reference.named_buffers()))


@pytest.mark.parametrize("memory", ["keep", *OPTIONS])
def test_accumulated_gradients_are_those_of_the_batch(memory):
    whole, parts = small("gn", memory), small("gn", memory)
    whole(clips(batch=4)).square().sum().backward()
    for part in clips(batch=4).split(2):
        parts(part).square().sum().backward()
    torch.testing.assert_close(gradients(parts), gradients(whole))


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("memory", ["keep", *OPTIONS])
def test_inside_of_a_checkpoint(memory, use_reentrant):
    reference, net = small("gn"), small("gn", memory)
    reference(clips()).square().sum().backward()
    checkpoint(net, clips().requires_grad_(), use_reentrant=use_reentrant).square().sum().backward()
    torch.testing.assert_close(gradients(net), gradients(reference))


@pytest.mark.parametrize(("norm", "memory"), [("bn", "recompute"), ("gn", "low"), ("brn", "lowest")])
def test_under_ddp(norm, memory, tmp_path):
    """One process: DDP's hooks on gradients, buckets and buffers meet the recomputed units."""
    reference, net = small(norm), small(norm, memory)
    reference(clips()).square().sum().backward()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(net)
        parallel(clips()).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(gradients(net), gradients(reference))
    torch.testing.assert_close(dict(net.named_buffers()), dict(reference.named_buffers()))


@pytest.mark.parametrize("norm", ["gn", "bn", "sub_bn", "brn"])
def test_compiled_training_step(norm):
    """A compiler decides itself what it keeps: the option is not in its graph, and the results are the same."""
    reference, block = (small(norm, "low").blocks[3].res_blocks[0] for _ in range(2))
    x = torch.randn(2, 32, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reference(x).square().sum().backward()
    torch.compile(block, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    torch.testing.assert_close(gradients(block), gradients(reference))
    torch.testing.assert_close(dict(block.named_buffers()), dict(reference.named_buffers()))


@pytest.mark.parametrize("norm", ["bn", "gn_ws", "brn"])  # each norm alone: test_norms_contract
def test_exported_evaluation(norm):
    net = small(norm, "low", torch.float32).eval()
    x = clips(torch.float32, frames=8)
    sizes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("frames", min=4)},)
    program = torch.export.export(net, (x,), dynamic_shapes=sizes).module()
    for each in (x, clips(torch.float32, batch=3, frames=6)):
        torch.testing.assert_close(program(each), net(each), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", OPTIONS)
def test_an_average_of_weights_evaluates_and_trains_like_its_source(memory):
    net = small("gn", memory)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(net)
    torch.testing.assert_close(average.eval()(clips()), net.eval()(clips()))
    for model in (average.train(), net.train()):
        model(clips()).square().sum().backward()
    torch.testing.assert_close(gradients(average.module), gradients(net))


@pytest.mark.parametrize("norm", ["gn", "ln", "in", "brn", "sub_bn"])
def test_second_derivatives_are_refused(norm):
    layer = make_norm(norm, **({"num_groups": 2} if norm == "gn" else {}))(4)
    x = torch.randn(2, 4, 3, 3, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.sum().backward()


def test_layers_that_move_statistics_in_each_pass_are_not_run_again():
    net = small(nn.BatchNorm3d, "low")
    calls = Counter()
    net.blocks[0].norm.register_forward_hook(lambda *_: calls.update(["norm"]))
    net(clips()).sum().backward()
    assert calls["norm"] == 1
    assert int(net.blocks[0].norm.num_batches_tracked) == 1


def test_kept_statistics_nest():
    layer, x = make_norm("bn")(4), torch.randn(2, 4, 3, 3, 3)
    outer, inner = KeptStatistics(), KeptStatistics()
    with outer.first:
        layer(x)
        with inner.first:
            layer(x + 1)
        layer(x)
    assert int(layer.num_batches_tracked) == 3
    with outer.again:
        first = layer(x)
        with inner.again:
            layer(x + 1)
        torch.testing.assert_close(layer(x), first)
    assert int(layer.num_batches_tracked) == 3


class Layouts(TorchDispatchMode):
    """The operations whose result, a video, lies otherwise than channels-last; views do not count."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch
        self.others = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, torch.Tensor) and each.dim() == 5 and len(each) == self.batch and not func.is_view:
                # The head's gradient is of shape (B, T, H, W, C), which is the same order in memory.
                video = each.movedim(4, 1) if func is torch.ops.aten.div.Scalar else each
                if not video.is_contiguous(memory_format=torch.channels_last_3d):
                    self.others.append((str(func), tuple(each.shape), each.stride()))
        return out


@pytest.mark.parametrize(
    ("norm", "batch", "threads"), [("gn", 1, 2), *((norm, batch, 1) for norm in NORMS for batch in (1, 3))]
)
def test_everything_is_channels_last_forward_and_backward(norm, batch, threads):
    batch *= 2 if norm == "sub_bn" else 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for memory in ("keep", "low"):
            net = small(norm, memory, torch.float32).to(memory_format=torch.channels_last_3d)
            x = clips(torch.float32, batch, size=48).to(memory_format=torch.channels_last_3d).requires_grad_()
            with Layouts(batch) as layouts:
                net(x).square().sum().backward()
            assert layouts.others == []
            assert x.grad.is_contiguous(memory_format=torch.channels_last_3d)
    finally:
        torch.set_num_threads(before)
