"""Training clips and evaluation videos as data sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videogn.data.batches import EvalVideo, TrainClip
from videogn.data.decode import Backend, VideoReader
from videogn.data.index import VideoIndex
from videogn.data.samplers import Key
from videogn.data.sampling import eval_indices, train_indices, unique_frames
from videogn.data.transforms import eval_transform, train_transform
from videogn.errors import VideoError
from videogn.spec import ClipSpec

MAX_TRIES = 10


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
