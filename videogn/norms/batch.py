"""Batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167, algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _NormBase

from .common import at_least_float32, check_arguments, check_input, memory_format_of
from .kept import kept


class BatchNorm(nn.BatchNorm3d):
    """torch's batch norm for inputs with one, two or three spatial dimensions.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    In training, mean and biased var are those of the batch, over (N, T, H, W) per channel, and the running pair moves
    towards the batch's mean and unbiased variance by ``momentum``; in evaluation they are the running pair. With
    ``track_running_stats`` set to False in training nothing is updated, so that a forward pass can be repeated.

    Args:
        num_features: channels C of the inputs (N, C, L), (N, C, H, W) or (N, C, T, H, W).
        eps: added to the variance.
        momentum: weight of the new batch in the running pair; None averages over all batches.

    Being an ``nn.BatchNorm3d``, it is converted by ``nn.SyncBatchNorm.convert_sync_batchnorm``.

    Raises:
        ValueError: an argument out of range, an input of another shape, an empty input, or (in training) an input
            with one value per channel.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        check_arguments("bn", {"num_features": num_features, "eps": eps, "momentum": momentum})
        super().__init__(num_features, eps=eps, momentum=momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        check_input(input, self.num_features, "bn")
        if self.training:
            check_batch(input, input.shape[0], "bn")

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            statistics = kept(lambda: self._batch_statistics(input))
            if statistics is not None:
                mean, var = statistics
                return normalise_with_batch(input, mean, var, self.weight, self.bias, self.eps)
        if at_least_float32(self.weight) is self.weight:
            return super().forward(input)
        # A layer converted to half precision: torch's CPU kernel would keep the batch's statistics in half precision.
        self._check_input_dim(input)
        mean, var = map(at_least_float32, running_pair(self))
        update = self.training and self.track_running_stats
        factor = advance(self) if update else 0.0
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        out = F.batch_norm(input, mean, var, weight, bias, self.training, factor, self.eps)
        if update:
            for running, new in zip(running_pair(self), (mean, var), strict=True):
                running.copy_(new)
        return out

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check_input_dim(x)
        mean, var = batch_moments(x)
        if self.track_running_stats:
            update_running(self, mean, var, x.numel() // x.shape[1])
        return mean, var


@torch.library.custom_op("videogn::batch_moments", mutates_args=())
def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of (N, C, ...), in float32 or better: two tensors (C,).

    Those of torch's batch norm, in one pass over ``x``.
    """
    unused = x.new_empty(x.shape[1], dtype=at_least_float32(x.new_empty(0)).dtype)
    mean, var = torch.ops.aten.batch_norm_update_stats(x, unused, unused.clone(), 0.0)
    return mean, var


@batch_moments.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.new_empty(x.shape[1], dtype=at_least_float32(x.new_empty(0)).dtype)
    return mean, torch.empty_like(mean)


def normalise_with_batch(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Batch norm whose batch statistics are known: (x - mean) / sqrt(var + eps) * weight + bias.

    Args:
        x: (N, C, spatial...).
        mean: of every channel of ``x``, (C,), in float32 or better.
        var: biased variances of the channels, likewise.
        weight: (C,).
        bias: (C,).
        eps: added to the variance.

    Returns:
        The output in the dtype and the memory format of ``x``. The gradient of ``x`` counts that the statistics are
        its own. Differentiable once.
    """
    return _WithBatchStatistics.apply(x, mean, var, at_least_float32(weight), at_least_float32(bias), eps)


class _WithBatchStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, mean, var, weight)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, var, weight = ctx.saved_tensors
        needed = [ctx.needs_input_grad[i] for i in (0, 3, 4)]
        rstd = (var + ctx.eps).rsqrt()
        grad = grad.contiguous(memory_format=memory_format_of(x))  # of strided ones the kernel's sums are less exact
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, rstd, True, ctx.eps, needed
        )
        return grad_x, None, None, grad_weight, grad_bias, None


def running_pair(layer: _NormBase) -> tuple[Tensor, Tensor]:
    """The running mean and variance of a layer that has them: buffers of shape (C,)."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def advance(layer: _NormBase) -> float:
    """Counts one more batch in ``num_batches_tracked`` and returns that batch's weight in the running pair."""
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    return 1.0 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum


@torch.no_grad()
def update_running(layer: _NormBase, mean: Tensor, var: Tensor, count: int) -> None:
    """Moves the running pair of ``layer`` towards a batch's mean and biased var, each (C,), over ``count`` values.

    As in torch's batch norm, the variance goes in with Bessel's correction.
    """
    factor = advance(layer)
    for running, batch in zip(running_pair(layer), (mean, var * (count / (count - 1))), strict=True):
        running.copy_(at_least_float32(running) * (1 - factor) + batch * factor)


def normalise_with_running(layer: _NormBase, x: Tensor) -> Tensor:
    """``x`` normalised with the running pair of ``layer``, in its own dtype and memory format."""
    mean, var = map(at_least_float32, running_pair(layer))
    weight, bias = at_least_float32(layer.weight), at_least_float32(layer.bias)
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=layer.eps)


def check_batch(x: Tensor, batch: int, layer: str) -> None:
    """Raises ValueError when ``batch`` samples of ``x`` give one value per channel: a variance needs two."""
    if not torch.compiler.is_compiling() and batch * x.shape[2:].numel() == 1:
        raise ValueError(
            f"{layer}: expected more than 1 value per channel when training, got an input of shape {tuple(x.shape)}"
            + (f" in splits of {batch}" if batch != x.shape[0] else "")
        )
