"""Training clips and evaluation videos as data sets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videogn.data.batches import EvalVideo, TrainClip
from videogn.data.decode import DEFAULT_LIMITS, Backend, Limits, VideoReader
from videogn.data.index import VideoIndex
from videogn.data.samplers import MASKED, Key
from videogn.data.sampling import eval_indices, train_indices, unique_frames
from videogn.data.transforms import Box, eval_crops, eval_view, train_view
from videogn.errors import VideoError
from videogn.spec import ClipSpec

MAX_TRIES = 10

Draw = tuple[int, np.random.Generator]
"""A video, and where its clip's random numbers come from."""
Views = tuple[Tensor, Tensor, list[Box]]
"""Frames, index and crops of an :class:`~videogn.data.batches.EvalVideo`."""
Read = Callable[[str, Any], Any]
"""(path, job) -> ``read(job)`` of the data set, here or in another process."""


def _nothing() -> None:
    pass


class TrainClips(Dataset[TrainClip]):
    """One random clip per video, a pure function of (seed, epoch, video), whoever computes it.

    A video that cannot be read is replaced by another one and named in ``replaced``; which one is a function of
    (seed, epoch, video) and of how many could not be read before, not of why.

    Args:
        index: the videos, all with labels.
        clip: how clips are cut.
        seed: of all draws.
        backend: decoder.
        limits: what a video may at most be.
    """

    def __init__(
        self,
        index: VideoIndex,
        clip: ClipSpec,
        seed: int = 0,
        backend: Backend = "pyav",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.index, self.clip, self.seed, self.backend, self.limits = index, clip, seed, backend, limits

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> TrainClip:
        return self.item(key, lambda _, job: self.read(job))

    def item(self, key: Key, read: Read) -> TrainClip:
        """The clip of a key, whose files ``read`` reads.

        Raises:
            VideoError: :data:`MAX_TRIES` videos in a row that cannot be read.
        """
        epoch, drawn = key
        replaced: list[tuple[str, str]] = []
        for attempt in range(MAX_TRIES):
            # A generator per attempt: how far a reading came that failed must not matter, as a crash does not tell it.
            seeds = np.random.SeedSequence((self.seed, epoch, drawn), spawn_key=(attempt,) if attempt else ())
            rng = np.random.default_rng(seeds)
            video = int(rng.integers(len(self.index))) if attempt else drawn
            try:
                frames = read(self.index.path(video), (video, rng))
                return TrainClip(frames, self.index.label(video), video, replaced)
            except VideoError as error:
                replaced.append((error.path, error.reason))
        listed = "\n  ".join(f"{path}: {reason}" for path, reason in replaced)
        raise VideoError(
            self.index.path(drawn),
            f"{MAX_TRIES} videos drawn one after another could not be read:\n  {listed}\n"
            "Check that the files are complete and that the disk answers.",
        )

    def read(self, job: Draw, beat: Callable[[], None] = _nothing) -> Tensor:
        """A random clip of a video: uint8 (T, H, W, 3).

        Args:
            job: the video and its generator.
            beat: called whenever decoding gets on; see ``progress`` of :class:`~videogn.data.decode.VideoReader`.

        Raises:
            VideoError: the file cannot be read.
        """
        video, rng = job
        known = self.index.known_frames(video)
        path = self.index.path(video)
        with VideoReader(path, self.backend, limits=self.limits, num_frames=known, progress=beat) as reader:
            numbers = train_indices(reader.num_frames, self.clip, rng)
            # A copy, because a reader whose backend fails asks for the view again.
            return reader.read(numbers, lambda height, width: train_view(height, width, self.clip, copy.deepcopy(rng)))


class EvalVideos(Dataset[EvalVideo]):
    """Each video with all its views; nothing is random. A video that cannot be read comes with its ``error``.

    A file that the manifest calls bad is not opened.

    Args:
        index: the videos.
        clip: how clips are cut.
        backend: decoder.
        limits: what a video may at most be.
    """

    def __init__(
        self, index: VideoIndex, clip: ClipSpec, backend: Backend = "pyav", limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.index, self.clip, self.backend, self.limits = index, clip, backend, limits

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> EvalVideo:
        return self.item(key, lambda _, job: self.read(job))

    def item(self, key: Key, read: Read) -> EvalVideo:
        """The video of a key, whose file ``read`` reads; an item that is masked for a key without a video."""
        _, video = key
        if video == MASKED:
            return self._without_frames("", -1, video)
        path, label = self.index.path(video), self.index.label(video)
        reason = self.index.known_error(video)
        if reason is None:
            try:
                frames, index, crops = read(path, video)
                return EvalVideo(frames, index, crops, label, video, path)
            except VideoError as error:
                reason = error.reason
        return self._without_frames(path, label, video, reason)

    def _without_frames(self, path: str, label: int, video: int, reason: str | None = None) -> EvalVideo:
        frames = torch.empty((0, 0, 0, 3), dtype=torch.uint8)
        no_clips = torch.empty((0, self.clip.eval_frames), dtype=torch.int64)
        return EvalVideo(frames, no_clips, [], label, video, path, reason)

    def read(self, video: int, beat: Callable[[], None] = _nothing) -> Views:
        """All views of a video; arguments and errors as those of :meth:`TrainClips.read`."""
        known = self.index.known_frames(video)
        path = self.index.path(video)
        with VideoReader(path, self.backend, limits=self.limits, num_frames=known, progress=beat) as reader:
            unique, index = unique_frames(eval_indices(reader.num_frames, self.clip))
            frames = reader.read(unique, lambda height, width: eval_view(height, width, self.clip))
        frames, crops = eval_crops(frames, self.clip)
        return frames, torch.as_tensor(index, dtype=torch.int64), crops
