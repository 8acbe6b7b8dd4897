"""The sizes that the GPU suite measures, and the tiny ones with which it is tested on a CPU."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from videogn.blocks import Memory, Norm
from videogn.i3d import I3DResNet, i3d_resnet

MEMORY_OPTIONS: tuple[str, ...] = get_args(Memory)
KEEP = "keep" if "keep" in MEMORY_OPTIONS else "standard"
"""The memory option that computes nothing twice: what plain BN and nn.GroupNorm are measured with."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long one timing takes.

    Attributes:
        norm_shapes: (N, C, T, H, W) of the layers that are checked; N even, for sub_bn.
        width: channels of the measured network's stem.
        groups: of the group norms.
        check_width: of the network whose memory options are compared.
        check_clips: (N, 3, T, H, W) of that comparison.
        site_frames: T of the clip whose norm sites are timed.
        site_size: H and W of it.
        site_batches: clips per batch there.
        step_frames: T of the training clips, the first one first.
        step_size: H and W of them.
        step_batches: in the order of their importance.
        eval_clip: (T, H, W).
        eval_batches: clips per batch.
        target_ms: how long the repetitions of one site timing take together.
        rounds: of interleaved timings, at least and at most; they end once ``round_seconds`` are over.
        round_seconds: see there.
    """

    device: torch.device
    norm_shapes: tuple[tuple[int, ...], ...]
    width: int
    groups: int
    check_width: int
    check_clips: tuple[int, ...]
    site_frames: int
    site_size: int
    site_batches: tuple[int, ...]
    step_frames: tuple[int, ...]
    step_size: int
    step_batches: tuple[int, ...]
    eval_clip: tuple[int, int, int]
    eval_batches: tuple[int, ...]
    target_ms: float
    rounds: tuple[int, int]
    round_seconds: float

    def network(self, norm: str, memory: Any, dropout: float = 0.5, check: bool = False) -> I3DResNet:
        """The 8x8 I3D ResNet-50, or with ``check`` the narrow one; norm ``torch_gn`` is plain ``nn.GroupNorm``."""
        groups, width = (4, self.check_width) if check else (self.groups, self.width)
        make: str | Norm = (lambda channels: nn.GroupNorm(groups, channels)) if norm == "torch_gn" else norm
        kwargs = {"num_groups": groups} if norm == "gn" else None
        return i3d_resnet(variant="8x8", norm=make, norm_kwargs=kwargs, dropout=dropout, width=width, memory=memory)

    def no_compiler(self) -> str | None:
        """Why nothing is compiled here, or None if it is."""
        if self.device.type != "cuda":
            return "torch.compile is measured on CUDA alone"
        return None if importlib.util.find_spec("triton") else "torch.compile needs triton, which is not installed"


def full_plan(device: torch.device) -> Plan:
    """The sizes of the experiment: I3D-R50 8x8 on 224x224 clips for training and 256x256 for evaluation."""
    return Plan(
        device=device,
        # An odd one, one with many channels on few positions, and the stem's site of two 32-frame clips.
        norm_shapes=((4, 64, 3, 5, 7), (2, 2048, 4, 7, 7), (2, 64, 32, 112, 112)),
        width=64,
        groups=32,
        check_width=16,
        check_clips=(2, 3, 8, 64, 64),
        site_frames=32,
        site_size=224,
        site_batches=(8, 1),
        step_frames=(32, 64),
        step_size=224,
        step_batches=(1, 8, 2, 4),
        eval_clip=(32, 256, 256),
        eval_batches=(10, 1),
        target_ms=20.0,
        rounds=(3, 10),
        round_seconds=3.0,
    )


def tiny_plan(device: torch.device) -> Plan:
    """The same paths in seconds on one CPU core."""
    return Plan(
        device=device,
        norm_shapes=((2, 64, 2, 3, 5),),
        width=8,
        groups=4,
        check_width=8,
        check_clips=(2, 3, 4, 32, 32),
        site_frames=4,
        site_size=32,
        site_batches=(2, 1),
        step_frames=(4,),
        step_size=32,
        step_batches=(2,),
        eval_clip=(4, 32, 32),
        eval_batches=(2, 1),
        target_ms=0.5,
        rounds=(1, 1),
        round_seconds=0.0,
    )
