"""Which part of the pictures a clip shows, and floating point and normalisation on the device."""

from __future__ import annotations

import numpy as np
import torch

from videogn.data.view import View
from videogn.spec import ClipSpec

Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""


def train_view(height: int, width: int, spec: ClipSpec, rng: np.random.Generator) -> View:
    """Random scale, random square crop and random flip, the same for all frames of a clip.

    The short side S is scaled to ``s``, uniform over the integers of ``train_short_side``, and a square of
    ``train_crop`` pixels is taken: here the square of ``b = round(train_crop * S / s)`` source pixels (halves up) at a
    place uniform over all places inside the source, resized to ``train_crop``. Where ``s`` equals S the pixels are
    copied unchanged. The bilinear filter is antialiased and sees the pixels inside the square alone.

    Args:
        height: of the source, in pixels.
        width: of the source, in pixels.
        rng: consumed in the order scale, top, left, flip.
    """
    low, high = spec.train_short_side
    scale = int(rng.integers(low, high + 1))
    side = max(1, (2 * spec.train_crop * min(height, width) + scale) // (2 * scale))
    top = int(rng.integers(0, height - side + 1))
    left = int(rng.integers(0, width - side + 1))
    return View(top, left, side, side, spec.train_crop, spec.train_crop, bool(rng.random() < spec.flip))


def eval_view(height: int, width: int, spec: ClipSpec) -> View:
    """The whole picture with its short side scaled to the protocol's ``short_side``.

    The longer side becomes ``int(short_side * long / short)``, as in torchvision's ``Resize``.

    Args:
        height: of the source, in pixels.
        width: of the source, in pixels.
    """
    size, short = spec.protocol.short_side, min(height, width)
    out_height, out_width = (size if side == short else int(size * side / short) for side in (height, width))
    return View(0, 0, height, width, out_height, out_width)


def eval_crops(frames: torch.Tensor, spec: ClipSpec) -> tuple[torch.Tensor, list[Box]]:
    """Which parts of the frames of an :func:`eval_view` are evaluated.

    Squares have the side ``crop_size`` of the protocol, or its ``short_side`` if that is None:

    - ``"full"``: one box, the whole frame.
    - ``"center"``: the frames are cut to the central square, as torchvision's ``CenterCrop`` does, and one box is all
      of it. Resized before it is cut, so that the result is torchvision's to the bit, whatever the scale.
    - ``"three"``: whole frames, and three boxes along the longer side: at 0, at the centre and at the end. Offsets of
      the centre, also across the shorter side, are rounded up (SlowFast's ``uniform_crop``).

    Args:
        frames: uint8 (U, H, W, C), resized.

    Returns:
        uint8 (U, H', W', C), contiguous, and the boxes within it.
    """
    side, crop = spec.protocol.side, spec.protocol.crop
    _, height, width, _ = frames.shape
    if crop == "full":
        return frames, [(0, 0, height, width)]
    if crop == "center":
        top, left = round((height - side) / 2), round((width - side) / 2)
        return frames[:, top : top + side, left : left + side].contiguous(), [(0, 0, side, side)]
    top, left = -(-(height - side) // 2), -(-(width - side) // 2)
    if height > width:
        boxes = [(offset, left, side, side) for offset in (0, top, height - side)]
    else:
        boxes = [(top, offset, side, side) for offset in (0, left, width - side)]
    return frames, boxes


def to_float(clips: torch.Tensor, spec: ClipSpec, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """``(clips / 255 - mean) / std`` per channel, computed in float32 (float64 for float64) and rounded to ``dtype``.

    Args:
        clips: uint8 (B, C, T, H, W), RGB, on any device and in any memory format, which is kept.

    Returns:
        ``dtype`` (B, C, T, H, W).
    """
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    mean = torch.tensor(spec.mean, dtype=torch.float64)
    std = torch.tensor(spec.std, dtype=torch.float64)
    scale, shift = (values.to(clips.device, compute).view(1, -1, 1, 1, 1) for values in (1 / (255 * std), -mean / std))
    return torch.addcmul(shift, clips, scale).to(dtype)  # one pass over the clips, without a float copy of them
