"""The counted memory in words: what ``videogn plan`` and the start and end of ``videogn fit`` print."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .count import ActivationMemory
from .units import format_bytes

NOT_COUNTED = "cuDNN's workspaces, fragmentation, the CUDA context"
_DTYPES = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """What the bytes depend on besides the network and the clips.

    Attributes:
        device: ``"cuda"`` or ``"cpu"``.
        precision: Lightning's name of it, such as ``"bf16-mixed"``.
    """

    device: str
    precision: str

    @property
    def dtype(self) -> torch.dtype | None:
        """Of autocast; None where it is off."""
        return _DTYPES.get(self.precision)

    def __str__(self) -> str:
        return f"{self.precision} on {self.device}"


def saved_line(saved: ActivationMemory, setting: Setting) -> str:
    """Bytes that the forward pass keeps, per clip and in any case."""
    return (
        f"saved activations ({setting}): {format_bytes(saved.per_clip)} per clip + {format_bytes(saved.fixed)} "
        "whatever the batch"
    )


def peak_line(peak: int, clips: int) -> str:
    """The most that a training step holds at once."""
    return f"a training step with {clips} clips holds {format_bytes(peak)} at its peak, without {NOT_COUNTED}"


def measured_line(planned: int, measured: int) -> str:
    """The counted peak beside that of torch's allocator."""
    return (
        f"memory of the training steps: counted {format_bytes(planned)}, measured {format_bytes(measured)} "
        f"(torch.cuda.max_memory_allocated), ratio {measured / planned:.3f}; not counted are {NOT_COUNTED}"
    )
