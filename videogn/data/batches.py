"""Batches of training clips and of evaluation videos, and what they are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


@dataclass
class TrainClip:
    """One training clip.

    Attributes:
        frames: uint8 (T, H, W, 3).
        label: its class.
        video: index of the video that it comes from.
        replaced: (path, reason) of videos that were drawn before it and could not be read.
    """

    frames: Tensor
    label: int
    video: int
    replaced: list[tuple[str, str]]


@dataclass
class ClipBatch:
    """A batch of training clips.

    Attributes:
        clips: uint8 (B, 3, T, H, W), RGB, channels_last_3d in memory.
        labels: int64 (B,).
        videos: int64 (B,), index of each clip's video.
        replaced: (path, reason) of videos that could not be read and were replaced by others.
    """

    clips: Tensor
    labels: Tensor
    videos: Tensor
    replaced: list[tuple[str, str]]

    @classmethod
    def collate(cls, items: Sequence[TrainClip]) -> ClipBatch:
        """The batch of some clips, whose frames are copied."""
        frames = [item.frames for item in items]
        clips = torch.stack(frames, out=_outgoing((len(frames), *frames[0].shape), frames[0].dtype))
        return cls(
            # Stacked as T,H,W,C and viewed as C,T,H,W: no copy, and the memory format that 3D convolutions like best.
            clips=clips.permute(0, 4, 1, 2, 3),
            labels=torch.tensor([item.label for item in items]),
            videos=torch.tensor([item.video for item in items]),
            replaced=[bad for item in items for bad in item.replaced],
        )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The batch on another device."""
        return replace(
            self,
            clips=self.clips.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            videos=self.videos.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> ClipBatch:
        """The batch in page-locked memory, from where copies to a GPU run beside computation."""
        return replace(
            self, clips=self.clips.pin_memory(), labels=self.labels.pin_memory(), videos=self.videos.pin_memory()
        )


@dataclass
class EvalVideo:
    """One video with all its views; clips share frames, so each frame travels once.

    Attributes:
        frames: uint8 (U, H, W, 3), the distinct frames in the order of the video, resized. Empty when ``error`` is set.
        index: int64 (K, T), which of the frames each clip shows.
        crops: (top, left, height, width) of each crop in pixels; clip k and crop c give one view.
        label: its class, -1 if unknown.
        video: index of the video; negative in a masked item, which has no frames and counts nowhere.
        path: path of the file.
        error: why the file gave no frames, or None.
    """

    frames: Tensor
    index: Tensor
    crops: list[tuple[int, int, int, int]]
    label: int
    video: int
    path: str
    error: str | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EvalVideo:
        """The video on another device."""
        frames = self.frames.to(device, non_blocking=non_blocking)
        return replace(self, frames=frames, index=self.index.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> EvalVideo:
        """The video in page-locked memory."""
        return replace(self, frames=self.frames.pin_memory(), index=self.index.pin_memory())


@dataclass
class VideoBatch:
    """Some videos of any sizes, each with all its views."""

    videos: list[EvalVideo]

    @classmethod
    def collate(cls, items: Sequence[EvalVideo]) -> VideoBatch:
        """The batch of some videos, whose frames are copied in a loader's worker and nowhere else."""
        if get_worker_info() is None:
            return cls(list(items))
        return cls([replace(item, frames=_send(item.frames), index=_send(item.index)) for item in items])

    def __len__(self) -> int:
        return len(self.videos)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VideoBatch:
        """The videos on another device."""
        return VideoBatch([video.to(device, non_blocking) for video in self.videos])

    def pin_memory(self) -> VideoBatch:
        """The videos in page-locked memory."""
        return VideoBatch([video.pin_memory() for video in self.videos])


def _outgoing(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room for a result; in a loader's worker in shared memory, which spares another copy on the way out."""
    if get_worker_info() is None or 0 in shape:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


def _send(tensor: Tensor) -> Tensor:
    return _outgoing(tuple(tensor.shape), tensor.dtype).copy_(tensor)
