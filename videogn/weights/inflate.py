"""Kernels of pictures as kernels of videos (Carreira & Zisserman, "Quo Vadis", CVPR 2017, section 2.4)."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from videogn.errors import UsageError

Inflation = Literal["mean", "center"]


def inflate(weight: Tensor, frames: int, how: Inflation = "mean") -> Tensor:
    """A kernel (O, I, H, W) of a picture's network as one of a video's, (O, I, frames, H, W).

    On a video that stands still either gives what the picture gives, away from the clip's temporal borders: there the
    planes that fall on zero padding are missing, which ``"mean"`` feels and ``"center"`` does not.

    Args:
        weight: (O, I, H, W), or (O, I, 1, H, W).
        frames: T of the kernel, odd for ``"center"``.
        how: ``"mean"``: weight / frames in every plane; ``"center"``: weight in the middle plane, zero in the others.

    Raises:
        UsageError: another word for ``how``.
        ValueError: a weight of other dimensions; ``"center"`` with an even number of frames.
    """
    if how not in get_args(Inflation):
        raise UsageError(f"inflate: expected one of {list(get_args(Inflation))}, found {how!r}")
    if weight.dim() == 4:
        weight = weight.unsqueeze(2)
    if weight.dim() != 5 or weight.shape[2] != 1:
        raise ValueError(f"expected a kernel (O, I, H, W) or (O, I, 1, H, W), found shape {tuple(weight.shape)}")
    if how == "mean":
        return (weight / frames).repeat(1, 1, frames, 1, 1)
    if frames % 2 == 0:
        raise ValueError(f"center: expected an odd number of frames, found {frames}")
    planes = weight.new_zeros(*weight.shape[:2], frames, *weight.shape[3:])
    planes[:, :, frames // 2] = weight[:, :, 0]
    return planes
