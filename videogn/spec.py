"""What a clip is, and how a video is evaluated. Stored in every checkpoint; imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Preset = Literal["paper-10clip", "30view", "1clip"]
EvalCrop = Literal["full", "center", "three"]
PositionRule = Literal["ends", "segments"]
ShortVideo = Literal["loop", "clamp"]

PRESETS: dict[Preset, dict[str, Any]] = {
    # Wu & He, ECCV 2018, section 4.3, and Wang et al., "Non-local Neural Networks", section 4: fully convolutional.
    "paper-10clip": {"clips": 10, "crop": "full", "positions": "ends", "short_side": 256},
    # The repositories: non-local, SlowFast, mmaction2.
    "30view": {"clips": 10, "crop": "three", "positions": "ends", "short_side": 256},
    # The paper's curves (figure 7) are of one clip.
    "1clip": {"clips": 1, "crop": "full", "positions": "ends", "short_side": 256},
}
"""Fields of :class:`Protocol` by name."""
_DEFAULT: Preset = "paper-10clip"


def _require(ok: bool, name: str, found: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"clip.{name}: expected {expected}, found {found!r}")


@dataclass(frozen=True)
class Protocol:
    """How a video is evaluated: which clips and crops of it are averaged. Fields that are given beat the preset.

    After construction every field but ``crop_size``, ``frames`` and ``stride`` has a value.

    Attributes:
        preset: where fields that are not given come from: ``"paper-10clip"`` (10 clips, whole frames of short side 256;
            also where no preset is given), ``"30view"`` (10 clips, three crops of 256) or ``"1clip"`` (as the first,
            the clip in the middle).
        clips: clips per video, K.
        crop: ``"full"`` evaluates the whole frame (the network is fully convolutional), ``"center"`` one square,
            ``"three"`` three squares along the longer side.
        crop_size: side in pixels of the squares; None means ``short_side``. Unused by ``"full"``.
        positions: start frame of clip i of K over the free span ``delta = video frames - clip span``:
            ``"ends"`` is ``delta * i / (K - 1)`` (mmaction2; the last clip reaches the end; the middle when K = 1),
            ``"segments"`` is ``delta * i / K`` (SlowFast, pytorchvideo); both rounded down.
        short_side: of the evaluated frames, in pixels.
        frames: frames per clip; None means those of the training clip.
        stride: source frames from one clip frame to the next; None means that of the training clip.
    """

    preset: Preset | None = None
    # None takes the preset's value, so that these have their types after construction.
    clips: int = None  # type: ignore[assignment]
    crop: EvalCrop = None  # type: ignore[assignment]
    crop_size: int | None = None
    positions: PositionRule = None  # type: ignore[assignment]
    short_side: int = None  # type: ignore[assignment]
    frames: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        expected = f"one of {', '.join(PRESETS)}"
        _require(self.preset is None or self.preset in PRESETS, "protocol.preset", self.preset, expected)
        for name, value in PRESETS[self.preset or _DEFAULT].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("clips", "short_side", "crop_size", "frames", "stride"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"protocol.{name}", value, "at least 1")
        _require(self.crop in ("full", "center", "three"), "protocol.crop", self.crop, "full, center or three")
        _require(self.positions in ("ends", "segments"), "protocol.positions", self.positions, "ends or segments")
        short = f"at most short_side = {self.short_side}"
        _require(self.side <= self.short_side, "protocol.crop_size", self.crop_size, short)

    @property
    def num_crops(self) -> int:
        """Crops per clip."""
        return 3 if self.crop == "three" else 1

    @property
    def side(self) -> int:
        """Of the square crops, in pixels."""
        return self.crop_size or self.short_side


@dataclass(frozen=True)
class ClipSpec:
    """How clips are cut from a video, for training and for evaluation.

    Attributes:
        frames: frames per clip, T.
        stride: source frames from one clip frame to the next; ``frames=32, stride=2`` is the paper's 32x2.
        train_short_side: range [low, high] in pixels, inclusive, of the jittered short side in training.
        train_crop: side in pixels of the square training crop.
        flip: probability of a horizontal flip in training; 0 where left and right mean different classes.
        short_video: for a video shorter than the clip: ``"loop"`` starts over, ``"clamp"`` repeats its last frame.
        mean: per channel R, G, B, of pixels scaled to [0, 1].
        std: per channel R, G, B, of pixels scaled to [0, 1].
        protocol: which clips and crops an evaluation averages.
    """

    frames: int = 32
    stride: int = 2
    train_short_side: tuple[int, int] = (256, 320)
    train_crop: int = 224
    flip: float = 0.5
    short_video: ShortVideo = "loop"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    protocol: Protocol = Protocol()

    def __post_init__(self) -> None:
        for name in ("train_short_side", "mean", "std"):  # YAML and JSON give lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("frames", "stride", "train_crop"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        low, high = self.train_short_side
        _require(
            self.train_crop <= low <= high,
            "train_short_side",
            self.train_short_side,
            f"(low, high) with train_crop = {self.train_crop} <= low <= high",
        )
        _require(0.0 <= self.flip <= 1.0, "flip", self.flip, "a probability in [0, 1]")
        _require(self.short_video in ("loop", "clamp"), "short_video", self.short_video, "loop or clamp")
        _require(
            len(self.mean) == 3 and len(self.std) == 3 and min(self.std) > 0,
            "mean, std",
            (self.mean, self.std),
            "three values each, std above 0",
        )

    @property
    def span(self) -> int:
        """Source frames from the first to the last frame of a training clip, both counted."""
        return (self.frames - 1) * self.stride + 1

    @property
    def eval_span(self) -> int:
        """The same of a clip in evaluation."""
        return (self.eval_frames - 1) * self.eval_stride + 1

    @property
    def eval_frames(self) -> int:
        """Frames per clip in evaluation."""
        return self.protocol.frames or self.frames

    @property
    def eval_stride(self) -> int:
        """Source frames from one frame of an evaluated clip to the next."""
        return self.protocol.stride or self.stride

    @property
    def num_views(self) -> int:
        """Clips and crops per video that the network computes in evaluation: clips times crops."""
        return self.protocol.clips * self.protocol.num_crops

    def with_protocol(self, **fields: Any) -> ClipSpec:
        """The same with other values of some fields of the protocol."""
        return dataclasses.replace(self, protocol=dataclasses.replace(self.protocol, **fields))

    def views_text(self) -> str:
        """The protocol in words: ``"10 clips x 3 crops of 256x256 (32 frames, every 2nd; ...)"``."""
        own, stride = self.protocol, self.eval_stride
        where = {"full": "whole frames", "center": "the central crop", "three": "3 crops"}[own.crop]
        size = "" if own.crop == "full" else f" of {own.side}x{own.side}"
        rule = {"ends": "first to last possible start", "segments": "starts of equal segments"}[own.positions]
        return (
            f"{own.clips} clip{'s' if own.clips > 1 else ''} x {where}{size} (short side {own.short_side}, "
            f"{self.eval_frames} frames, {'consecutive' if stride == 1 else f'stride {stride}'}; positions "
            f"{own.positions}: {rule})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dictionaries and numbers, for a checkpoint."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipSpec:
        """The inverse of :meth:`to_dict`; also of one in which the protocol's fields stand beside the others.

        Raises:
            ValueError: unknown fields, or a value outside its range.
        """
        values = nested(values)
        protocol = values.pop("protocol", None) or {}
        for kind, given, what in ((cls, values, "clip specification"), (Protocol, protocol, "protocol")):
            known = [field.name for field in dataclasses.fields(kind)]
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise ValueError(
                    f"{what} has unknown fields {unknown}; expected some of {known}. "
                    "It was probably written by a newer videogn."
                )
        return cls(**values, protocol=Protocol(**protocol))


_FLAT = {
    "num_clips": "clips",
    "eval_crop": "crop",
    "eval_crop_size": "crop_size",
    "positions": "positions",
    "eval_short_side": "short_side",
}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored clip specification with its protocol as a block of its own, where its fields stood beside the others."""
    flat = {name: values[name] for name in _FLAT if name in values}
    if not flat:
        return dict(values)
    protocol = {_FLAT[name]: value for name, value in flat.items()}
    return {name: value for name, value in values.items() if name not in flat} | {"protocol": protocol}
