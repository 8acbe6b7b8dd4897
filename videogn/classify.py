"""Many files in, probabilities out: files are read in child processes while the network computes those before them."""

from __future__ import annotations

import os
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from torch import Tensor, cat, inference_mode

from videogn.data.batches import EvalVideo
from videogn.data.cores import available_cores
from videogn.data.decode import check_backend
from videogn.data.guard import AVAILABLE, Beat, Guard
from videogn.data.jobs import reason_for
from videogn.errors import UsageError, VideoError
from videogn.inference import clip_of, mean_of_views, read_video
from videogn.lanes import Lanes, Plan, split
from videogn.module import VideoClassifier
from videogn.spec import ClipSpec

Outcome = Tensor | VideoError
"""Probabilities, float32 (num_classes,) on the CPU, or why there are none."""

_LOOK = 1.0  # seconds between two looks at the children
_NICE = 10  # by how much the network's threads go before the reading processes
_AHEAD = 2  # videos that are read and wait, beside those that are being read


def classify_videos(
    model: VideoClassifier,
    paths: Sequence[str],
    clip: ClipSpec | None = None,
    *,
    backend: str = "pyav",
    workers: int | None = None,
    timeout: float = 60.0,
) -> Generator[tuple[str, Outcome], None, None]:
    """The probabilities of many videos: those of :func:`videogn.predict_video` up to rounding.

    Which views share a forward pass is a function of the arguments and of the number of threads, and of nothing that
    depends on time: the same call gives the same bits. Views of one video are shared out over the threads; of videos
    with few views, some that follow each other are computed at once where they have one size.

    Args:
        model: of :func:`videogn.load` or :func:`videogn.inference.for_inference`; used from threads of this process.
        paths: the files.
        clip: how clips are cut, and which; the model's by default.
        backend: decoder, one of ``videogn.data.decode.BACKENDS``.
        workers: processes that read files; as many videos, and a few with few views, are in memory at a time. By
            default one per core that this process may use, and two more, which are ahead.
        timeout: seconds without progress after which the reading of a file is given up.

    Yields:
        (path, probabilities or error) in the order of ``paths``. A file that cannot be read, that crashes the decoder
        or makes it hang, or that the network cannot compute costs no other one. Leaving the loop ends all processes.

    Raises:
        UsageError: an unknown or missing backend, a number below 1, or a model without class names.
        FloatingPointError: the network's output is not finite; with the file's path.
    """
    clip = clip or clip_of(model)
    workers = available_cores() + _AHEAD if workers is None else workers
    if workers < 1:
        raise UsageError(f"workers: expected at least 1, found {workers}")
    check_backend(backend)
    if not paths:
        return
    if not AVAILABLE:
        yield from _one_by_one(model, paths, clip, backend)
        return
    plan = Plan.of(model, clip, len(paths))
    pipeline = _Pipeline(paths, clip, plan, _Readers(clip, backend, min(workers, len(paths)), timeout))
    with ExitStack() as stack:
        stack.callback(pipeline.readers.close)
        pipeline.lanes = stack.enter_context(Lanes(model, plan))
        yield from pipeline.run()


def _one_by_one(
    model: VideoClassifier, paths: Sequence[str], clip: ClipSpec, backend: str
) -> Iterator[tuple[str, Outcome]]:
    """Where processes cannot be forked."""
    for path in paths:
        outcome: Outcome
        try:
            video = read_video(path, clip, backend)
        except VideoError as error:
            outcome = error
        else:
            with inference_mode():
                outcome = mean_of_views(model.probabilities([video.to(model.device)])[0], path)
        yield path, outcome


@dataclass
class _File:
    """A file between its reading and its result.

    Attributes:
        reader: in whose memory it is, if it was not copied.
        missing: forward passes that it waits for.
        parts: what they gave.
        error: what went wrong in one of them.
    """

    reader: Guard | None = None
    missing: int = 0
    parts: dict[int, Tensor] = field(default_factory=dict)
    error: VideoError | None = None


class _Pipeline:
    """The files on their way. Files are numbered in the order of ``paths``; ``together`` of them may share a forward
    pass, and are then copied out of their readers' memory, which would be too few to hold them."""

    lanes: Lanes

    def __init__(self, paths: Sequence[str], clip: ClipSpec, plan: Plan, readers: _Readers) -> None:
        self.paths, self.readers = paths, readers
        self.together = max(1, plan.views // clip.num_views)
        self.views = plan.views
        # Several files that share a pass wait for the last of them; twice as many keep the network busy meanwhile.
        self.most = len(readers.guards) + (2 * self.together if self.together > 1 else 0)
        self.files: dict[int, _File] = {}
        self.groups: dict[int, list[tuple[int, EvalVideo]]] = {}
        self.unread: dict[int, int] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.next = 0

    def run(self) -> Iterator[tuple[str, Outcome]]:
        for i, path in enumerate(self.paths):
            while i not in self.outcomes:
                self._begin_reading()
                self._wait()
            yield path, self.outcomes.pop(i)

    def _begin_reading(self) -> None:
        while self.next < len(self.paths) and len(self.files) < self.most and self.readers.begin(self.next, self.paths):
            self.files[self.next] = _File()
            self.next += 1

    def _wait(self) -> None:
        ready = set(wait([*self.readers.busy, self.lanes.bell], timeout=_LOOK))
        for i, reader, video in self.readers.finished(ready, copy=self.together > 1):
            self._take_video(i, reader, video)
        while self.lanes.waiting and self.lanes.bell.poll():
            self._take_views(*self.lanes.take())

    def _take_video(self, i: int, reader: Guard, video: EvalVideo | VideoError) -> None:
        number = i // self.together
        group = self.groups.setdefault(number, [])
        if isinstance(video, VideoError):
            self._finish(i, video)
        else:
            group.append((i, video))
        if self.together == 1 and group:
            self.files[i].reader = reader
        else:
            self.readers.free(reader)
        size = min(self.together, len(self.paths) - number * self.together)
        left = self.unread[number] = self.unread.get(number, size) - 1
        if left == 0:
            del self.groups[number], self.unread[number]
            self._compute(sorted(group, key=lambda member: member[0]))

    def _compute(self, group: list[tuple[int, EvalVideo]]) -> None:
        """Hands the views of a group over, as many to a forward pass as the plan says."""
        if self.together > 1:
            jobs = [group] if group else []
        else:
            jobs = [[(i, part)] for i, video in group for part in split(video, self.views)]
        for at, job in enumerate(jobs):
            for i, _ in job:
                self.files[i].missing += 1
            self.lanes.submit((at, [i for i, _ in job]), [video for _, video in job])

    def _take_views(self, key: tuple[int, list[int]], found: list[Tensor] | Exception) -> None:
        at, members = key
        for n, i in enumerate(members):
            file = self.files[i]
            file.missing -= 1
            if isinstance(found, Exception):
                reason = f"the network cannot compute it: {reason_for(found).splitlines()[0]}"
                file.error = VideoError(self.paths[i], reason)
            else:
                file.parts[at] = found[n]
            if file.missing:
                continue
            if file.reader is not None:
                self.readers.free(file.reader)
            views = [file.parts[part] for part in sorted(file.parts)]
            self._finish(i, file.error or mean_of_views(cat(views), self.paths[i]))

    def _finish(self, i: int, outcome: Outcome) -> None:
        del self.files[i]
        self.outcomes[i] = outcome


class _Readers:
    """Child processes that read videos, each of which holds one result in its memory until it is free again."""

    def __init__(self, clip: ClipSpec, backend: str, count: int, timeout: float) -> None:
        self._clip, self._backend = clip, backend
        self.guards = [Guard(self._read, timeout) for _ in range(count)]
        self._idle = list(self.guards)
        self._behind = False
        self.busy: dict[Connection, tuple[int, str, Guard]] = {}

    def begin(self, i: int, paths: Sequence[str]) -> bool:
        """Whether a process was free to begin with file ``i``."""
        if not self._idle:
            return False
        guard = self._idle.pop()
        guard.start(paths[i], paths[i])
        self.busy[guard.connection] = (i, paths[i], guard)
        return True

    def finished(self, ready: Container[object], copy: bool) -> Iterator[tuple[int, Guard, EvalVideo | VideoError]]:
        """Number, process and video of the files that are read, or whose reading failed."""
        for connection, (i, path, guard) in list(self.busy.items()):
            if connection not in ready and not guard.stalled():
                continue
            del self.busy[connection]
            video: EvalVideo | VideoError
            try:
                video = guard.result(copy)
            except Exception as error:
                video = error if isinstance(error, VideoError) else VideoError(path, reason_for(error))
            yield i, guard, video

    def free(self, guard: Guard) -> None:
        """Lets a process use its memory again."""
        guard.release()
        self._idle.append(guard)

    def close(self) -> None:
        """Ends all processes."""
        for guard in self.guards:
            guard.close()

    def _read(self, path: str, beat: Beat) -> EvalVideo:
        if not self._behind:  # in a new child
            os.nice(_NICE)
            self._behind = True
        return read_video(path, self._clip, self._backend, progress=beat)
