"""The 3D convolution against torch's in float64, where torch's CPU kernels are slow or wrong."""

import pytest
import torch
from torch import nn

from videogn.norms import Conv3d


def parameter_gradients(ours, theirs):
    return [(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("groups", "bias"), [(1, False), (2, True)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        (1, 1, 0),
        (1, (1, 2, 2), 0),
        (1, 2, 0),
        (1, 1, 1),
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((1, 3, 3), 1, (1, 1, 1)),
        ((1, 2, 1), 1, 0),
        ((3, 1, 1), 1, (1, 0, 0)),
        ((3, 1, 1), (2, 1, 1), 0),
        ((3, 1, 1), (1, 2, 2), 0),
        ((5, 7, 7), 2, (2, 3, 3)),
        ((1, 3, 3), 1, "same"),
    ],
)
def test_convolution_is_torch_s(kernel, stride, padding, groups, bias, threads):
    ours = Conv3d(4, 6, kernel, stride, padding, groups=groups, bias=bias).to(memory_format=torch.channels_last_3d)
    theirs = nn.Conv3d(4, 6, kernel, stride, padding, groups=groups, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for batch in (1, 3):
            x = torch.randn(batch, 4, 5, 8, 7).to(memory_format=torch.channels_last_3d).requires_grad_()
            z = x.detach().double().requires_grad_()
            ours.zero_grad()
            theirs.zero_grad()
            y, expected = ours(x), theirs(z)
            weights = torch.randn_like(expected)
            (y * weights.float()).sum().backward()
            (expected * weights).sum().backward()
            for a, b in ((y, expected), (x.grad, z.grad), *parameter_gradients(ours, theirs)):
                torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("form", [torch.channels_last_3d, torch.contiguous_format])
@pytest.mark.parametrize("kernel", [(3, 1, 1), (5, 7, 7)])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("autocast", [True, False])
def test_low_precision_weight_gradients_of_few_frames(frames, kernel, form, autocast):
    """torch 2.15 returns what happened to be in memory for two to four frames under kernels of three or five."""
    torch.manual_seed(0)
    padding = tuple(k // 2 for k in kernel)
    conv = Conv3d(32, 16, kernel, padding=padding, bias=False).to(memory_format=form)
    conv = conv if autocast else conv.bfloat16()
    x = torch.randn(2, 32, frames, 8, 8).bfloat16().contiguous(memory_format=form)
    grad = torch.randn(2, 16, frames, 8, 8).bfloat16()
    exact = nn.Conv3d(32, 16, kernel, padding=padding, bias=False).double()
    exact.weight.data = conv.weight.detach().bfloat16().double()
    exact(x.double()).backward(grad.double())
    for _ in range(3):
        junk = torch.full((1 << 18,), 1e30)
        del junk
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = conv(x.float() if autocast else x)
        assert y.is_contiguous(memory_format=form)
        y.backward(grad)
        error = (conv.weight.grad.double() - exact.weight.grad).norm() / exact.weight.grad.norm()
        assert error < 5e-3


@pytest.mark.parametrize("form", [torch.channels_last_3d, torch.contiguous_format])
@pytest.mark.parametrize(
    ("kernel", "stride", "size"),
    [((5, 7, 7), 1, (5, 2, 2)), ((1, 7, 7), 2, (1, 2, 8)), ((1, 3, 3), 2, (5, 8, 1)), ((3, 3, 3), 2, (5, 1, 8))],
)
def test_low_precision_weight_gradients_of_small_frames(kernel, stride, size, form):
    """torch 2.15 returns what happened to be in memory, or writes past its end, where a kernel is higher or wider."""
    torch.manual_seed(0)
    padding = tuple(k // 2 for k in kernel)
    conv = Conv3d(32, 16, kernel, stride, padding, bias=False).to(torch.bfloat16, memory_format=form)
    exact = nn.Conv3d(32, 16, kernel, stride, padding, bias=False).double()
    exact.load_state_dict(conv.state_dict())
    x = torch.randn(2, 32, *size).bfloat16().contiguous(memory_format=form)
    expected = exact(x.double())
    grad = torch.randn(expected.shape).bfloat16()
    expected.backward(grad.double())
    for _ in range(3):
        junk = [torch.full((1 << n,), 1e30) for n in range(10, 19)]
        del junk
        conv.zero_grad()
        conv(x).backward(grad)
        error = (conv.weight.grad.double() - exact.weight.grad).norm() / exact.weight.grad.norm()
        assert error < 5e-3
