"""The order in which each process sees the videos."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DistributedSampler

Key = tuple[int, int]
"""(epoch, video): the samplers hand out both, so that workers which live through all epochs know the epoch."""
MASKED = -1
"""In the place of a video: an item without one."""


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
    """Every video once over all processes, without padding: process r of n takes every n-th video from the r-th on.

    A process without a share, because there are fewer videos than processes, gets one masked item, because without
    batches it would skip the evaluation that the others wait in.

    Args:
        num_videos: videos in the split.
        num_replicas: processes.
        rank: this process.
        done: videos that are left out, because an interrupted evaluation has judged them.
    """

    def __init__(
        self, num_videos: int, num_replicas: int = 1, rank: int = 0, done: Collection[int] = frozenset()
    ) -> None:
        super().__init__(range(num_videos), num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        left = [video for video in range(num_videos) if video not in done]
        self.share = left[rank::num_replicas] or [MASKED]
        self.num_samples = len(self.share)

    def __iter__(self) -> Iterator[Key]:
        for video in self.share:
            yield 0, video

    def __len__(self) -> int:
        return self.num_samples
