"""The 3D convolution of a small batch on a CPU, at the speed that it has for a large one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """``nn.Conv3d`` without two faults of torch's CPU kernels; same arguments, keys and results.

    One clip is as fast as its share of a batch. torch decides between oneDNN and a slow kernel of its own, which also
    returns another memory format, by rules made for pictures: it takes the slow one for a single sample unless
    N · C · T · H exceeds 20480 (the width is left out), and for 1x1 kernels on a single thread below 16 samples.
    Kernels that cover one frame, or one place, are 2D convolutions of a view of the same memory, to which these rules
    do not apply.

    The weight's gradient is right for few frames and small ones. In bfloat16 and float16 oneDNN adds memory that nobody
    has written to it, or writes beyond its own, where the kernel is longer than the input in T, H or W; zeros, added
    before, prevent that.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding, dilation = self.stride, self.padding, self.dilation
        if (
            torch.compiler.is_compiling()
            or not input.is_cpu
            or input.dim() != 5
            or self.padding_mode != "zeros"
            or isinstance(padding, str)
            or max(dilation) > 1
        ):
            return super()._conv_forward(input, weight, bias)
        sizes = zip(padding, input.shape[2:], weight.shape[2:], strict=True)
        t, h, w = (pad if size < kernel else 0 for pad, size, kernel in sizes)
        if (t or h or w) and _is_low_precision(input):
            input = F.pad(input, (w, w, h, h, t, t))
            rest = (padding[0] - t, padding[1] - h, padding[2] - w)
            return F.conv3d(input, weight, bias, stride, rest, dilation, self.groups)
        if not _takes_slow_kernel(input):
            return super()._conv_forward(input, weight, bias)
        kernel = weight.shape[2:]
        # A dilation changes nothing about a kernel of width 1, but rules out the slow kernel.
        dilated = (1, 2 if kernel[2] == 1 else 1)
        # Views whose gradients have the strides of the parameter, which DDP and fused optimisers want.
        flat = weight.flatten(1)[:, :, None, None] if kernel.numel() == 1 else weight
        pixels = input.movedim(1, 4)  # contiguous: in this order views have the strides that torch's kernels look at
        if kernel[0] == 1 and (stride[0], padding[0]) == (1, 0):  # frame by frame
            frames = pixels.flatten(0, 1).movedim(3, 1)
            out = F.conv2d(
                frames, flat.view(*weight.shape[:2], *kernel[1:]), bias, stride[1:], padding[1:], dilated, self.groups
            )
            return out.movedim(1, 3).unflatten(0, pixels.shape[:2]).movedim(4, 1)
        if kernel[1:] == (1, 1) and (*stride[1:], *padding[1:]) == (1, 1, 0, 0):  # place by place
            lines = pixels.flatten(2, 3).movedim(3, 1)
            line = (stride[0], 1), (padding[0], 0)
            out = F.conv2d(lines, flat.view(*weight.shape[:2], kernel[0], 1), bias, *line, dilated, self.groups)
            return out.movedim(1, 3).unflatten(2, input.shape[3:]).movedim(4, 1)
        return super()._conv_forward(input, weight, bias)


def _is_low_precision(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")


def _takes_slow_kernel(x: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and (x.shape[0] == 1 or (x.shape[0] < 16 and torch.get_num_threads() == 1))
        and x.is_contiguous(memory_format=torch.channels_last_3d)
    )
