"""Bytes that a training step keeps and the most that it holds at once, counted with fake tensors.

Every operation of the forward pass, of the backward pass and of the optimiser runs on tensors that have a shape, a
dtype and a device, but no values. The bytes of all storages that are alive are read after each. They are linear in the
number of clips at every moment, so that two batches give all others exactly.

Not counted: what an operation allocates and frees inside itself (cuDNN's workspaces), the rounding and fragmentation of
torch's allocator, the CUDA context with its loaded kernels, and the communication of several processes (DDP's gradient
buckets).
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from videogn.norms import SubBatchNorm

from .backward import backward
from .live import LiveStorages, fake_copy, watched

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]

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
class StepMemory:
    """Bytes of one training step at one batch size, all of them on one device.

    Attributes:
        parameters: with buffers.
        gradients: of the parameters that are trained.
        optimizer: its state.
        saved: what the forward pass keeps for the backward pass, without parameters, buffers and the input.
        peak: the most that is alive at once, with all of the above, the clips and what lives for a moment.
        trace: what is alive after each operation.
    """

    parameters: int
    gradients: int
    optimizer: int
    saved: int
    peak: int
    trace: tuple[int, ...]


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
        device: ``"cuda"``, which need not be there, or ``"cpu"``.
        dtype: of autocast; None turns it off.

    Raises:
        ValueError: what the network raises on such clips.
    """
    unit = _batch_multiple(network)
    with _counter(network, device) as (fake, live):
        low, high = (_forward(fake, live, _clips(n * unit, frames, size, device), dtype)[1] for n in (2, 3))
    return _line(low, high, 2 * unit, 3 * unit)


def count_step(
    network: nn.Module,
    clips: int,
    frames: int,
    size: int,
    *,
    device: str = "cuda",
    dtype: torch.dtype | None = torch.bfloat16,
    optimizer: MakeOptimizer | None = None,
    accumulated: bool = False,
) -> StepMemory:
    """Bytes of one training step in the order of Lightning: forward, old gradients away, backward, optimiser.

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
    with _counter(network, device) as (fake, live):
        return _Steps(fake, live, optimizer, accumulated, dtype).count(clips, frames, size)


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
    """The memory of training steps with any number of clips; arguments as in :func:`count_step`."""
    unit = _batch_multiple(network)
    with _counter(network, device) as (fake, live):
        steps = _Steps(fake, live, optimizer, accumulated, dtype)
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

    Other arguments as in :func:`count_step`. 0 if there is none.
    """
    low, high = 2 * _FRAMES_STEP, 3 * _FRAMES_STEP
    with _counter(network, device) as (fake, live):
        steps = _Steps(fake, live, optimizer, accumulated, dtype)
        moments = _moments(steps.count(clips, low, size), steps.count(clips, high, size), low, high)
    frames = _largest(moments, memory)
    return frames - frames % _FRAMES_STEP


class _Steps:
    """Training steps of a fake network, with gradients and optimiser state as an earlier step has left them."""

    def __init__(
        self,
        fake: nn.Module,
        live: LiveStorages,
        make_optimizer: MakeOptimizer | None,
        accumulated: bool,
        dtype: torch.dtype | None,
    ) -> None:
        self.fake, self.live, self.accumulated, self.dtype = fake, live, accumulated, dtype
        self.trained = [p for p in fake.parameters() if p.requires_grad]
        self.parameter_bytes = live.total
        self._fill_gradients()
        self.gradient_bytes = live.total - self.parameter_bytes
        self.optimizer = make_optimizer(fake) if make_optimizer is not None and self.trained else None
        if self.optimizer is not None:
            for group in self.optimizer.param_groups:
                # What torch chooses by itself on CUDA; fake parameters are no plain ones, so that it would not.
                group["foreach"] = live.device == "cuda"
                if "capturable" in group:
                    group["capturable"] = live.device == "cuda"  # reads no numbers: there are none
            self.optimizer.step()
        self.optimizer_bytes = live.total - self.parameter_bytes - self.gradient_bytes

    def _fill_gradients(self) -> None:
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)

    def count(self, clips: int, frames: int, size: int) -> StepMemory:
        self._fill_gradients()
        self.live.trace.clear()
        pixels = _clips(clips, frames, size, self.live.device)
        loss, saved = _forward(self.fake, self.live, pixels, self.dtype)
        if not self.accumulated:
            for parameter in self.trained:
                parameter.grad = None
        backward(loss)
        if self.optimizer is not None:
            self._fill_gradients()
            self.optimizer.step()
        trace = tuple(self.live.trace)
        return StepMemory(
            self.parameter_bytes, self.gradient_bytes, self.optimizer_bytes, saved, peak=max(trace), trace=trace
        )


@contextmanager
def _counter(network: nn.Module, device: str) -> Iterator[tuple[nn.Module, LiveStorages]]:
    collecting = gc.isenabled()
    gc.disable()  # it would free at other moments each time
    try:
        with watched(device) as live, torch.enable_grad():
            yield fake_copy(network, device), live
    finally:
        if collecting:
            gc.enable()


def _clips(clips: int, frames: int, size: int, device: str) -> Tensor:
    """A batch as it comes to the device: uint8, T, H, W, C side by side."""
    shape = (clips, 3, frames, size, size)
    return torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last_3d)


def _forward(
    fake: nn.Module, live: LiveStorages, pixels: Tensor, dtype: torch.dtype | None
) -> tuple[list[Tensor], int]:
    """The loss, alone in a list, and the bytes that are kept for its backward pass."""
    before = live.total
    x = [pixels.float()]  # in a list, so that only the network holds it
    of_input = weakref.ref(x[0].untyped_storage())
    with torch.autocast(live.device, dtype=dtype, enabled=dtype is not None):
        loss = fake(x.pop()).float().sum()
    kept_input = of_input()
    others = loss.untyped_storage().nbytes() + (kept_input.nbytes() if kept_input is not None else 0)
    return [loss], live.total - before - others


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
