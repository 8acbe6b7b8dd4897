"""Weight standardisation (Qiao et al. 2019, arXiv 1903.10520, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .common import at_least_float32
from .convolution import Conv3d

WS_EPS = 1e-5


def standardize_weight(weight: Tensor) -> Tensor:
    """(W - mean) / (std + 1e-5), mean and std over each output filter, for a weight (out, in / groups, kernel...).

    As in the authors' code, std has Bessel's correction and the constant is added to std, not to the variance. Computed
    in float32 or better and returned in the dtype of ``weight``. A constant filter gives zeros and zero gradients.
    """
    dims = list(range(1, weight.dim()))
    wide = at_least_float32(weight)
    centred = wide - wide.mean(dims, keepdim=True)
    variance = centred.square().sum(dims, keepdim=True) / (weight[0].numel() - 1)
    # The floor, far below what is added, spares a constant filter the infinite slope of the square root at 0.
    std = variance.clamp_min(1e-30).sqrt()
    return (centred / (std + WS_EPS)).to(weight.dtype)


class _Standardized(nn.modules.conv._ConvNd):
    """Mixin for ``nn.Conv*d``: convolves with the standardised weight; the parameter ``weight`` is the raw one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_filter(self, type(self).__name__)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, standardize_weight(self.weight), self.bias)


class WSConv1d(_Standardized, nn.Conv1d):
    """``nn.Conv1d`` with weight standardisation; see :class:`WSConv3d`."""


class WSConv2d(_Standardized, nn.Conv2d):
    """``nn.Conv2d`` with weight standardisation; see :class:`WSConv3d`."""


class WSConv3d(_Standardized, Conv3d):
    """``nn.Conv3d`` whose weight is standardised per output filter in every forward pass; same arguments and keys.

    See :func:`standardize_weight` for the formula. ValueError for filters of a single weight.
    """


_TWINS: tuple[tuple[Any, Any], ...] = (
    (nn.Conv1d, WSConv1d),
    (nn.Conv2d, WSConv2d),
    (Conv3d, WSConv3d),
    (nn.Conv3d, WSConv3d),
)


def standardize_conv(conv: Any) -> nn.Module:
    """The weight-standardised twin of an ``nn.Conv1d``, ``2d`` or ``3d``; it holds the same parameters, not copies.

    A convolution that is standardised already is returned as it is.

    Raises:
        ValueError: not such a convolution, one of a subclass that computes something else, or filters of one weight.
    """
    if isinstance(conv, _Standardized):
        return conv
    pair = next((pair for pair in _TWINS if isinstance(conv, pair[0])), None)
    if pair is None:
        raise ValueError(f"weight standardisation needs nn.Conv1d, nn.Conv2d or nn.Conv3d, got {type(conv).__name__}")
    plain, twin = pair
    if type(conv).forward is not plain.forward or type(conv)._conv_forward is not plain._conv_forward:
        raise ValueError(f"{type(conv).__name__} computes something else than {plain.__name__}: cannot standardise it")
    with torch.device("meta"):
        new = twin(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
        )
    new.weight, new.bias = conv.weight, conv.bias
    return new.train(conv.training)


def _check_filter(conv: Any, name: str) -> None:
    if conv.weight[0].numel() == 1:
        raise ValueError(
            f"{name}: {conv.in_channels} channels in {conv.groups} groups and kernel {conv.kernel_size} make filters "
            "of one weight, which standardise to zero"
        )
