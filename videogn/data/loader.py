"""A loader that knows how long it was waited for, and data sets whose files are read in processes that can be ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from videogn.data.batches import EvalVideo, TrainClip
from videogn.data.dataset import EvalVideos, TrainClips
from videogn.data.guard import AVAILABLE, Guard
from videogn.data.samplers import Key


class TimedLoader(DataLoader[Any]):
    """A ``DataLoader`` that knows how long it was waited for, and can begin in the middle of an epoch.

    Nothing happens before the first ``next()``: then workers start, and the sampler is asked for its order. Lightning
    makes the iterator of a run that goes on before it tells the sampler the epoch. Nothing is drawn from the global
    random generators.

    Attributes:
        waited: seconds that consumers have spent inside ``next()``, over all epochs.
    """

    waited: float = 0.0
    _given: int = 0  # batches of the epoch that runs, those before its beginning included
    _begin: int = 0  # batches that the next iteration leaves out

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("generator", torch.Generator())
        super().__init__(*arguments, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        begin, self._begin = self._begin, 0
        self._given = begin
        return _TimedIterator(self, begin)

    def state_dict(self) -> dict[str, int]:
        """``{"batches": n}``: batches handed out in the epoch that runs; 0 when it was all of them."""
        return {"batches": self._given % max(1, len(self))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration, and only that, begins behind the first n batches of its epoch, which nobody reads."""
        self._begin = self._given = state["batches"] % max(1, len(self))

    @property
    def _index_sampler(self) -> Any:
        return _Behind(self, super()._index_sampler)


class _Behind:
    """A loader's plan of an epoch without the batches that its iteration leaves out."""

    def __init__(self, loader: TimedLoader, plan: Any) -> None:
        self._loader, self._plan = loader, plan

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._plan), self._loader._given, None)

    def __len__(self) -> int:
        return len(self._plan)


class _TimedIterator:
    def __init__(self, loader: TimedLoader, begin: int) -> None:
        self._loader, self._begin = loader, begin
        self._batches: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            if self._batches is None:
                self._loader._given = self._begin
                self._batches = DataLoader.__iter__(self._loader)
            batch = next(self._batches)
            self._loader._given += 1
            return batch
        finally:
            self._loader.waited += time.perf_counter() - start


class GuardedDataset(Dataset[Any]):
    """A data set for a loader's workers: each reads its files in a child process of its own, one after another.

    A file whose decoder makes no progress for ``timeout`` seconds, even in native code that holds Python's lock, or
    crashes, is a file that cannot be read; the child is ended and the next file gets another. PyAV makes progress with
    every packet; decord and torchcodec tell nothing, so that there the whole reading of a clip or video must take less
    than ``timeout``.

    The items of a batch are valid until the next batch is asked for: in workers the collate functions of
    :mod:`videogn.data.batches` copy them, which is the only copy between the decoder and the main process.

    Args:
        data: what is read; its items are the same with and without a guard.
        timeout: seconds.
    """

    def __init__(self, data: TrainClips | EvalVideos, timeout: float) -> None:
        self.data = data
        self.timeout = timeout
        self._guard: Guard | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> TrainClip | EvalVideo:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[TrainClip | EvalVideo]:
        if self._guard is None:
            self._guard = Guard(self.data.read, self.timeout)
        self._guard.release()
        return [self.data.item(key, self._read) for key in keys]

    def _read(self, path: str, job: Any) -> Any:
        assert self._guard is not None
        return self._guard.call(path, job, copy=get_worker_info() is None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_guard": None}  # for workers that are not forked


def guarded(data: TrainClips | EvalVideos, timeout: float | None, workers: int) -> Dataset[Any]:
    """The data set with a guard; without one if there is no timeout, no worker, or no way to fork (Windows)."""
    return GuardedDataset(data, timeout) if timeout is not None and workers > 0 and AVAILABLE else data


def start_worker(worker: int) -> None:
    """Set-up of a loader's worker: one thread each, because the workers share the cores among them."""
    torch.set_num_threads(1)
