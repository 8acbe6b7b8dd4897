"""What a clip is: which frames, how large, how normalised. Stored in every checkpoint; imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

EvalCrop = Literal["full", "center", "three"]
PositionRule = Literal["ends", "segments"]
ShortVideo = Literal["loop", "clamp"]


@dataclass(frozen=True)
class ClipSpec:
    """How clips are cut from a video, for training and for evaluation.

    Attributes:
        frames: frames per clip, T.
        stride: source frames from one clip frame to the next; ``frames=32, stride=2`` is the paper's 32x2.
        train_short_side: range [low, high] in pixels, inclusive, of the jittered short side in training.
        train_crop: side in pixels of the square training crop.
        flip: probability of a horizontal flip in training; 0 where left and right mean different classes.
        eval_short_side: short side in pixels of the evaluated frames.
        eval_crop: ``"full"`` evaluates the whole frame (the network is fully convolutional), ``"center"`` one square,
            ``"three"`` three squares along the longer side.
        eval_crop_size: side in pixels of the evaluation squares; None means ``eval_short_side``. Unused by ``"full"``.
        num_clips: clips per video in evaluation, K.
        positions: start frame of clip i of K over the free span ``delta = video frames - clip span``:
            ``"ends"`` is ``delta * i / (K - 1)`` (mmaction2; the last clip reaches the end; the middle when K = 1),
            ``"segments"`` is ``delta * i / K`` (SlowFast, pytorchvideo); both rounded down.
        short_video: for a video shorter than the clip: ``"loop"`` starts over, ``"clamp"`` repeats its last frame.
        mean: per channel R, G, B, of pixels scaled to [0, 1].
        std: per channel R, G, B, of pixels scaled to [0, 1].
    """

    frames: int = 32
    stride: int = 2
    train_short_side: tuple[int, int] = (256, 320)
    train_crop: int = 224
    flip: float = 0.5
    eval_short_side: int = 256
    eval_crop: EvalCrop = "full"
    eval_crop_size: int | None = None
    num_clips: int = 10
    positions: PositionRule = "ends"
    short_video: ShortVideo = "loop"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("train_short_side", "mean", "std"):  # YAML and JSON give lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("frames", "stride", "train_crop", "eval_short_side", "num_clips"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        low, high = self.train_short_side
        _require(
            self.train_crop <= low <= high,
            "train_short_side",
            self.train_short_side,
            f"(low, high) with train_crop = {self.train_crop} <= low <= high",
        )
        _require(0.0 <= self.flip <= 1.0, "flip", self.flip, "a probability in [0, 1]")
        _require(self.eval_crop in ("full", "center", "three"), "eval_crop", self.eval_crop, "full, center or three")
        _require(self.positions in ("ends", "segments"), "positions", self.positions, "ends or segments")
        _require(self.short_video in ("loop", "clamp"), "short_video", self.short_video, "loop or clamp")
        _require(
            self.eval_crop_size is None or 1 <= self.eval_crop_size <= self.eval_short_side,
            "eval_crop_size",
            self.eval_crop_size,
            f"at most eval_short_side = {self.eval_short_side}",
        )
        _require(
            len(self.mean) == 3 and len(self.std) == 3 and min(self.std) > 0,
            "mean, std",
            (self.mean, self.std),
            "three values each, std above 0",
        )

    @property
    def span(self) -> int:
        """Source frames from the first to the last frame of a clip, both counted."""
        return (self.frames - 1) * self.stride + 1

    @property
    def num_views(self) -> int:
        """Forward passes per video in evaluation: clips times crops."""
        return self.num_clips * (3 if self.eval_crop == "three" else 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for a checkpoint."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipSpec:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: unknown fields, or a value outside its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(
                f"clip specification has unknown fields {unknown}; expected some of {known}. "
                "It was probably written by a newer videogn."
            )
        return cls(**values)


def _require(ok: bool, name: str, found: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"clip.{name}: expected {expected}, found {found!r}")
