"""Group normalisation (Wu & He 2018, arXiv 1803.08494, equations 1, 2, 6 and 7), layer norm and instance norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import group_native
from .common import at_least_float32, check_arguments, check_input
from .kept import Statistics, kept

DEFAULT_GROUPS = 32


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, statistics: Statistics | None = None
) -> Tensor:
    """Normalises every sample over its spatial positions and the channels of a group.

        y = (x - mean) / sqrt(var + eps) * weight + bias,   var biased

    Args:
        x: (N, C, spatial...), any memory format.
        num_groups: divides C; group g holds the channels from g·C/num_groups on.
        weight: (C,).
        bias: (C,).
        eps: added to the variance.
        statistics: those of :func:`group_statistics` for this ``x``, where they are known; gradients are the same.

    Returns:
        y, in the dtype and the memory format of ``x``, under autocast too. Statistics and arithmetic are in float32,
        or float64 for float64. Autograd keeps ``x`` and the statistics alone. Differentiable once.
    """
    # torch's own group_norm is not used: on CUDA it keeps the statistics of a bfloat16 input in bfloat16, and autocast
    # turns its output into float32. See group_native for the CPU.
    if torch.compiler.is_compiling():
        return _normalise(x, num_groups, weight, bias, eps)[0]  # the compiler decides what to keep for the backward
    native = group_native.takes(x)
    if native and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad)):
        return group_native.forward(x, num_groups, weight, bias, eps, statistics)[0]
    function = group_native.GroupNormNative if native else _GroupNorm
    return function.apply(x, num_groups, weight, bias, eps, *(statistics or ()))


@torch.no_grad()
def group_statistics(x: Tensor, num_groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) of the groups of every sample: two (N, G), in float32 or better."""
    if group_native.takes(x):
        return group_native.statistics(x, num_groups, eps)
    parts = [_statistics(part, num_groups, eps)[:2] for part in x.split(_samples_at_once(x))]
    mean, rstd = (torch.cat(each) if len(parts) > 1 else each[0] for each in zip(*parts, strict=True))
    return mean, rstd


def _per_channel(statistic: Tensor, like: Tensor) -> Tensor:
    """(N, G) or (N, C) -> (N, C, 1...), to be broadcast against ``like``."""
    rows, groups = statistic.shape
    channels = like.shape[1]
    spread = statistic[:, :, None].expand(rows, groups, channels // groups)
    return spread.reshape(rows, channels, *[1] * (like.dim() - 2))


def _statistics(x: Tensor, num_groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) of the groups, each (N, G), and x - mean with its squares, in float32 or better."""
    samples, channels = x.shape[:2]
    spatial = list(range(2, x.dim()))
    shape = (samples, num_groups, channels // num_groups)
    wide = at_least_float32(x)
    mean = wide.mean(spatial).view(shape).mean(2)
    # In two steps, first over space and then over the group: both reductions are fast in every memory format.
    centred = wide - _per_channel(mean, x)
    squares = centred.square()
    rstd = (squares.mean(spatial).view(shape).mean(2) + eps).rsqrt()
    return mean, rstd, centred, squares


def _normalise(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, statistics: Statistics | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y, and mean and 1 / sqrt(var + eps) of the groups, each (N, G)."""
    spare = None
    if statistics is None:
        mean, rstd, centred, spare = _statistics(x, num_groups, eps)
    else:
        mean, rstd = statistics
        centred = at_least_float32(x) - _per_channel(mean, x)
    scale = _per_channel(rstd, x) * weight.to(rstd.dtype).view(1, -1, *[1] * (x.dim() - 2))
    shift = bias.to(rstd.dtype).view(1, -1, *[1] * (x.dim() - 2))
    # Fresh memory is what costs most, so that of the squares is used again; a compiler plans its memory itself.
    out = torch.addcmul(shift, centred, scale, out=None if torch.compiler.is_compiling() else spare)
    return out.to(x.dtype), mean, rstd


class _GroupNorm(torch.autograd.Function):
    """Keeps x in its own dtype; plain autograd would keep the centred values in float32 as well.

    A large batch is taken a few samples at a time, so that what is in float32 on the way stays small.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, *statistics: Tensor
    ) -> Tensor:
        step = _samples_at_once(x)
        if x.shape[0] <= step:
            out, mean, rstd = _normalise(x, num_groups, weight, bias, eps, statistics or None)
        else:
            out = torch.empty_like(x)
            found = []
            for n in range(0, x.shape[0], step):
                part = slice(n, n + step)
                known = (statistics[0][part], statistics[1][part]) if statistics else None
                out[part], *of_groups = _normalise(x[part], num_groups, weight, bias, eps, known)
                found.append(of_groups)
            mean, rstd = (torch.cat(each) for each in zip(*found, strict=True))
        ctx.save_for_backward(x, weight, mean, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        step = _samples_at_once(x)
        if x.shape[0] <= step:
            grad_x, grad_weight, grad_bias = _gradients(grad, x, weight, mean, rstd, wanted)
        else:
            grad_x = torch.empty_like(x) if wanted else None
            sums = []
            for n in range(0, x.shape[0], step):
                part = slice(n, n + step)
                of_part, *of_affine = _gradients(grad[part], x[part], weight, mean[part], rstd[part], wanted)
                if grad_x is not None and of_part is not None:
                    grad_x[part] = of_part
                sums.append(of_affine)
                del of_part
            grad_weight, grad_bias = (torch.stack(each).sum(0) for each in zip(*sums, strict=True))
        return grad_x, None, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None, None


_VALUES_AT_ONCE = 1 << 25  # 128 MB of float32


def _samples_at_once(x: Tensor) -> int:
    return max(1, _VALUES_AT_ONCE // max(1, x.numel() // max(1, x.shape[0])))


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, wanted: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of x (None if not wanted), weight and bias; the last two in float32 or better."""
    # With x̂ the normalised input, g = grad · weight and means over the values of a group:
    #   dx = (g - mean(g) - x̂ · mean(g · x̂)) · rstd,   dweight = Σ grad · x̂,   dbias = Σ grad
    samples, channels = x.shape[:2]
    groups = mean.shape[1]
    shape = (samples, groups, channels // groups)
    spatial = list(range(2, x.dim()))
    values = shape[2] * math.prod(x.shape[2:])

    centred = at_least_float32(x) - _per_channel(mean, x)
    wide = at_least_float32(grad)
    product = centred * wide
    sum_grad = wide.sum(spatial).view(shape)
    sum_grad_hat = product.sum(spatial).view(shape) * rstd[:, :, None]
    grad_x = None
    if wanted:
        gamma = weight.to(centred.dtype).view(1, *shape[1:])
        mean_g = _per_channel((sum_grad * gamma).sum(2) / values * rstd, x)
        mean_g_hat = _per_channel((sum_grad_hat * gamma).sum(2) / values * rstd.square(), x)
        scale = _per_channel((rstd[:, :, None] * gamma).view(samples, channels), x)
        grad_x = torch.addcmul(-mean_g, centred, -mean_g_hat, out=product).addcmul_(wide, scale).to(x.dtype)
    return grad_x, sum_grad_hat.sum(0).view(channels), sum_grad.sum(0).view(channels)


class GroupNorm(nn.GroupNorm):
    """Group normalisation over (T, H, W) and the channels of a group, per sample; see :func:`group_norm`.

    Training and evaluation are the same, and no sample depends on another.

    Args:
        num_channels: channels C of the inputs (N, C, L), (N, C, H, W) or (N, C, T, H, W).
        num_groups: number of groups, which must divide C; 32 when neither this nor ``channels_per_group`` is given.
        channels_per_group: instead of ``num_groups``.
        eps: added to the variance.

    Raises:
        ValueError: arguments out of range, both ways of grouping, groups that do not divide C (names the allowed
            values), an input of another shape, an empty input, or (in training) one value per group: the output would
            be the bias, whatever the input. In evaluation such an input is let through.
    """

    name = "gn"

    def __init__(
        self,
        num_channels: int,
        num_groups: int | None = None,
        channels_per_group: int | None = None,
        eps: float = 1e-5,
    ) -> None:
        arguments = {"num_groups": num_groups, "channels_per_group": channels_per_group}
        check_arguments(self.name, {"num_channels": num_channels, "eps": eps} | arguments)
        key, divisor = "num_groups", num_groups or DEFAULT_GROUPS
        if channels_per_group is not None:
            key, divisor = "channels_per_group", channels_per_group
        if num_channels % divisor:
            allowed = ", ".join(str(i) for i in range(1, num_channels + 1) if num_channels % i == 0)
            raise ValueError(f"{num_channels} channels cannot be divided by {key}={divisor}; allowed {key}: {allowed}")
        super().__init__(divisor if key == "num_groups" else num_channels // divisor, num_channels, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        check_input(input, self.num_channels, self.name)
        if self.training and not torch.compiler.is_compiling():
            values = self.num_channels // self.num_groups * input.shape[2:].numel()
            if values == 1:
                raise ValueError(
                    f"{self.name}: expected more than 1 value per group when training, got an input of shape "
                    f"{tuple(input.shape)} and num_groups={self.num_groups}"
                )
        statistics = kept(lambda: group_statistics(input, self.num_groups, self.eps))
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps, statistics)


class LayerNorm(GroupNorm):
    """Group norm with one group: statistics over (C, T, H, W) per sample (Ba et al. 2016, arXiv 1607.06450).

    Weight and bias are per channel, as in the group norm paper. Arguments and errors are those of :class:`GroupNorm`.
    """

    name = "ln"

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__(num_channels, num_groups=1, eps=eps)


class InstanceNorm(GroupNorm):
    """Group norm with C groups: statistics over (T, H, W) per sample and channel (Ulyanov et al., arXiv 1607.08022).

    Arguments and errors are those of :class:`GroupNorm`.
    """

    name = "in"

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__(num_channels, channels_per_group=1, eps=eps)
