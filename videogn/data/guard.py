"""Functions in child processes that can be ended: native code that hangs or crashes costs one file and not the run.

A decoder can spin for ever inside native code, holding Python's lock, where no exception, thread or signal handler
reaches it. Only another process can end it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from videogn.data.child_watch import KILLED, bytes_read, how_it_ended
from videogn.data.guard_child import ALIGN, serve
from videogn.errors import VideoError

Beat = Callable[[], None]
"""Says that there is progress; costs less than a microsecond."""
Function = Callable[[Any, Beat], Any]
"""What a child runs: (argument, beat) -> result, both of which can be pickled."""

AVAILABLE = hasattr(os, "fork")
"""Whether this system can fork processes (Linux and macOS; not Windows)."""

_ROOM = 256 << 20  # bytes of address space per child; memory is taken only where something is written
_LOOK = 1.0  # seconds between two looks at a child
_READING = 10  # so many timeouts in which nothing but reading counts as progress: a decoder can read in circles
_TRIES = 3  # of a call whose child somebody kills


class Guard:
    """Calls a function in a child process, again and again; ends the child when it makes no progress.

    The child starts with the first call, by forking, so the function needs no pickling and sees what its parent holds.
    After a crash or an end, the next call starts another one. It dies with its parent: on Linux even while it hangs and
    however the parent ends, elsewhere as soon as it comes back from native code. A context manager.

    Belongs to the thread that made it. A process forked from its own gets another child with its first call.

    A child that is killed from outside, by SIGKILL as the system does when memory is short, says nothing about the
    file: the call is made again, and fails with the third kill.

    Args:
        function: ``function(argument, beat)``; calls ``beat()`` whenever it gets on.
        timeout: seconds without progress after which the child is ended; a call begins with progress. On Linux it is
            also progress that the child has read from a file, for up to ten timeouts between two beats: a slow disk
            is no hang.

    Raises:
        RuntimeError: a system that cannot fork.
        ValueError: a timeout that is not positive.
    """

    _connection: Connection | None = None

    def __init__(self, function: Function, timeout: float) -> None:
        if not AVAILABLE:
            raise RuntimeError("this system cannot fork processes")
        if not timeout > 0:
            raise ValueError(f"timeout: expected more than 0 seconds, found {timeout}")
        self.timeout = timeout
        self._function = function
        self._renew()

    def _renew(self) -> None:
        """Starts from nothing: no child, and memory that no other process has."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._owner: int = os.getpid()
        self._pid: int = 0
        self._memory: mmap.mmap = mmap.mmap(-1, _ROOM)
        self._at: int = ALIGN
        self._beats: np.ndarray = np.frombuffer(self._memory, np.int64, 1)
        self._seen: int = 0
        self._looked: float = 0.0
        self._quiet: float = 0.0
        self._read: int = 0  # bytes that the child has read
        self._reading: float = 0.0  # seconds in which it did nothing else
        self._path: str = ""
        self._busy: bool = False
        self.killed: bool = False

    def call(self, path: str, argument: Any, copy: bool = True) -> Any:
        """The function's result; its exceptions are raised here.

        Args:
            path: the file that the call is about, for messages.
            copy: False leaves the data of tensors and arrays in memory shared with the child, where they are valid
                until :meth:`release`.

        Raises:
            VideoError: the child crashed, or was ended because it made no progress.
        """
        tries = _TRIES
        while True:
            self.start(path, argument)
            while not self.done(wait_for=_LOOK):
                pass
            try:
                return self.result(copy)
            except VideoError:
                tries -= 1
                if not (self.killed and tries):
                    raise

    def release(self) -> None:
        """Lets the child write over the results that were not copied."""
        self._at = ALIGN

    def start(self, path: str, argument: Any) -> None:
        """Begins a call; :meth:`result` ends it."""
        if self._owner != os.getpid():
            self._renew()
        if self._busy:  # a call that was left, by Ctrl-C for example: its result must not become this one's
            self._end()
        if self._connection is None:
            self._spawn()
        self._path = path
        self._busy = True
        self.killed = False
        message = ForkingPickler.dumps((argument, self._at))
        self._seen = int(self._beats[0])
        self._read = bytes_read(self._pid) + 4 + len(message)  # what it reads from here
        self._looked = time.monotonic()
        self._quiet = self._reading = 0.0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the child is gone: result() says so
            self.connection.send_bytes(message)

    def done(self, wait_for: float = 0.0) -> bool:
        """Whether :meth:`result` would return or raise at once, after waiting up to ``wait_for`` seconds for it."""
        return self.connection.poll(max(0.0, min(wait_for, self.timeout - self._quiet))) or self.stalled()

    def stalled(self) -> bool:
        """Whether the call has made no progress for ``timeout`` seconds."""
        beats, read, now = int(self._beats[0]), bytes_read(self._pid), time.monotonic()
        # Each look counts two seconds at most: a stopped job or a sleeping machine has stopped the child, too.
        passed = min(now - self._looked, 2 * _LOOK)
        if beats != self._seen:
            self._quiet = self._reading = 0.0
        elif read > self._read and self._reading < _READING * self.timeout:
            self._quiet, self._reading = 0.0, self._reading + passed
        else:
            self._quiet += passed
        self._seen, self._read, self._looked = beats, max(read, self._read), now
        return self._quiet >= self.timeout

    def result(self, copy: bool = True) -> Any:
        """The result of the call that is :meth:`done`; takes and raises what :meth:`call` does."""
        self._busy = False
        if not self.connection.poll(0):
            self._end()
            raise VideoError(
                self._path, f"no progress for {self.timeout:g} s: the decoder, or the disk, hangs, and was ended"
            )
        try:
            good, body, sizes = self.connection.recv()
        except (EOFError, ConnectionResetError, pickle.UnpicklingError):
            how = self._end()
            self.killed = how == KILLED
            raise VideoError(self._path, f"the decoder crashed ({how})") from None
        result = pickle.loads(body, buffers=self._buffers(sizes, copy))
        if not good:
            raise result
        return result

    def close(self) -> None:
        """Ends the child. Calling it again does nothing."""
        self._end()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if contextlib is not None:  # at the interpreter's end modules are gone before the last objects
            with contextlib.suppress(Exception):
                self._end()

    @property
    def connection(self) -> Connection:
        """For ``multiprocessing.connection.wait``; only while a call is on."""
        assert self._connection is not None
        return self._connection

    def _buffers(self, sizes: list[int], copy: bool) -> list[np.ndarray]:
        at, buffers = self._at, []
        for size in sizes:
            shared = np.frombuffer(self._memory, np.uint8, size, at)
            buffers.append(shared.copy() if copy else shared)
            at += -(-size // ALIGN) * ALIGN
        if not copy:
            self._at = at
        return buffers

    def _spawn(self) -> None:
        ours, theirs = Pipe()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # From Python 3.12 on: forking beside threads. The child uses nothing that they hold locks of.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                serve(self._function, theirs, self._memory, parent)
            finally:
                os._exit(1)
        theirs.close()
        self._pid = pid
        self._connection = ours

    def _end(self) -> str:
        """Ends the child if there is one; how it ended, in words."""
        if self._connection is None:
            return "no child"
        self._connection.close()
        self._connection = None
        self._busy = False
        if self._owner != os.getpid():
            return "the child of another process"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        return how_it_ended(self._pid)


def guarded_map(
    function: Function, jobs: Iterable[tuple[str, Any]], workers: int, timeout: float
) -> Iterator[tuple[str, Any]]:
    """Calls ``function`` for every (path, argument) in ``workers`` children, as they get free.

    Yields:
        (path, result or exception) in the order in which they finish. Leaving the loop ends all children.
    """
    left = iter(jobs)
    guards = [Guard(function, timeout) for _ in range(workers)]
    busy: dict[Connection, tuple[tuple[str, Any], int, Guard]] = {}

    def begin(guard: Guard, job: tuple[str, Any] | None, tries: int = _TRIES) -> None:
        if job is not None:
            guard.start(*job)
            busy[guard.connection] = (job, tries - 1, guard)

    try:
        for guard in guards:
            begin(guard, next(left, None))
        while busy:
            ready = set(wait(list(busy), timeout=min(_LOOK, timeout)))
            for connection, (job, tries, guard) in list(busy.items()):
                if connection not in ready and not guard.stalled():
                    continue
                del busy[connection]
                try:
                    outcome = guard.result()
                except Exception as error:
                    outcome = error
                if guard.killed and tries:
                    begin(guard, job, tries)
                    continue
                begin(guard, next(left, None))  # before the caller does its part
                yield job[0], outcome
    finally:
        for guard in guards:
            guard.close()
