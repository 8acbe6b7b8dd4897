"""A view of a picture: the part of it that is wanted, its size, and whether it is mirrored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

_PIXELS_AT_ONCE = 1 << 23  # source pixels held at a time while a clip is scaled: 24 MB


@dataclass(frozen=True)
class View:
    """A rectangle of a picture, scaled to a size and perhaps mirrored.

    Attributes:
        top: first row, in pixels of the picture as displayed.
        left: first column.
        height: rows.
        width: columns.
        out_height: rows of the result.
        out_width: columns of the result.
        flip: whether left and right are exchanged.
    """

    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int
    flip: bool = False

    @property
    def scales(self) -> bool:
        return (self.height, self.width) != (self.out_height, self.out_width)


ChooseView = Callable[[int, int], View]
"""(height, width) of the picture as displayed -> the view of it."""


def whole(height: int, width: int) -> View:
    """All of a picture at its own size."""
    return View(0, 0, height, width, height, width)


def apply_view(frames: torch.Tensor, view: View) -> torch.Tensor:
    """The view of every frame. The bilinear filter is antialiased and sees the pixels inside the rectangle alone.

    Args:
        frames: uint8 (T, H, W, C).

    Returns:
        uint8 (T, out_height, out_width, C), contiguous; ``frames`` themselves if nothing changes.
    """
    part = frames[:, view.top : view.top + view.height, view.left : view.left + view.width]
    if view.scales:
        # The view is channels_last, for which torch has a fast uint8 kernel.
        size, how = [view.out_height, view.out_width], InterpolationMode.BILINEAR
        part = F.resize(part.permute(0, 3, 1, 2), size, interpolation=how, antialias=True).permute(0, 2, 3, 1)
    return (part.flip(2) if view.flip else part).contiguous()


class ViewWriter:
    """Takes pictures that are cut to a view's rectangle already, and makes the frames of a clip of them.

    Pictures are scaled a few at a time: a clip of a large source never stands in memory at its full size.

    Args:
        num_frames: T.
        view: its rectangle is that of the pictures.

    Attributes:
        frames: uint8 (T, out_height, out_width, 3); complete after :meth:`finish`.
    """

    def __init__(self, num_frames: int, view: View) -> None:
        self.frames = torch.empty((num_frames, view.out_height, view.out_width, 3), dtype=torch.uint8)
        self._view = View(0, 0, view.height, view.width, view.out_height, view.out_width, view.flip)
        self._direct = None if view.scales or view.flip else self.frames.numpy()
        held = 0 if self._direct is not None else _PIXELS_AT_ONCE // (view.height * view.width)
        self._held = np.empty((max(1, min(num_frames, held)), view.height, view.width, 3), np.uint8)
        self._slots: list[int] = []

    def put(self, slot: int, picture: np.ndarray) -> None:
        """Takes the picture, uint8 (height, width, 3), of frame ``slot``; the array may be reused afterwards."""
        if self._direct is not None:
            self._direct[slot] = picture
            return
        self._held[len(self._slots)] = picture
        self._slots.append(slot)
        if len(self._slots) == len(self._held):
            self.finish()

    def finish(self) -> torch.Tensor:
        """Scales what is left; returns ``frames``."""
        if self._slots:
            self.frames[self._slots] = apply_view(torch.from_numpy(self._held[: len(self._slots)]), self._view)
            self._slots = []
        return self.frames
