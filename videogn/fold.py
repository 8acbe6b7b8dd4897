"""Layers that a trained network no longer needs: norms with fixed statistics become part of the convolution before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from videogn.blocks import Bottleneck, ResidualBlock, Stem
from videogn.norms import (
    BatchNorm,
    BatchRenorm,
    Conv3d,
    FrozenBatchNorm,
    SubBatchNorm,
    WSConv3d,
    standardize_weight,
)

# Which norm follows which convolution, by the blocks' own forward passes.
_PAIRS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    Stem: (("conv", "norm"),),
    Bottleneck: (("conv_a", "norm_a"), ("conv_b", "norm_b"), ("conv_c", "norm_c")),
    ResidualBlock: (("branch1_conv", "branch1_norm"),),
}
# In evaluation each of these is a scale and a shift per channel. Exact types: a subclass may compute something else.
_FIXED = (BatchNorm, BatchRenorm, FrozenBatchNorm, SubBatchNorm, nn.BatchNorm3d, nn.SyncBatchNorm)


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> int:
    """Folds every batch norm of an I3D into the convolution before it, in place, for inference.

    With s = gamma / sqrt(running_var + eps) per output channel the convolution gets

        weight := s · weight,   bias := beta + s · (bias - running_mean)

    and the norm becomes ``nn.Identity``; computed in float64, rounded once to the weight's dtype. bn, brn, sub_bn and
    frozen_bn fold. gn, ln and in compute their statistics from the input and stay, but weights that are standardised in
    every forward pass (gn_ws) are replaced by their standardised values. The network's state dict changes: it is no
    longer a checkpoint to train from.

    (Jacob et al. 2018, arXiv 1712.05877, section 3.2, equation 14, without its quantisation.)

    Args:
        network: an :class:`videogn.i3d.I3DResNet`, or any module that holds its blocks, in evaluation mode.

    Returns:
        The number of norm layers that were folded.

    Raises:
        ValueError: a module is in training mode, where batch statistics are not fixed.
    """
    training = next((name for name, module in network.named_modules() if module.training), None)
    if training is not None:
        raise ValueError(
            f"fold_batch_norm needs a network in evaluation mode; found {training or 'it'!r} in training: call eval()"
        )
    folded = 0
    for block in network.modules():
        for conv_name, norm_name in _PAIRS.get(type(block), ()):
            conv, norm = getattr(block, conv_name), getattr(block, norm_name)
            if type(conv) not in (Conv3d, WSConv3d):
                continue
            # Standardised as in the forward pass, in the weight's own dtype: that is what the network computes.
            weight = standardize_weight(conv.weight) if type(conv) is WSConv3d else conv.weight
            bias = conv.bias
            if type(norm) in _FIXED and norm.running_mean is not None:
                weight, bias = _folded(weight, bias, norm)
                setattr(block, norm_name, nn.Identity().eval())
                folded += 1
            elif weight is conv.weight:
                continue
            setattr(block, conv_name, _plain(conv, weight, bias))
    return folded


def _folded(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt()
    shift = -mean if bias is None else bias.double() - mean
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    scaled = weight.double() * scale.view(-1, 1, 1, 1, 1)
    return scaled.to(weight.dtype), shift.to(weight.dtype)


def _plain(conv: Conv3d, weight: Tensor, bias: Tensor | None) -> Conv3d:
    """A convolution like ``conv`` with other parameters, which train no more."""
    with torch.device("meta"):
        new = Conv3d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=bias is not None,
            padding_mode=conv.padding_mode,
        )
    new.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(bias, requires_grad=False)
    return new.eval()
