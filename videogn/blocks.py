"""Stem, bottleneck, residual block and head of the I3D ResNet.

pytorchvideo's classes, so that its parameter names hold, with a forward of their own in which norm + ReLU + convolution
is one unit: that unit is what the ``memory`` option recomputes in the backward pass.

Units are non-reentrant checkpoints: they keep their input and their norms' statistics, and the backward pass runs norm
and ReLU again. It ends there: a convolution or a pool at the end of a unit is not computed again.

The constructors here set the attributes themselves and do not call pytorchvideo's: those assign every local variable to
the object, ``__class__`` among them, which turns an instance of a subclass into one of the parent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

with warnings.catch_warnings():
    # fvcore, below pytorchvideo, scripts a loss on import, and torch warns of it: nothing that a user could act on.
    warnings.simplefilter("ignore", FutureWarning)
    from pytorchvideo.models.resnet import BottleneckBlock, ResBlock, ResStage
    from pytorchvideo.models.stem import ResNetBasicStem

from videogn.norms import BatchNorm, BatchRenorm, FrozenBatchNorm, KeptStatistics, SubBatchNorm

Norm = Callable[[int], nn.Module]
End = Callable[[Tensor], Tensor]
Conv = Callable[..., nn.Conv3d]
Memory = Literal["standard", "keep", "recompute", "low", "lowest"]
Triple = tuple[int, int, int]


class Stem(ResNetBasicStem):
    """Convolution, norm, ReLU, max-pool: (B, 3, T, H, W) -> (B, width, T', H/4, W/4).

    Args:
        width: output channels.
        frames: T of the convolution's kernel, odd.
        stride: temporal stride of both the convolution and the pool.
        norm: channels -> norm layer.
        conv: the convolution's class.
        memory: see :func:`videogn.i3d_resnet`.
    """

    def __init__(self, width: int, frames: int, stride: int, *, norm: Norm, conv: Conv, memory: Memory) -> None:
        # The pool covers 3 frames only where it also strides over them.
        pool_frames = 3 if stride == 2 else 1
        nn.Module.__init__(self)
        self.conv = conv(3, width, (frames, 7, 7), stride=(stride, 2, 2), padding=(frames // 2, 3, 3), bias=False)
        self.norm = norm(width)
        self.activation = nn.ReLU(inplace=True)
        self.pool = MaxPool((pool_frames, 3, 3), stride=(stride, 2, 2), padding=(pool_frames // 2, 1, 1))
        self.memory = memory

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        unit = _recomputed if recomputes(self, x) != "keep" else _plainly
        return unit(_norm_relu_then, self.norm, self.activation, self.pool, x)


class Bottleneck(BottleneckBlock):
    """Tx1x1, 1x3x3 and 1x1x1 convolutions with their norms; the last norm is not followed by a ReLU.

    What the backward pass recomputes: see :func:`videogn.i3d_resnet`.

    Args:
        dim_in: input channels.
        dim_inner: channels of the first two convolutions.
        dim_out: output channels.
        temporal_kernel: T of the first convolution, odd.
        spatial_stride: stride of the 1x3x3 convolution.
        norm: channels -> norm layer.
        conv: the convolutions' class.
        memory: see :func:`videogn.i3d_resnet`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_inner: int,
        dim_out: int,
        *,
        temporal_kernel: int,
        spatial_stride: int,
        norm: Norm,
        conv: Conv,
        memory: Memory,
    ) -> None:
        t, s = temporal_kernel, spatial_stride
        nn.Module.__init__(self)
        self.conv_a = conv(dim_in, dim_inner, (t, 1, 1), padding=(t // 2, 0, 0), bias=False)
        self.norm_a = norm(dim_inner)
        self.act_a = nn.ReLU(inplace=True)
        self.conv_b = conv(dim_inner, dim_inner, (1, 3, 3), stride=(1, s, s), padding=(0, 1, 1), bias=False)
        self.norm_b = norm(dim_inner)
        self.act_b = nn.ReLU(inplace=True)
        self.conv_c = conv(dim_inner, dim_out, 1, bias=False)
        self.norm_c = norm(dim_out)
        self.memory = memory

    def forward(self, x: Tensor, end: End | None = None) -> Tensor:
        """The output of the last norm, or what ``end`` makes of it, as a part of the last norm's unit."""
        mode = recomputes(self, x)
        unit = _recomputed if mode in ("recompute", "low") else _plainly
        x = self.conv_a(x)
        x = unit(_norm_relu_then, self.norm_a, self.act_a, self.conv_b, x)
        if mode == "low":
            return unit(self._last, x, end)
        x = unit(_norm_relu_then, self.norm_b, self.act_b, self.conv_c, x)
        return self.norm_c(x) if end is None else unit(self._end, x, end)

    def _last(self, x: Tensor, end: End | None) -> Tensor:
        x = self.norm_c(self.conv_c(self.act_b(self.norm_b(x))))
        return x if end is None else end(x)

    def _end(self, x: Tensor, end: End) -> Tensor:
        return end(self.norm_c(x))


class ResidualBlock(ResBlock):
    """ReLU(shortcut(x) + bottleneck(x)); the shortcut is a strided 1x1x1 convolution with norm where shapes change.

    Args:
        dim_in: input channels.
        dim_inner: channels inside the bottleneck.
        dim_out: output channels.
        temporal_kernel: T of the bottleneck's first convolution, odd.
        spatial_stride: spatial stride of the block.
        norm: channels -> norm layer.
        conv: the convolutions' class.
        memory: see :func:`videogn.i3d_resnet`.
        zero_init_last_norm: start the bottleneck's last gamma at zero, so that the block starts as its shortcut
            (Wu & He, section 4.1, after Goyal et al. 2017).
    """

    def __init__(
        self,
        dim_in: int,
        dim_inner: int,
        dim_out: int,
        *,
        temporal_kernel: int,
        spatial_stride: int,
        norm: Norm,
        conv: Conv,
        memory: Memory,
        zero_init_last_norm: bool,
    ) -> None:
        shortcut = dim_in != dim_out or spatial_stride != 1
        stride = (1, spatial_stride, spatial_stride)
        nn.Module.__init__(self)
        self.branch1_conv = conv(dim_in, dim_out, 1, stride=stride, bias=False) if shortcut else None
        self.branch1_norm = norm(dim_out) if shortcut else None
        bottleneck = Bottleneck(
            dim_in,
            dim_inner,
            dim_out,
            temporal_kernel=temporal_kernel,
            spatial_stride=spatial_stride,
            norm=norm,
            conv=conv,
            memory=memory,
        )
        self.branch2 = bottleneck
        self.activation = nn.ReLU(inplace=True)
        self.memory = memory
        if zero_init_last_norm:
            gamma = getattr(bottleneck.norm_c, "weight", None)
            if gamma is None:
                raise ValueError(f"{bottleneck.norm_c} has no weight that could start at zero; use an affine norm")
            nn.init.zeros_(gamma)

    def forward(self, x: Tensor, pool: nn.Module | None = None) -> Tensor:
        """The block's output; with ``pool`` that of the pool behind it, which then is in one unit with the ReLU."""
        unit = _recomputed if recomputes(self, x) == "lowest" else _plainly
        return unit(self._block, x, pool)

    def _block(self, x: Tensor, pool: nn.Module | None) -> Tensor:
        shortcut = x
        if self.branch1_conv is not None and self.branch1_norm is not None:
            shortcut = self.branch1_norm(self.branch1_conv(x))
        if pool is None:
            return self.activation(shortcut + self.branch2(x))
        return self.branch2(x, lambda y: pool(self.activation(shortcut + y)))


class Stage(ResStage):
    """Residual blocks one after another."""

    def forward(self, x: Tensor, pool: nn.Module | None = None) -> Tensor:
        """The last block's output, or that of ``pool`` behind it: see :class:`ResidualBlock`."""
        *blocks, last = self.res_blocks
        for block in blocks:
            x = block(x)
        return last(x, pool)


class MaxPool(nn.MaxPool3d):
    """Max-pool whose backward pass finds the maxima again: torch's keeps an int64 index per output value."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        return _MaxPool.apply(input, self.kernel_size, self.stride, self.padding)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel_size: Triple, stride: Triple, padding: Triple) -> Tensor:
        ctx.save_for_backward(x)
        ctx.window = (kernel_size, stride, padding, (1, 1, 1), False)
        return torch.ops.aten.max_pool3d_with_indices(x, *ctx.window)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        indices = torch.ops.aten.max_pool3d_with_indices(x, *ctx.window)[1]
        return torch.ops.aten.max_pool3d_with_indices_backward(grad, x, *ctx.window, indices), None, None, None


class Head(nn.Module):
    """Global average over T, H, W, then dropout, then a linear classifier: (B, C, T, H, W) -> (B, num_classes)."""

    def __init__(self, dim_in: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(dim_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        # A mean, not AdaptiveAvgPool3d: that one has no deterministic backward on CUDA. With the channels moved last,
        # the gradient is channels-last too.
        return self.proj(self.dropout(x.movedim(1, 4).mean(dim=(1, 2, 3))))


def recomputes(module: nn.Module, x: Tensor) -> Memory:
    """What ``module.memory`` says of this pass over ``x``: ``"keep"``, ``"recompute"``, ``"low"`` or ``"lowest"``.

    ``"standard"`` is ``"recompute"`` on a CUDA device and ``"keep"`` elsewhere. Without a backward pass to come, and
    while compiling (a compiler decides itself what it keeps), everything is ``"keep"``; so it is with layers that move
    running statistics in each of their passes, such as SyncBatchNorm.
    """
    memory: Memory = module.memory  # type: ignore[assignment]
    if memory == "standard":
        memory = "recompute" if x.device.type == "cuda" else "keep"
    if memory == "keep" or not (module.training and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return "keep"
    if not (x.requires_grad or any(p.requires_grad for p in module.parameters())):
        return "keep"
    return memory if all(_can_run_again(m) for m in module.modules()) else "keep"


def _can_run_again(layer: nn.Module) -> bool:
    ours = isinstance(layer, BatchNorm | BatchRenorm | SubBatchNorm | FrozenBatchNorm)
    return ours or not isinstance(layer, _NormBase)


def _norm_relu_then(norm: nn.Module, activation: nn.Module, after: nn.Module, x: Tensor) -> Tensor:
    return after(activation(norm(x)))


def _plainly(function: Callable[..., Tensor], *args: object) -> Tensor:
    return function(*args)


def _recomputed(function: Callable[..., Tensor], *args: object) -> Tensor:
    """``function(*args)``, whose inner activations are dropped and computed again in backward."""
    statistics = KeptStatistics()
    result = checkpoint(
        function,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing inside is random
        context_fn=lambda: (statistics.first, statistics.again),
    )
    assert isinstance(result, Tensor)
    return result
