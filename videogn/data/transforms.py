"""Crop, resize and flip in uint8 on the host, crop first; floating point and normalisation on the device."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from videogn.spec import ClipSpec

Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""


def train_transform(frames: torch.Tensor, spec: ClipSpec, rng: np.random.Generator) -> torch.Tensor:
    """Random scale, random square crop and random flip, the same for all frames of a clip.

    The short side S is scaled to ``s``, uniform over the integers of ``train_short_side``, and a square of
    ``train_crop`` pixels is taken: here the square of ``b = round(train_crop * S / s)`` source pixels (halves up) at a
    place uniform over all places inside the source, resized to ``train_crop``. Where ``s`` equals S the pixels are
    copied unchanged. The bilinear filter is antialiased and sees the pixels inside the square alone.

    Args:
        frames: uint8 (T, H, W, C).
        rng: consumed in the order scale, top, left, flip.

    Returns:
        uint8 (T, train_crop, train_crop, C), contiguous.
    """
    _, height, width, _ = frames.shape
    low, high = spec.train_short_side
    scale = int(rng.integers(low, high + 1))
    side = max(1, (2 * spec.train_crop * min(height, width) + scale) // (2 * scale))
    top = int(rng.integers(0, height - side + 1))
    left = int(rng.integers(0, width - side + 1))
    flip = rng.random() < spec.flip
    clip = _resize(frames[:, top : top + side, left : left + side], spec.train_crop, spec.train_crop)
    return (clip.flip(2) if flip else clip).contiguous()


def eval_transform(frames: torch.Tensor, spec: ClipSpec) -> tuple[torch.Tensor, list[Box]]:
    """Scales the short side to ``eval_short_side`` and says which parts of the frames are evaluated.

    The longer side becomes ``int(eval_short_side * long / short)``, as in torchvision's ``Resize``. Squares have the
    side ``eval_crop_size``, or ``eval_short_side`` if that is None:

    - ``"full"``: one box, the whole frame.
    - ``"center"``: the frames are cut to the central square, as torchvision's ``CenterCrop`` does, and one box is all
      of it. Resized before it is cut, so that the result is torchvision's to the bit, whatever the scale.
    - ``"three"``: whole frames, and three boxes along the longer side: at 0, at the centre and at the end. Offsets of
      the centre, also across the shorter side, are rounded up (SlowFast's ``uniform_crop``).

    Args:
        frames: uint8 (U, H, W, C).

    Returns:
        uint8 (U, H', W', C), contiguous, and the boxes within it.
    """
    _, height, width, _ = frames.shape
    size, short = spec.eval_short_side, min(height, width)
    side = spec.eval_crop_size or size
    resized = _resize(
        frames,
        size if height == short else int(size * height / short),
        size if width == short else int(size * width / short),
    )
    _, height, width, _ = resized.shape
    if spec.eval_crop == "full":
        return resized.contiguous(), [(0, 0, height, width)]
    if spec.eval_crop == "center":
        top, left = round((height - side) / 2), round((width - side) / 2)
        return resized[:, top : top + side, left : left + side].contiguous(), [(0, 0, side, side)]
    top, left = -(-(height - side) // 2), -(-(width - side) // 2)
    if height > width:
        boxes = [(offset, left, side, side) for offset in (0, top, height - side)]
    else:
        boxes = [(top, offset, side, side) for offset in (0, left, width - side)]
    return resized.contiguous(), boxes


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


def _resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(T, H, W, C) to (T, height, width, C); the same tensor if nothing changes."""
    if frames.shape[1:3] == (height, width):
        return frames
    # The view is channels_last, for which torch has a fast uint8 kernel.
    images = frames.permute(0, 3, 1, 2)
    resized = F.resize(images, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True)
    return resized.permute(0, 2, 3, 1)
