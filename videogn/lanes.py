"""Forward passes side by side: on a CPU in threads that never wait for each other, elsewhere one after another.

One forward pass on all cores keeps them busy only while nobody else wants one of them: its threads wait for the slowest
after every layer, and a decoder that takes half a core makes the other cores idle half of the time. Forward passes of
their own on fewer threads each do not.
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Pipe
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from videogn.data.batches import EvalVideo
from videogn.module import VideoClassifier
from videogn.spec import ClipSpec

_PIXELS = 1 << 18
"""Of all frames of the views that a CPU computes at once, even if they are more than a lane's share: where views are
small, Python is a large part of the time, and one thread at a time runs Python."""
_MALLOC = ((-8, 1), (-3, 1 << 30), (-1, (1 << 31) - 1))
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h."""


@dataclass(frozen=True)
class Plan:
    """How views are shared out to forward passes.

    Attributes:
        lanes: forward passes at a time, at most the model's ``clips_per_forward``.
        threads: of each.
        views: in each, at most. Where they are more than the lanes' share of ``clips_per_forward``, they are small.
    """

    lanes: int
    threads: int
    views: int

    @classmethod
    def of(cls, model: VideoClassifier, clip: ClipSpec, videos: int) -> Plan:
        """The plan for all views of some videos."""
        budget, threads, views = model.clips_per_forward, torch.get_num_threads(), videos * clip.num_views
        if model.device.type != "cpu":
            return cls(1, threads, min(budget, views))
        lanes = max(range(1, min(threads, budget, views) + 1), key=lambda n: (n * (threads // n), n))
        own = clip.protocol
        pixels = clip.eval_frames * (own.short_side if own.crop == "full" else own.side) ** 2
        most = min(budget, max(budget // lanes, _PIXELS // pixels))
        return cls(lanes, threads // lanes, min(most, -(-views // lanes)))


def split(video: EvalVideo, views: int) -> list[EvalVideo]:
    """A video in parts of at most ``views`` views, in their order: some clips, or some crops of one."""
    clips = views // len(video.crops)
    if clips:
        return [replace(video, index=rows) for rows in video.index.split(clips)]
    parts = [video.crops[at : at + views] for at in range(0, len(video.crops), views)]
    return [replace(video, index=rows, crops=crops) for rows in video.index.split(1) for crops in parts]


class Lanes:
    """Threads that compute ``model.probabilities``. A context manager, which ends them within a fraction of a forward
    pass; belongs to one thread.

    Args:
        model: must not be in use elsewhere.

    Attributes:
        waiting: jobs that were submitted and not taken.
        bell: can be read, as ``multiprocessing.connection.wait`` says, when :meth:`take` would return at once.
    """

    def __init__(self, model: VideoClassifier, plan: Plan) -> None:
        self.waiting = 0
        self.bell, self._ring = Pipe(duplex=False)
        self._model = model
        self._jobs: queue.SimpleQueue[tuple[Any, Sequence[EvalVideo]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Any, list[Tensor] | Exception]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._before = torch.get_num_threads()
        self._hooks = [layer.register_forward_pre_hook(self._look) for layer in model.modules() if not _is_leaf(layer)]
        self._threads = [
            threading.Thread(target=self._run, args=(plan.threads,), daemon=True) for _ in range(plan.lanes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, key: Any, videos: Sequence[EvalVideo]) -> None:
        """Has the views of some videos computed; ``key`` comes back with the result."""
        self.waiting += 1
        self._jobs.put((key, videos))

    def take(self) -> tuple[Any, list[Tensor] | Exception]:
        """The key and, per video, the probabilities (views, num_classes) of a job; or what went wrong. Waits for it."""
        self.bell.recv_bytes()
        self.waiting -= 1
        return self._done.get()

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        for hook in self._hooks:
            hook.remove()
        torch.set_num_threads(self._before)
        self.bell.close()
        self._ring.close()

    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)  # holds for forward passes of this thread
        with torch.inference_mode():
            while (job := self._jobs.get()) is not None:
                key, videos = job
                try:
                    found = self._model.probabilities([video.to(self._model.device) for video in videos])
                    outcome: list[Tensor] | Exception = [views.cpu() for views in found]
                except Exception as error:
                    outcome = error
                self._done.put((key, outcome))
                self._ring.send_bytes(b"1")

    def _look(self, layer: nn.Module, inputs: Any) -> None:
        if self._stop.is_set():
            raise InterruptedError("nobody waits for this forward pass")


def keep_freed_memory() -> None:
    """Has malloc keep what this process frees, and the lanes share it, where the system would else be asked for the
    memory of each layer again, page by page. For processes that do nothing else; without effect but on glibc."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOC:
            mallopt(parameter, value)


def _is_leaf(layer: nn.Module) -> bool:
    return next(layer.children(), None) is None
