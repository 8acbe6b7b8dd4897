"""Group norm on the CPU, out of torch's batch norm kernels.

They are fast in every dtype and memory format, and take each channel for itself. A group norm of one sample is such a
norm whose mean, variance and affine parameters are those of the channel's group. torch's own group norm is not used:
its channels-last kernel takes the variance as E[x²] - E[x]², which is 0 where the mean is large, and its backward pass
takes up to 40 times as long with few channels per group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common import at_least_float32

_aten = torch.ops.aten


def takes(x: Tensor) -> bool:
    """Whether :class:`GroupNormCPU` is for ``x``: on the CPU, and dense in a memory format that the kernels know."""
    return x.device.type == "cpu" and x.is_contiguous(memory_format=_memory_format(x))


class GroupNormCPU(torch.autograd.Function):
    """``apply(x, num_groups, weight, bias, eps)``; see :func:`videogn.norms.group.group_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean, var = _moments(x, num_groups)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.num_groups, ctx.eps = num_groups, eps
        return _affine(x, mean, var, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # With x̂ the normalised input, g = grad · weight and means over the values of a group:
        #   dx = (g - mean(g) - x̂ · mean(g · x̂)) · rstd,   dweight = Σ grad · x̂,   dbias = Σ grad
        x, weight, mean, var = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous(memory_format=_memory_format(x))
        grad_weight, grad_bias = _sums(grad, x, mean, var, ctx.eps)
        grad_x = None
        if ctx.needs_input_grad[0]:
            gamma = weight.to(mean.dtype)
            values = x[0].numel() // ctx.num_groups
            rstd = (var + ctx.eps).rsqrt()
            of_hat = _spread(grad_weight * gamma, ctx.num_groups, -1 / values) * rstd
            constant = _spread(grad_bias * gamma, ctx.num_groups, -1 / values) * rstd
            grad_x = _affine(x, mean, var, of_hat, constant, ctx.eps)
            if x.dtype is mean.dtype:
                grad_x.addcmul_(grad, (rstd * gamma).view(*mean.shape, *[1] * (x.dim() - 2)))
            else:  # torch would round the factor to the low precision; the kernel does not
                zero = torch.zeros_like(mean)
                grad_x.add_(_affine(grad, zero, var, gamma, zero, ctx.eps))
        return grad_x, None, grad_weight.sum(0).to(weight.dtype), grad_bias.sum(0).to(weight.dtype), None


def _memory_format(x: Tensor) -> torch.memory_format:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return last if last is not None and x.is_contiguous(memory_format=last) else torch.contiguous_format


def _moments(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel's group: two (N, C), in float32 or better."""
    # Running statistics are what the kernel takes the dtype of its results from; their values do not matter.
    running = torch.empty(x.shape[1], dtype=at_least_float32(x.new_empty(0)).dtype)
    moments = [_aten.batch_norm_update_stats(sample, running, running, 0.0) for sample in x.split(1)]
    mean, var = (torch.stack(each) if len(each) > 1 else each[0][None] for each in zip(*moments, strict=True))
    if x.dtype is running.dtype:
        # In these dtypes the kernel adds up one value after the other, which costs digits where the mean is large;
        # torch.mean adds up in pairs. A variance about another mean is too large by the square of their difference.
        exact = x.mean(list(range(2, x.dim())))
        var, mean = (var - (mean - exact).square_()).clamp_min_(0.0), exact
    if num_groups == x.shape[1]:
        return mean, var
    group = _spread(mean, num_groups, num_groups / x.shape[1])
    return group, _spread(var.add_((mean - group).square_()), num_groups, num_groups / x.shape[1])


def _spread(values: Tensor, num_groups: int, factor: float) -> Tensor:
    """Sum over the channels of a group times ``factor``, for each of its channels: (N, C) to (N, C), contiguous."""
    samples, channels = values.shape
    sums = values.view(samples, num_groups, -1).sum(2, keepdim=True).mul_(factor)
    return sums.expand(-1, -1, channels // num_groups).reshape(samples, channels).contiguous()


def _affine(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias``, rounded once; statistics (N, C), the others so or (C,)."""
    dtype = mean.dtype
    weight, bias = weight.to(dtype), bias.to(dtype)
    if x.shape[0] == 1:
        weight, bias = weight.view(-1), bias.view(-1)
        return _aten.native_batch_norm(x, weight, bias, mean[0], var[0], False, 0.0, eps)[0]
    out = torch.empty_like(x)
    unused = x.new_empty(0, dtype=dtype)
    factors = (each.expand(mean.shape).unbind(0) for each in (weight, bias, mean, var))
    for sample, of_sample, w, b, m, v in zip(x.split(1), out.split(1), *factors, strict=True):
        _aten.native_batch_norm.out(
            sample, w, b, m, v, False, 0.0, eps, out=of_sample, save_mean=unused, save_invstd=unused
        )
    return out


def _sums(grad: Tensor, x: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``Σ grad · x̂`` and ``Σ grad`` over space: two (N, C), in float32 or better."""
    parts = [
        _aten.native_batch_norm_backward(g, sample, None, m, v, None, None, False, eps, [False, True, True])[1:]
        for g, sample, m, v in zip(grad.split(1), x.split(1), mean.unbind(0), var.unbind(0), strict=True)
    ]
    hat, plain = (torch.stack(each) if len(each) > 1 else each[0][None] for each in zip(*parts, strict=True))
    return hat, plain
