"""Training clips and evaluation videos: data sets, batches, and the order in which each process sees the videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from videogn.data.decode import Backend, VideoReader
from videogn.data.index import VideoIndex
from videogn.data.sampling import eval_indices, train_indices, unique_frames
from videogn.data.transforms import eval_transform, train_transform
from videogn.errors import VideoError
from videogn.spec import ClipSpec

MAX_TRIES = 10

# (epoch, video): the samplers hand out both, so that workers which live through all epochs know the epoch.
Key = tuple[int, int]


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
        """The batch of some clips."""
        return cls(
            # Stacked as T,H,W,C and viewed as C,T,H,W: no copy, and the memory format that 3D convolutions like best.
            clips=torch.stack([item.frames for item in items]).permute(0, 4, 1, 2, 3),
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
        video: index of the video.
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
        """The batch of some videos."""
        return cls(list(items))

    def __len__(self) -> int:
        return len(self.videos)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VideoBatch:
        """The videos on another device."""
        return VideoBatch([video.to(device, non_blocking) for video in self.videos])

    def pin_memory(self) -> VideoBatch:
        """The videos in page-locked memory."""
        return VideoBatch([video.pin_memory() for video in self.videos])


class TrainClips(Dataset[TrainClip]):
    """One random clip per video, a pure function of (seed, epoch, video), whoever computes it.

    A video that cannot be read is replaced by another one, drawn from the same generator, and named in ``replaced``.

    Args:
        index: the videos, all with labels.
        clip: how clips are cut.
        seed: of all draws.
        backend: decoder.
    """

    def __init__(self, index: VideoIndex, clip: ClipSpec, seed: int = 0, backend: Backend = "pyav") -> None:
        self.index, self.clip, self.seed, self.backend = index, clip, seed, backend

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> TrainClip:
        epoch, video = key
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, epoch, video)))
        replaced: list[tuple[str, str]] = []
        while True:
            try:
                frames = self._read(self.index.path(video), rng)
                return TrainClip(frames, self.index.label(video), video, replaced)
            except VideoError as error:
                replaced.append((error.path, error.reason))
                if len(replaced) == MAX_TRIES:
                    listed = "\n  ".join(f"{path}: {reason}" for path, reason in replaced)
                    raise VideoError(
                        self.index.path(video),
                        f"{MAX_TRIES} videos drawn one after another could not be read:\n  {listed}\n"
                        "Check that the files are complete and that the disk answers.",
                    ) from error
                video = int(rng.integers(len(self.index)))

    def _read(self, path: str, rng: np.random.Generator) -> Tensor:
        with VideoReader(path, backend=self.backend) as reader:
            frames = reader.read(train_indices(reader.num_frames, self.clip, rng))
        return train_transform(frames, self.clip, rng)


class EvalVideos(Dataset[EvalVideo]):
    """Each video with all its views; nothing is random. A video that cannot be read comes with its ``error``.

    Args:
        index: the videos.
        clip: how clips are cut.
        backend: decoder.
    """

    def __init__(self, index: VideoIndex, clip: ClipSpec, backend: Backend = "pyav") -> None:
        self.index, self.clip, self.backend = index, clip, backend

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> EvalVideo:
        _, video = key
        path = self.index.path(video)
        label = self.index.label(video)
        try:
            with VideoReader(path, backend=self.backend) as reader:
                unique, index = unique_frames(eval_indices(reader.num_frames, self.clip))
                frames, crops = eval_transform(reader.read(unique), self.clip)
        except VideoError as error:
            nothing = torch.empty((0, 0, 0, 3), dtype=torch.uint8)
            no_clips = torch.empty((0, self.clip.frames), dtype=torch.int64)
            return EvalVideo(nothing, no_clips, [], label, video, path, error.reason)
        return EvalVideo(frames, torch.as_tensor(index, dtype=torch.int64), crops, label, video, path)


class TrainSampler(DistributedSampler[Any]):
    """Every epoch another order of all videos, cut into equal shares of whole batches and whole optimiser steps.

    Step s of an epoch takes the same videos whatever the number of processes, as long as the clips per step are the
    same; the remainder of the order, too short for a step, is left out of this epoch. Being a ``DistributedSampler``
    makes Lightning call ``set_epoch`` and put no sampler of its own in its place.

    Args:
        num_videos: videos in the split.
        batch_size: clips per process and forward pass.
        seed: of the order.
        num_replicas: processes.
        rank: this process.
        accumulate: forward passes per optimiser step.
    """

    def __init__(
        self, num_videos: int, batch_size: int, seed: int = 0, num_replicas: int = 1, rank: int = 0, accumulate: int = 1
    ) -> None:
        super().__init__(range(num_videos), num_replicas, rank, shuffle=True, seed=seed, drop_last=True)  # type: ignore[arg-type]
        self.num_videos = num_videos
        step = batch_size * accumulate
        self.num_samples = num_videos // (step * num_replicas) * step
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[Key]:
        # A spawn key, because (seed, epoch) alone would be the same entropy as the clips' (seed, epoch, video 0).
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch,)))
        order = rng.permutation(self.num_videos)
        for video in order[self.rank : self.total_size : self.num_replicas].tolist():
            yield self.epoch, video

    def __len__(self) -> int:
        return self.num_samples


class EvalSampler(DistributedSampler[Any]):
    """Every video once over all processes, without padding: process r takes the videos r, r + world, r + 2 world, ...

    With fewer videos than processes, a process without a share takes one video that another one has too, because a
    process without batches would skip the evaluation that the others wait in; the metric counts a video once.

    Args:
        num_videos: videos in the split.
        num_replicas: processes.
        rank: this process.
    """

    def __init__(self, num_videos: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(num_videos), num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self.share = range(rank, num_videos, num_replicas) or range(rank % num_videos, rank % num_videos + 1)
        self.num_samples = len(self.share)

    def __iter__(self) -> Iterator[Key]:
        for video in self.share:
            yield 0, video

    def __len__(self) -> int:
        return self.num_samples


def start_worker(worker: int) -> None:
    """Set-up of a loader's worker: one thread each, because the workers share the cores among them."""
    torch.set_num_threads(1)
