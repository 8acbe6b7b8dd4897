"""Group norm out of torch's kernels, at their speed and without their traps: what runs on a CPU.

torch's group norm kernel takes the variance of channels-last inputs as E[x²] - E[x]², which loses digits where the mean
is large; and its backward pass takes up to 40 times as long with few channels per group. The batch norm kernels have
neither fault, are as fast, and take each channel for itself: a group norm of one sample is such a norm whose mean,
variance and affine parameters are those of the channel's group.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .common import at_least_float32, memory_format_of
from .kept import Statistics

_aten = torch.ops.aten


# Largest |mean| / standard deviation of a group with which E[x²] - E[x]² is used: it costs the variance the square of
# that factor in rounding errors.
_HARMLESS = 4.0


def takes(x: Tensor) -> bool:
    """Whether :class:`GroupNormNative` is for ``x``: on the CPU, and dense in a memory format that the kernels know."""
    plain = type(x) is Tensor or type(x) is nn.Parameter  # a fake tensor has no values to look at
    return plain and x.is_cpu and x.is_contiguous(memory_format=memory_format_of(x))


def forward(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, known: Statistics | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and mean and 1 / sqrt(var + eps) of the groups, each (N, G); the latter are taken if known."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight, bias = weight.to(wide), bias.to(wide)
    if known is None and x.is_cpu and wide is torch.float32:  # float64 is asked for by those who want all digits
        samples, channels = x.shape[:2]
        space = x.numel() // (samples * channels)
        out, mean, rstd = _aten.native_group_norm(x, weight, bias, samples, channels, space, num_groups, eps)
        # False where a value is not finite, too.
        if float(torch.linalg.vector_norm(mean * rstd, math.inf)) <= _HARMLESS:
            return out, mean, rstd
    mean, rstd = known or statistics(x, num_groups, eps)
    means, variances = _per_channel(mean, x.shape[1]), _per_channel(rstd, x.shape[1]).square().reciprocal_()
    return _affine(x, means, variances, weight, bias), mean, rstd


def statistics(x: Tensor, num_groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) of the groups, each (N, G), in float32 or better."""
    means, variances = _moments(x, num_groups)
    per_group = x.shape[1] // num_groups
    return means[:, ::per_group].contiguous(), (variances[:, ::per_group] + eps).rsqrt_()


class GroupNormNative(torch.autograd.Function):
    """``apply(x, num_groups, weight, bias, eps, *statistics)``; see :func:`videogn.norms.group.group_norm`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, *known: Tensor
    ) -> Tensor:
        out, mean, rstd = forward(x, num_groups, weight, bias, eps, known or None)
        ctx.save_for_backward(x, weight, mean, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The formulas are those of ``_gradients`` in group.py.
        x, weight, group_mean, group_rstd = ctx.saved_tensors
        mean, rstd = (_per_channel(each, x.shape[1]) for each in (group_mean, group_rstd))
        grad = grad.to(x.dtype).contiguous(memory_format=memory_format_of(x))
        sums = _sums(grad, x, mean, rstd)
        grad_x = None
        if ctx.needs_input_grad[0]:
            gamma = weight.to(mean.dtype)
            values = x.numel() // group_mean.numel()
            # For Σ g · x̂ and Σ g at once: small operations cost as much as the passes over a small x.
            of_groups = _spread((sums * gamma).flatten(0, 1), group_mean.shape[1], -1 / values)
            of_hat, constant = (of_groups.view_as(sums) * rstd).unbind()
            var = rstd.square().reciprocal_()  # with eps in it
            grad_x = _affine(x, mean, var, of_hat, constant)
            if x.dtype is mean.dtype:
                grad_x.addcmul_(grad, (rstd * gamma).view(*mean.shape, *[1] * (x.dim() - 2)))
            else:  # torch would round the factor to the low precision; the kernel does not
                zero = torch.zeros_like(mean)
                grad_x.add_(_affine(grad, zero, var, gamma, zero))
        grad_weight, grad_bias = sums.sum(1).to(weight.dtype).unbind()
        return grad_x, None, grad_weight, grad_bias, None, None, None


def _moments(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel's group: two (N, C), in float32 or better."""
    # Running statistics are what the kernel takes the dtype of its results from; their values do not matter.
    running = x.new_empty(x.shape[1], dtype=at_least_float32(x.new_empty(0)).dtype)
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
    return _per_channel(values.view(samples, num_groups, -1).sum(2).mul_(factor), channels)


def _per_channel(values: Tensor, channels: int) -> Tensor:
    """(N, G) to (N, C), contiguous: the kernels read a row without looking at its strides."""
    samples, groups = values.shape
    return values[:, :, None].expand(-1, -1, channels // groups).reshape(samples, channels).contiguous()


def _affine(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``(x - mean) / sqrt(var) * weight + bias``, rounded once; statistics (N, C), the others so or (C,)."""
    dtype = mean.dtype
    weight, bias = weight.to(dtype), bias.to(dtype)
    if x.shape[0] == 1:
        weight, bias = weight.view(-1), bias.view(-1)
        return _aten.native_batch_norm(x, weight, bias, mean[0], var[0], False, 0.0, 0.0)[0]
    out = torch.empty_like(x)
    used, again = (x.new_empty(x.shape[1], dtype=dtype) for _ in range(2))
    factors = (each.expand(mean.shape).unbind(0) for each in (weight, bias, mean, var))
    for sample, of_sample, w, b, m, v in zip(x.split(1), out.split(1), *factors, strict=True):
        _aten.native_batch_norm.out(
            sample, w, b, m, v, False, 0.0, 0.0, out=of_sample, save_mean=used, save_invstd=again
        )
    return out


def _sums(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """``Σ grad · x̂`` and ``Σ grad`` over space: (2, N, C), in float32 or better."""
    ones = torch.ones_like(mean[0])  # its dtype is that of the results
    wanted = [False, True, True]
    parts = [
        torch.stack(_aten.native_batch_norm_backward(g, sample, ones, None, None, m, r, True, 0.0, wanted)[1:])
        for g, sample, m, r in zip(grad.split(1), x.split(1), mean.unbind(0), rstd.unbind(0), strict=True)
    ]
    return torch.stack(parts, dim=1) if len(parts) > 1 else parts[0][:, None]
