"""One training step of a network of fake tensors, and the bytes that are alive while it runs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .backward import backward
from .live import LiveStorages, fake_copy, watched

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


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


class Steps:
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
                if not group.get("fused"):
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
        pixels = fake_clips(clips, frames, size, self.live.device)
        loss, saved = forward(self.fake, self.live, pixels, self.dtype)
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
def fake_network(network: nn.Module, device: str) -> Iterator[tuple[nn.Module, LiveStorages]]:
    collecting = gc.isenabled()
    gc.disable()  # it would free at other moments each time
    try:
        with watched(device) as live, torch.enable_grad():
            yield fake_copy(network, device), live
    finally:
        if collecting:
            gc.enable()


def fake_clips(clips: int, frames: int, size: int, device: str) -> Tensor:
    """A batch as it comes to the device: uint8, T, H, W, C side by side."""
    shape = (clips, 3, frames, size, size)
    return torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last_3d)


def forward(fake: nn.Module, live: LiveStorages, pixels: Tensor, dtype: torch.dtype | None) -> tuple[list[Tensor], int]:
    """The loss, alone in a list, and the bytes that are kept for its backward pass."""
    before = live.total
    x = [pixels.float()]  # in a list, so that only the network holds it
    of_input = weakref.ref(x[0].untyped_storage())
    with torch.autocast("cuda" if live.device == "cuda" else "cpu", dtype=dtype, enabled=dtype is not None):
        loss = fake(x.pop()).float().sum()
    kept_input = of_input()
    others = loss.untyped_storage().nbytes() + (kept_input.nbytes() if kept_input is not None else 0)
    return [loss], live.total - before - others
