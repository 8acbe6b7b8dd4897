"""What a network costs: parameters and multiply-adds, counted without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Size of a network and of one forward pass.

    Attributes:
        parameters: number of parameters, frozen ones included.
        multiply_adds: multiply-adds of convolutions and matrix products for one clip.
    """

    parameters: int
    multiply_adds: int


def count_cost(network: nn.Module, frames: int, size: int) -> Cost:
    """Cost of a network that takes clips (1, 3, frames, size, size).

    Runs on the meta device: no memory is used for activations and the network itself is not touched.
    """
    parameters = sum(p.numel() for p in network.parameters())
    meta = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(torch.empty(1, 3, frames, size, size, device="meta"))
    return Cost(parameters=parameters, multiply_adds=counter.get_total_flops() // 2)


def cost_line(hparams: Mapping[str, Any], cost: Cost, frames: int, size: int) -> str:
    """A network and its cost in words.

    Args:
        hparams: of a ``VideoClassifier``.
        cost: counted at clips of the next two.
        frames: per clip.
        size: height and width in pixels.
    """
    norm = hparams["norm"] + (f" {hparams['norm_kwargs']}" if hparams["norm_kwargs"] else "")
    return (
        f"I3D ResNet-{hparams['depth']} {hparams['variant']}, norm {norm}: {cost.parameters / 1e6:.2f} M parameters, "
        f"{cost.multiply_adds / 1e9:.2f} G multiply-adds per clip of {frames}x{size}x{size}"
    )
