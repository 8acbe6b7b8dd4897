"""Group norm on CUDA (with fake tensors), weight standardisation, and the errors of make_norm."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from videogn.norms import (
    NORMS,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    group_native,
    group_norm,
    make_norm,
    standardize_conv,
    standardize_weight,
)
from videogn.norms import group as group_module


@pytest.mark.parametrize("shape", [(2, 12, 7), (2, 12, 4, 3), (2, 12, 2, 4, 3)], ids=["3d", "4d", "5d"])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_group_norm_equals_torch(groups, shape):
    x, weight, bias = torch.randn(shape), torch.randn(12), torch.randn(12)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    results = []
    for function in (group_norm, nn.functional.group_norm):
        y = function(x, groups, weight, bias, 1e-3)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=["nchw", "nhwc"])
def test_cuda_autocast_keeps_bfloat16(memory_format):
    torch.set_autocast_enabled("cuda", True)  # torch.autocast does nothing where there is no CUDA device
    try:
        with FakeTensorMode():
            layer = nn.GroupNorm(8, 64, device="cuda")
            x = torch.empty(2, 64, 4, 8, 8, device="cuda", dtype=torch.bfloat16).to(memory_format=memory_format)
            x.requires_grad_()
            saved = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
                y = group_norm(x, 8, layer.weight, layer.bias, 1e-5)
            theirs = layer(x)
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert theirs.dtype == torch.float32  # what it is about: twice the memory for all that follows
    assert y.dtype == torch.bfloat16
    assert y.device.type == "cuda"
    assert y.stride() == x.stride()
    # The input, the weight, and two float32 numbers per group and sample: no second copy of the input.
    assert sum(t.nbytes for t in saved) == x.nbytes + 64 * 4 + 2 * 2 * 8 * 4


@pytest.mark.parametrize("path", ["kernels", "in one", "sample by sample", "two samples at once"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mean", [2, 20])
def test_every_path_against_float64(monkeypatch, path, dtype, groups, channels_last, mean):
    monkeypatch.setattr(group_native, "takes", lambda x: path == "kernels")
    at_once = {"sample by sample": 1, "two samples at once": 2}.get(path, 3)
    monkeypatch.setattr(group_module, "_VALUES_AT_ONCE", at_once * 16 * 3 * 6 * 5)
    torch.manual_seed(0)
    x = (torch.randn(3, 16, 3, 6, 5) * 2 + mean).to(dtype)
    x = x.to(memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format).requires_grad_()
    layer = nn.GroupNorm(groups, 16).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    exact = x.detach().double().contiguous().requires_grad_()  # torch's channels-last kernel loses digits
    grad = torch.randn(x.shape).to(dtype)
    expected = [layer(exact)]
    expected += torch.autograd.grad(expected[0], [exact, layer.weight, layer.bias], grad.double())
    of_parameters = torch.float32 if dtype == torch.bfloat16 else dtype
    weight, bias = (p.detach().to(of_parameters).requires_grad_() for p in layer.parameters())
    got = [group_norm(x, groups, weight, bias, 1e-5)]
    assert got[0].stride() == x.stride()
    assert got[0].dtype == dtype
    got += torch.autograd.grad(got[0], [x, weight, bias], grad)
    # Output and input gradient are rounded to dtype (the kernels round its two terms as well); parameters' gradients
    # are sums in float32 or better.
    digits = [4 * torch.finfo(dtype).eps] * 2 + [64 * min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)] * 2
    for one, other, relative in zip(got, expected, digits, strict=True):
        assert (one.double() - other).abs().max() <= relative * other.abs().max()


def test_the_layer_norm_of_channels_last():
    # One group: its statistics are one value, expanded over the channels, which a kernel must not read as a row.
    x = torch.randn(4, 8, 2, 4, 3).to(memory_format=torch.channels_last_3d)
    expected = torch.nn.functional.group_norm(x.double(), 1).float()
    torch.testing.assert_close(make_norm("ln")(8)(x), expected)


def test_group_layouts():
    assert make_norm("gn")(64).num_groups == 32
    assert make_norm("gn", channels_per_group=16)(64).num_groups == 4
    assert make_norm("ln")(64).num_groups == 1
    assert make_norm("in")(64).num_groups == 64
    assert make_norm("gn_ws", num_groups=8, eps=1e-3)(64).eps == 1e-3
    assert make_norm("gn", num_groups=None, channels_per_group=None)(64).num_groups == 32


def test_groups_must_divide_the_channels():
    with pytest.raises(
        ValueError, match="48 channels cannot be divided by num_groups=32; allowed num_groups: 1, 2, 3, 4, 6"
    ):
        make_norm("gn")(48)
    with pytest.raises(
        ValueError, match="12 channels cannot be divided by channels_per_group=8; allowed channels_per_group: 1, 2, 3"
    ):
        make_norm("gn_ws", channels_per_group=8)(12)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("grp", {}, r"unknown norm 'grp'; known: bn, gn, ln, in, brn, frozen_bn, sub_bn, gn_ws; nearest: 'gn'"),
        ("frozenbn", {}, r"nearest: 'frozen_bn'"),
        (None, {}, r"unknown norm None"),
        ("gn", {"groups": 4}, r"gn has no argument 'groups'; allowed: num_groups.*; nearest: 'num_groups'"),
        ("bn", {"num_groups": 4}, r"bn has no argument 'num_groups'; allowed: eps, momentum"),
        ("ln", {"momentum": 0.1}, r"ln has no argument 'momentum'"),
        ("gn", {"num_channels": 4}, r"gn has no argument 'num_channels'"),
        ("gn", {"num_groups": 0}, r"gn: num_groups must be an integer of at least 1, or None, got 0"),
        ("gn", {"num_groups": 8.0}, r"num_groups must be an integer .* got 8.0"),
        ("gn", {"num_groups": True}, r"num_groups must be an integer .* got True"),
        ("gn", {"num_groups": 8, "channels_per_group": 2}, r"num_groups or channels_per_group, not both; got 8 and 2"),
        ("gn", {"eps": 0}, r"eps must be a number above 0, got 0"),
        ("bn", {"eps": "1e-5"}, r"eps must be a number above 0, got '1e-5'"),
        ("bn", {"eps": float("nan")}, r"eps must be .* got nan"),
        ("bn", {"momentum": 1.5}, r"momentum must be a number from 0 to 1, or None .* got 1.5"),
        ("brn", {"r_max": 0.5}, r"brn: r_max must be a number of at least 1, got 0.5"),
        ("brn", {"d_max": -1}, r"d_max must be a number of at least 0, got -1"),
        ("brn", {"warmup_steps": 1.5}, r"warmup_steps must be an integer of at least 0, got 1.5"),
        ("sub_bn", {"num_splits": 2, "split_size": 4}, r"num_splits or split_size, not both"),
        ("sub_bn", {"split_size": -2}, r"split_size must be"),
    ],
)
def test_wrong_arguments_are_refused_at_once(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_norm(name, **arguments)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("channels", [0, -4, 1.5, None])
def test_wrong_channels_are_refused(name, channels):
    with pytest.raises(ValueError, match="must be an integer of at least 1, got"):
        make_norm(name)(channels)


@pytest.mark.parametrize("twin", [WSConv1d, WSConv2d, WSConv3d])
def test_weight_standardisation(twin):
    plain = {WSConv1d: nn.Conv1d, WSConv2d: nn.Conv2d, WSConv3d: nn.Conv3d}[twin]
    dims = {WSConv1d: 1, WSConv2d: 2, WSConv3d: 3}[twin]
    conv = plain(4, 6, 3, stride=2, padding=1, groups=2, padding_mode="circular").double()
    new = standardize_conv(conv)
    assert type(new) is twin
    assert new.weight is conv.weight
    assert new.bias is conv.bias
    assert standardize_conv(new) is new
    x = torch.randn(2, 4, *[8] * dims, dtype=torch.float64)
    y = new(x)
    flat = conv.weight.detach().flatten(1)
    standard = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-5)
    conv = copy.deepcopy(conv)
    conv.weight = nn.Parameter(standard.view_as(conv.weight))
    torch.testing.assert_close(y, conv(x))


def test_weight_standardisation_gradient_precision_and_constant_filters():
    weight = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(standardize_weight, (weight,))
    constant = torch.zeros(3, 2, 3, requires_grad=True)
    standardize_weight(constant).square().sum().backward()
    assert torch.equal(constant.grad, torch.zeros_like(constant))
    low = (torch.randn(4, 16, 3, 3) + 20).bfloat16()
    wide = standardize_weight(low.double())
    torch.testing.assert_close(standardize_weight(low).double(), wide, rtol=2**-8, atol=2**-10)


def test_standardised_convolution_under_autocast():
    conv = WSConv3d(4, 8, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(torch.randn(1, 4, 4, 5, 5))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert conv.weight.grad.dtype == torch.float32


def test_convolutions_that_cannot_be_standardised():
    with pytest.raises(ValueError, match="filters of one weight"):
        WSConv3d(8, 8, 1, groups=8)
    with pytest.raises(ValueError, match=r"needs nn.Conv1d, nn.Conv2d or nn.Conv3d, got ConvTranspose2d"):
        standardize_conv(nn.ConvTranspose2d(4, 4, 3))
