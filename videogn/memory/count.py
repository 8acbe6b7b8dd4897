"""Bytes that a training step keeps and the most that it holds at once, counted with fake tensors.

Every operation of the forward pass, of the backward pass and of the optimiser runs on tensors that have a shape, a
dtype and a device, but no values. The bytes of all storages that are alive are read after each. They are linear in the
number of clips at every moment, so that two batches give all others exactly.

Not counted: what an operation allocates and frees inside itself (cuDNN's workspaces), the rounding and fragmentation of
torch's allocator, the CUDA context with its loaded kernels, and the communication of several processes (DDP's gradient
buckets).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from videogn.norms import SubBatchNorm

from .step import MakeOptimizer, StepMemory, Steps, fake_clips, fake_network, forward

# The product of the I3D's temporal strides: bytes are linear in the number of frames from one multiple to the next.
_FRAMES_STEP = 8


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes that depend on the number of clips: ``fixed + per_clip * clips``.

    Attributes:
        fixed: whatever the batch; of saved activations, autocast's copies of the convolutions' weights.
        per_clip: of every clip more.
    """

    fixed: int
    per_clip: int

    def at(self, clips: int) -> int:
        """Bytes of ``clips`` clips."""
        return self.fixed + self.per_clip * clips


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step for any number of clips.

    Attributes:
        parameters: see :class:`StepMemory`.
        gradients: see :class:`StepMemory`.
        optimizer: see :class:`StepMemory`.
        saved: see :class:`StepMemory`.
        moments: bytes alive at the moments which can be the peak.
        multiple: batches must be multiples of it (sub_bn's splits).
    """

    parameters: int
    gradients: int
    optimizer: int
    saved: ActivationMemory
    moments: tuple[ActivationMemory, ...]
    multiple: int = 1

    def peak(self, clips: int) -> int:
        """The most bytes that a step with ``clips`` clips holds at once."""
        return max(moment.at(clips) for moment in self.moments)

    def largest_batch(self, memory: int) -> int:
        """Clips of the largest batch whose peak is at most ``memory`` bytes; 0 if there is none."""
        clips = _largest(self.moments, memory)
        return clips - clips % self.multiple


def count_activations(
    network: nn.Module, frames: int, size: int, *, device: str = "cuda", dtype: torch.dtype | None = torch.bfloat16
) -> ActivationMemory:
    """Bytes that the forward pass keeps for the backward pass: de-duplicated by storage, checkpoints' inputs included.

    Args:
        network: takes clips (B, 3, frames, size, size). Neither it nor its device nor any random generator is touched.
        frames: per clip.
        size: height and width in pixels.
        device: ``"cuda"``, which need not be there, or ``"cpu"``; ``"meta"`` is the CPU without autocast, and faster.
        dtype: of autocast; None turns it off.

    Raises:
        ValueError: what the network raises on such clips.
    """
    unit = _batch_multiple(network)
    with fake_network(network, device) as (fake, live):
        low, high = (forward(fake, live, fake_clips(n * unit, frames, size, device), dtype)[1] for n in (2, 3))
    return _line(low, high, 2 * unit, 3 * unit)


def count_batch(
    network: nn.Module,
    clips: int,
    frames: int,
    size: int,
    *,
    device: str = "cuda",
    dtype: torch.dtype | None = torch.bfloat16,
    optimizer: MakeOptimizer | None = None,
    accumulated: bool = False,
) -> tuple[StepMemory, ActivationMemory]:
    """Bytes of one training step in the order of Lightning: forward, old gradients away, backward, optimiser.

    Also returns what the forward pass keeps for any number of clips; it is half the work of :func:`count_training`.

    The loss is the sum of the logits: a cross entropy's own tensors are a few numbers per class and clip.

    Args:
        network: see :func:`count_activations`, as for ``frames``, ``size``, ``device`` and ``dtype``.
        clips: of the batch.
        frames: per clip.
        size: height and width in pixels.
        device: ``"cuda"`` or ``"cpu"``.
        dtype: of autocast.
        optimizer: makes the optimiser of a network; None counts none.
        accumulated: the batch is not the first of an optimiser step: gradients stay during its backward pass.
    """
    with fake_network(network, device) as (fake, live):
        step = Steps(fake, live, optimizer, accumulated, dtype).count(clips, frames, size)
        more = clips + _batch_multiple(network)
        saved = forward(fake, live, fake_clips(more, frames, size, device), dtype)[1]
    return step, _line(step.saved, saved, clips, more)


def count_training(
    network: nn.Module,
    frames: int,
    size: int,
    *,
    device: str = "cuda",
    dtype: torch.dtype | None = torch.bfloat16,
    optimizer: MakeOptimizer | None = None,
    accumulated: bool = False,
) -> TrainingMemory:
    """The memory of training steps with any number of clips; arguments as in :func:`count_batch`."""
    unit = _batch_multiple(network)
    with fake_network(network, device) as (fake, live):
        steps = Steps(fake, live, optimizer, accumulated, dtype)
        low, high = steps.count(2 * unit, frames, size), steps.count(3 * unit, frames, size)
    return TrainingMemory(
        low.parameters,
        low.gradients,
        low.optimizer,
        _line(low.saved, high.saved, 2 * unit, 3 * unit),
        _moments(low, high, 2 * unit, 3 * unit),
        unit,
    )


def count_longest_clip(
    network: nn.Module,
    clips: int,
    size: int,
    memory: int,
    *,
    device: str = "cuda",
    dtype: torch.dtype | None = torch.bfloat16,
    optimizer: MakeOptimizer | None = None,
    accumulated: bool = False,
) -> int:
    """Frames of the longest clips, in multiples of 8, of which a batch of ``clips`` fits in ``memory`` bytes.

    Other arguments as in :func:`count_batch`. 0 if there is none.
    """
    low, high = 2 * _FRAMES_STEP, 3 * _FRAMES_STEP
    with fake_network(network, device) as (fake, live):
        steps = Steps(fake, live, optimizer, accumulated, dtype)
        moments = _moments(steps.count(clips, low, size), steps.count(clips, high, size), low, high)
    frames = _largest(moments, memory)
    return frames - frames % _FRAMES_STEP


def _batch_multiple(network: nn.Module) -> int:
    splits = [m.num_splits or m.split_size or 1 for m in network.modules() if isinstance(m, SubBatchNorm)]
    return math.lcm(*splits)


def _line(low: int, high: int, n_low: int, n_high: int) -> ActivationMemory:
    """The line through two points."""
    slope = -((low - high) // (n_high - n_low))
    return ActivationMemory(low - slope * n_low, slope)


def _moments(low: StepMemory, high: StepMemory, n_low: int, n_high: int) -> tuple[ActivationMemory, ...]:
    """Lines of the moments that can be the peak for some number of clips (or frames, where that differs)."""
    points = [(low.peak, high.peak)]
    if len(low.trace) == len(high.trace):  # else the number of operations depends on the batch (sub_bn's split_size)
        points = list(zip(low.trace, high.trace, strict=True))
    lines = {_line(a, b, n_low, n_high) for a, b in points}
    highest: list[ActivationMemory] = []
    for line in sorted(lines, key=lambda line: (line.per_clip, line.fixed), reverse=True):
        if not highest or line.fixed > highest[-1].fixed:
            highest.append(line)
    return tuple(highest)


def _largest(moments: Sequence[ActivationMemory], memory: int) -> int:
    """The largest number of clips (or frames) at which no moment takes more than ``memory`` bytes."""
    if any(moment.fixed > memory for moment in moments):
        return 0
    return max(0, min((memory - moment.fixed) // moment.per_clip for moment in moments if moment.per_clip > 0))
