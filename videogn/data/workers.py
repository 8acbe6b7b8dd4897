"""Processes that make a loader's batches; one that is killed is replaced, and its batches are made again."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch import multiprocessing
from torch.utils.data._utils import worker as torch_worker

from videogn.data.guard_child import portable
from videogn.errors import UsageError

log = logging.getLogger(__name__)

MOST_DEATHS = 3
"""So many ends of a process before it gives a batch are an error."""

_LOOK = 1.0  # seconds between two looks at whether the other side still lives
_PATIENCE = 1.0  # seconds for processes to end by themselves


class Workers:
    """Processes of which each makes every n-th batch.

    torch's own workers share a queue: one that is killed can leave the queue's lock taken or half a message in it, and
    a signal handler then raises an error wherever the main process happens to be. Here each process has a pipe of its
    own, and its end is seen where its batch is waited for. The batches have to be functions of what they are asked by.

    Args:
        make: what is asked -> batch; runs in the processes.
        count: of the processes.
        context: of :mod:`multiprocessing`, or the name of a start method; None is the system's.
        begin: called in each process with its number before anything else.
        data: the data set, for ``torch.utils.data.get_worker_info()``.
    """

    def __init__(
        self, make: Callable[[Any], Any], count: int, context: Any, begin: Callable[[int], None] | None, data: Any
    ) -> None:
        self._context: Any = multiprocessing.get_context(context) if isinstance(context, str | None) else context
        self._arguments = (make, count, begin, data)
        self._owner = os.getpid()
        self._round = self._asked = self._taken = 0
        util.get_temp_dir()  # the processes inherit it: the sockets of one that is killed are in it, too
        self._workers: list[_Worker] = []
        for number in range(count):
            self._workers.append(_Worker(number))
            self._start(self._workers[-1])

    def new_round(self) -> int:
        """Forgets what was asked before; the number of the round that begins."""
        self._round += 1
        self._asked = self._taken = 0
        return self._round

    def left(self, number: int) -> int:
        """How many batches were asked for in a round and not taken.

        Raises:
            RuntimeError: another round has begun.
        """
        if number != self._round:
            raise RuntimeError("another iteration over this loader has begun, which uses the same processes")
        return self._asked - self._taken

    def ask(self, job: Any) -> None:
        """Has the next process make a batch."""
        worker = self._workers[self._asked % len(self._workers)]
        self._asked += 1
        worker.asked.append((self._round, job))
        worker.send(job)

    def ready(self) -> bool:
        """Whether :meth:`take` would find something at once, as far as can be told without waiting."""
        return self._workers[self._taken % len(self._workers)].connection.poll(0)

    def take(self) -> Any:
        """The batch that was asked for first of those that are left, which is waited for.

        Raises:
            UsageError: a process ended :data:`MOST_DEATHS` times without a batch.
            Exception: what was raised where the batch was made.
        """
        worker = self._workers[self._taken % len(self._workers)]
        while True:
            wait([worker.connection, *(each.process.sentinel for each in self._workers)], timeout=_LOOK)
            for each in self._workers:
                if each.process.exitcode is not None:
                    self._replace(each)
            if not worker.connection.poll(0):
                continue
            received = self._receive(worker)
            if received is None:
                continue
            asked_in, _ = worker.asked.popleft()
            worker.deaths = 0
            if asked_in == self._round:
                self._taken += 1
                good, result = received
                if not good:
                    raise result
                return result

    def close(self) -> None:
        """Ends the processes. Calling it again does nothing."""
        if self._owner != os.getpid():  # a process that was forked from the one that they belong to
            return
        for worker in self._workers:
            worker.send(None)
        end = time.monotonic() + _PATIENCE
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            worker.bury()
        self._workers = []

    def __del__(self) -> None:
        if contextlib is not None:  # at the interpreter's end modules are gone before the last objects
            with contextlib.suppress(Exception):
                self.close()

    def _receive(self, worker: _Worker) -> tuple[bool, Any] | None:
        """What a process has sent; None if it ended in the middle, or took the memory of its batch with it."""
        try:
            received: tuple[bool, Any] = worker.connection.recv()
        except Exception:
            worker.process.join(_PATIENCE)
            if worker.process.exitcode is None:
                raise
            return None  # the next look at the processes replaces it
        except BaseException:  # Ctrl-C: what is left of the message would be taken for the next one
            worker.process.kill()
            raise
        return received

    def _replace(self, worker: _Worker) -> None:
        """Another process in the place of one that has ended; it makes all that the first one owes."""
        how = _in_words(worker.process.exitcode or 0)
        worker.bury()
        worker.asked = deque(entry for entry in worker.asked if entry[0] == self._round)
        worker.deaths += 1
        if worker.deaths >= MOST_DEATHS:
            count = len(self._workers)
            self._workers.remove(worker)
            raise UsageError(
                f"data.num_workers: one of the {count} processes that read videos ended {worker.deaths} times without "
                f"giving a batch, the last time by {how}. Most likely memory is short, and the system ends what takes "
                f"the most: lower data.num_workers (found {count}) or data.batch_size, make the videos smaller "
                "(`videogn data resize`), or give the job more memory."
            )
        log.warning(
            "one of the processes that read videos was ended (%s); another one makes its batches again. If this comes "
            "often, memory is short: lower data.num_workers (found %d)",
            how,
            len(self._workers),
        )
        self._start(worker)
        for _, job in worker.asked:
            worker.send(job)

    def _start(self, worker: _Worker) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, worker.number, *self._arguments), name=f"videos-{worker.number}", daemon=True
        )
        process.start()
        theirs.close()
        worker.process, worker.connection, worker.started = process, ours, time.time()


class _Worker:
    """One process as the others see it.

    Attributes:
        asked: (round, job) of the batches that it owes, in the order in which they come.
        deaths: how often it has ended since it last gave a batch.
    """

    process: BaseProcess
    connection: Connection
    started: float

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: deque[tuple[int, Any]] = deque()
        self.deaths = 0

    def send(self, job: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended: whoever waits for its batch will see it
            self.connection.send(job)

    def bury(self) -> None:
        """Closes and removes what an ended process leaves."""
        self.connection.close()
        # torch takes the name off shared memory right after making it; one that is killed in between cannot.
        for path in glob.glob(f"/dev/shm/torch_{self.process.pid}_*"):
            with contextlib.suppress(OSError):
                if os.stat(path).st_mtime >= self.started - 1:  # else it is of another process of that number
                    os.unlink(path)
        self.process.close()


def _work(
    connection: Connection,
    number: int,
    make: Callable[[Any], Any],
    count: int,
    begin: Callable[[int], None] | None,
    data: Any,
) -> None:
    """What a process does until it is told to end, or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's handler, which would save a checkpoint here
    for name in ("SIGUSR1", "SIGUSR2", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "register_at_fork"):  # or the parent would not see the end of this process before its children's
        os.register_at_fork(after_in_child=connection.close)
    parent = os.getppid()
    torch_worker._worker_info = torch_worker.WorkerInfo(id=number, num_workers=count, seed=0, dataset=data)
    if begin is not None:
        begin(number)
    while True:
        while not connection.poll(_LOOK):
            if os.getppid() != parent:
                return
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        message = _answer(make, job)
        try:
            connection.send_bytes(message)
        except OSError:
            return


def _answer(make: Callable[[Any], Any], job: Any) -> Any:
    """(good, batch or error), pickled; tensors stay in shared memory."""
    try:
        return ForkingPickler.dumps((True, make(job)))
    except Exception as error:
        if "shared memory" in str(error) or "/torch_" in str(error):
            error = UsageError(
                f"data.num_workers: shared memory, in which batches travel, is full ({error}). Lower data.num_workers "
                "or data.batch_size, or give the system more of it (docker: --shm-size)."
            )
        return pickle.dumps((False, portable(error)))


def _in_words(code: int) -> str:
    """How a process ended."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
