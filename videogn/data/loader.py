"""A loader that knows how long it was waited for, and data sets whose files are read in processes that can be ended."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from videogn.data.batches import EvalVideo, TrainClip
from videogn.data.child_signals import heed_parent_alone
from videogn.data.dataset import EvalVideos, TrainClips
from videogn.data.guard import AVAILABLE, Guard
from videogn.data.samplers import Key
from videogn.data.workers import Workers
from videogn.launching import die_with


class TimedLoader(DataLoader[Any]):
    """A ``DataLoader`` that outlives its workers, can begin in an epoch's middle, and knows how long it was waited for.

    Its items must be functions of their keys: a worker that the system kills is replaced, and the batches that it owes
    are made again (:mod:`videogn.data.workers`).

    Nothing happens before the first ``next()``: then workers start, and the sampler is asked for its order. Lightning
    makes the iterator of a run that goes on before it tells the sampler the epoch. Nothing is drawn from any random
    generator.

    Attributes:
        waited: seconds that consumers have spent inside ``next()``, over all epochs.
    """

    waited: float = 0.0
    _workers: Workers | None = None  # those that persist
    _given: int = 0  # batches of the epoch that runs, those before its beginning included
    _begin: int = 0  # batches that the next iteration leaves out

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
    def _iterator(self) -> Any:
        """Lightning sets it to None when it needs the loader's workers no more; so does the base class at first."""
        return None

    @_iterator.setter
    def _iterator(self, _: Any) -> None:
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _batches(self, begin: int) -> Iterator[Any]:
        assert self.batch_sampler is not None, "expected a loader with a batch_size"
        plan = islice(iter(self.batch_sampler), begin, None)
        if self.num_workers == 0:
            yield from map(self._pin, map(self._make(), plan))
            return
        workers = self._workers or Workers(
            self._make(), self.num_workers, self.multiprocessing_context, self.worker_init_fn, self.dataset
        )
        if self.persistent_workers:
            self._workers = workers
        # A thread copies the next batch into page-locked memory, if it is there, while this one is worked on.
        pins = _pinning_thread() if self._pins else None
        pinned: Future[Any] | None = None
        try:
            number = workers.new_round()
            for keys in islice(plan, self.num_workers * (self.prefetch_factor or 1)):
                workers.ask(keys)
            while workers.left(number) or pinned:
                batch = pinned.result() if pinned else self._pin(workers.take())
                for keys in islice(plan, 1):
                    workers.ask(keys)
                ready = pins is not None and workers.left(number) and workers.ready()
                pinned = pins.submit(self._pin, workers.take()) if pins and ready else None
                yield batch
        except Exception:
            self._iterator = None
            raise
        finally:
            if pins is not None:
                pins.shutdown()
            if workers is not self._workers:
                workers.close()

    @property
    def _pins(self) -> bool:
        return bool(self.pin_memory) and torch.cuda.is_available()

    def _pin(self, batch: Any) -> Any:
        return batch.pin_memory() if self._pins else batch

    def _make(self) -> Callable[[list[Any]], Any]:
        return partial(_make, self.dataset, self.collate_fn)


def _pinning_thread() -> ThreadPoolExecutor:
    """A thread for the device of this one: page-locked memory of another would take memory on that device, too."""
    device = torch.cuda.current_device()
    return ThreadPoolExecutor(1, "pin", initializer=torch.cuda.set_device, initargs=(device,))


def _make(data: Any, collate: Callable[[list[Any]], Any], keys: list[Any]) -> Any:
    """The batch of some keys."""
    if hasattr(data, "__getitems__"):
        return collate(data.__getitems__(keys))
    return collate([data[key] for key in keys])


class _TimedIterator:
    def __init__(self, loader: TimedLoader, begin: int) -> None:
        self._loader, self._begin = loader, begin
        self._batches: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        loader = self._loader
        try:
            if self._batches is None:
                self._batches = loader._batches(self._begin)
                loader._given = self._begin
            batch = next(self._batches)
            loader._given += 1
            return batch
        finally:
            loader.waited += time.perf_counter() - start


class GuardedDataset(Dataset[Any]):
    """A data set for a loader's workers: each reads its files in a child process of its own, one after another.

    A file whose decoder makes no progress for ``timeout`` seconds, even in native code that holds Python's lock, or
    crashes, is a file that cannot be read; the child is ended and the next file gets another. PyAV makes progress with
    every packet; decord and torchcodec tell nothing, so that there the whole reading of a clip or video must take less
    than ``timeout``. On Linux reading from the file is progress, too: a slow disk is no hang. A child that the system
    kills is no fault of the file, which is read again.

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
    die_with(os.getppid())
    heed_parent_alone()
    torch.set_num_threads(1)
    gc.freeze()  # looking through what the main process holds for garbage would copy its pages into each worker
