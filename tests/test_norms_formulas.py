"""Every norm against its formula in float64, its gradients, and the precision of its statistics."""

import pytest
import torch

from videogn.norms import NORMS, make_norm

CHANNELS = 8
# The arguments that make 8 channels and a batch of 4 a real case of each norm; brn with its full limits at once.
ARGUMENTS = {
    "gn": {"num_groups": 4},
    "gn_ws": {"num_groups": 4},
    "sub_bn": {"num_splits": 2},
    "brn": {"r_max": 1.2, "d_max": 0.3, "warmup_steps": 0, "r_ramp_steps": 0, "d_ramp_steps": 0},
}
SHAPES = [(4, CHANNELS, 10), (4, CHANNELS, 5, 3), (4, CHANNELS, 2, 4, 3)]


def build(name, dtype=torch.float64, track=True):
    """The norm with an affine and running statistics that are not the initial ones (and exact in bfloat16)."""
    torch.manual_seed(1)
    layer = make_norm(name, **ARGUMENTS.get(name, {}))(CHANNELS).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.375, CHANNELS))
        layer.bias.copy_(torch.linspace(-1, 0.75, CHANNELS))
        if getattr(layer, "running_mean", None) is not None:
            layer.running_mean.copy_(torch.linspace(-0.5, 1.25, CHANNELS))
            layer.running_var.copy_(torch.linspace(0.5, 2.25, CHANNELS))
    if hasattr(layer, "track_running_stats"):
        layer.track_running_stats = track
    return layer


def affine(layer, x):
    shape = (1, -1) + (1,) * (x.dim() - 2)
    return x * layer.weight.to(x.dtype).view(shape) + layer.bias.to(x.dtype).view(shape)


def standardise(x, dims, eps):
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / (var + eps).sqrt()


def renormalise(layer, x, detach=True):
    dims, shape = [0, *range(2, x.dim())], (1, -1) + (1,) * (x.dim() - 2)
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    sigma = (layer.running_var.to(x.dtype).view(shape) + layer.eps).sqrt()
    r = ((var + layer.eps).sqrt() / sigma).clamp(1 / layer.r_max, layer.r_max)
    d = ((mean - layer.running_mean.to(x.dtype).view(shape)) / sigma).clamp(-layer.d_max, layer.d_max)
    r, d = (r.detach(), d.detach()) if detach else (r, d)
    return standardise(x, dims, layer.eps) * r + d


def reference(name, layer, x):
    """The formula, in the dtype of x, without any of the layer's code."""
    batch_dims = [0, *range(2, x.dim())]
    if name in ("gn", "gn_ws", "ln", "in"):
        groups = {"ln": 1, "in": CHANNELS}.get(name, 4)
        normal = standardise(x.reshape(len(x), groups, -1), [2], layer.eps).reshape(x.shape)
    elif name == "frozen_bn" or not layer.training:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        mean, var = (s.to(x.dtype).view(shape) for s in (layer.running_mean, layer.running_var))
        normal = (x - mean) / (var + layer.eps).sqrt()
    elif name == "brn":
        normal = renormalise(layer, x)
    else:
        splits = x.split(2) if name == "sub_bn" else [x]
        normal = torch.cat([standardise(split, batch_dims, layer.eps) for split in splits])
    return affine(layer, normal)


@pytest.mark.parametrize("shape", SHAPES, ids=["3d", "4d", "5d"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NORMS)
def test_output_is_the_formula(name, training, shape):
    layer = build(name, track=False).train(training)
    x = torch.randn(shape, dtype=torch.float64) * 2 + 1
    torch.testing.assert_close(layer(x), reference(name, layer, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NORMS)
def test_gradients_are_those_of_the_formula(name, training, memory_format):
    layer = build(name, track=False).train(training)
    x = torch.randn(4, CHANNELS, 2, 4, 3, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weights = torch.randn(x.shape, dtype=torch.float64)
    inputs = [x] if name == "frozen_bn" else [x, layer.weight, layer.bias]
    expected = torch.autograd.grad((reference(name, layer, x) * weights).sum(), inputs)
    got = torch.autograd.grad((layer(x) * weights).sum(), inputs)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NORMS)
def test_gradcheck(name, training):
    if name == "brn" and training:
        pytest.skip("r and d depend on the input but pass no gradient: compared with autograd above")
    layer = build(name, track=False).train(training)
    x = torch.randn(4, CHANNELS, 1, 2, 1, dtype=torch.float64, requires_grad=True)
    if name == "frozen_bn":
        assert torch.autograd.gradcheck(layer, (x,))
        return

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    # Finite differences of 1e-6 of an instance norm over two values are too coarse for the default tolerance.
    tolerance = {"atol": 1e-3, "rtol": 1e-2} if name == "in" else {}
    assert torch.autograd.gradcheck(function, (x, layer.weight, layer.bias), **tolerance)


def test_brn_passes_no_gradient_through_r_and_d():
    layer = build("brn", track=False)
    x = torch.randn(4, CHANNELS, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(x.shape, dtype=torch.float64)
    (through,) = torch.autograd.grad((affine(layer, renormalise(layer, x, detach=False)) * weights).sum(), x)
    (got,) = torch.autograd.grad((layer(x) * weights).sum(), x)
    assert (through - got).abs().max() > 1e-3


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("params", [torch.float32, torch.bfloat16], ids=["float32 layer", "bfloat16 layer"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NORMS)
def test_bfloat16_input_has_float32_statistics(name, training, params, memory_format):
    # A mean of 100 and a deviation of 2: in bfloat16, which has 8 bits, the mean is off by up to 0.25.
    layer = build(name, params, track=False).train(training)
    offset = torch.full((CHANNELS,), 100.0)
    if hasattr(layer, "running_mean"):
        layer.running_mean.copy_(offset)
        layer.running_var.fill_(4.0)
    x = (torch.randn(4, CHANNELS, 3, 6, 5) * 2 + offset.view(-1, 1, 1, 1)).bfloat16().to(memory_format=memory_format)
    x.requires_grad_()
    wide = x.detach().double().requires_grad_()
    expected, got = reference(name, layer, wide), layer(x)
    # Half a unit in the last place of bfloat16 is up to 2**-8 of the value: the one rounding of the output.
    torch.testing.assert_close(got.double(), expected, rtol=2**-8, atol=2**-9)

    weights = torch.randn(x.shape).bfloat16()
    got.backward(weights)
    expected.backward(weights.double())
    # torch's channels-last batch norm rounds once more on the way; statistics in bfloat16 would be off by 10 %.
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=2**-7, atol=2**-9)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", NORMS)
def test_float32_survives_a_large_mean(name, memory_format):
    # E[x²] - E[x]² in float32 would give a variance of 0 or of twice the true one here.
    layer = build(name, torch.float32, track=False)
    if hasattr(layer, "running_mean"):
        layer.running_mean.fill_(100.0)
        layer.running_var.fill_(0.01)
    x = (torch.randn(4, CHANNELS, 3, 6, 5) * 0.1 + 100).to(memory_format=memory_format)
    torch.testing.assert_close(layer(x).double(), reference(name, layer, x.double()), rtol=0, atol=2e-3)
