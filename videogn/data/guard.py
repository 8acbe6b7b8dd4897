"""Functions in child processes that can be ended: native code that hangs or crashes costs one file and not the run.

A decoder can spin for ever inside native code, holding Python's lock, where no exception, thread or signal handler
reaches it. Only another process can end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import mmap
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn

import numpy as np
import torch

from videogn.errors import VideoError

Beat = Callable[[], None]
"""Says that there is progress; costs less than a microsecond."""
Function = Callable[[Any, Beat], Any]
"""What a child runs: (argument, beat) -> result, both of which can be pickled."""

AVAILABLE = hasattr(os, "fork")
"""Whether this system can fork processes (Linux and macOS; not Windows)."""

_ROOM = 256 << 20  # bytes of address space per child; memory is taken only where something is written
_HEAD = 64  # bytes for the counter of beats, alone in its cache line; what follows is aligned to as much


class Guard:
    """Calls a function in a child process, again and again; ends the child when it makes no progress.

    The child starts with the first call, by forking, so the function needs no pickling and sees what its parent holds.
    It dies with its parent. After a crash or an end, the next call starts another one. A context manager; belongs to
    the process and thread that made it.

    Args:
        function: ``function(argument, beat)``; calls ``beat()`` whenever it gets on.
        timeout: seconds without progress after which the child is ended; a call begins with progress.

    Raises:
        RuntimeError: a system that cannot fork.
        ValueError: a timeout that is not positive.
    """

    def __init__(self, function: Function, timeout: float) -> None:
        if not AVAILABLE:
            raise RuntimeError("this system cannot fork processes")
        if not timeout > 0:
            raise ValueError(f"timeout: expected more than 0 seconds, found {timeout}")
        self.timeout = timeout
        self._function = function
        self._pid = 0
        self._connection: Connection | None = None
        self._memory = mmap.mmap(-1, _ROOM)
        self._beats = np.frombuffer(self._memory, np.int64, 1)
        self._seen, self._deadline = 0, math.inf
        self._path = ""
        self._at = _HEAD

    def call(self, path: str, argument: Any, copy: bool = True) -> Any:
        """The function's result; its exceptions are raised here.

        Args:
            path: the file that the call is about, for messages.
            copy: False leaves the data of tensors and arrays in memory shared with the child, where they are valid
                until :meth:`release`.

        Raises:
            VideoError: the child crashed, or was ended because it made no progress.
        """
        self.start(path, argument)
        while not self.done(wait_for=1.0):
            pass
        return self.result(copy)

    def release(self) -> None:
        """Lets the child write over the results that were not copied."""
        self._at = _HEAD

    def start(self, path: str, argument: Any) -> None:
        """Begins a call; :meth:`result` ends it."""
        if self._connection is None:
            self._spawn()
        self._path = path
        self._seen, self._deadline = int(self._beats[0]), time.monotonic() + self.timeout
        assert self._connection is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the child is gone: result() says so
            self._connection.send((argument, self._at))

    def done(self, wait_for: float = 0.0) -> bool:
        """Whether :meth:`result` would return or raise at once, after waiting up to ``wait_for`` seconds for it."""
        assert self._connection is not None
        return self._connection.poll(wait_for) or self.stalled()

    def stalled(self) -> bool:
        """Whether the call has made no progress for ``timeout`` seconds."""
        beats, now = int(self._beats[0]), time.monotonic()
        if beats != self._seen:
            self._seen, self._deadline = beats, now + self.timeout
        return now > self._deadline

    def result(self, copy: bool = True) -> Any:
        """The result of the call that is :meth:`done`; takes and raises what :meth:`call` does."""
        assert self._connection is not None
        if not self._connection.poll(0):
            self._end()
            raise VideoError(self._path, f"no progress for {self.timeout:g} s: the decoder hangs and was ended")
        try:
            good, body, sizes = self._connection.recv()
        except (EOFError, ConnectionResetError, pickle.UnpicklingError):
            raise VideoError(self._path, f"the decoder crashed ({self._end()})") from None
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
        with contextlib.suppress(Exception):
            self._end()

    @property
    def connection(self) -> Connection:
        """For ``multiprocessing.connection.wait``; only while a call is on."""
        assert self._connection is not None
        return self._connection

    def _buffers(self, sizes: list[int], copy: bool) -> Iterator[np.ndarray]:
        at = self._at
        for size in sizes:
            shared = np.frombuffer(self._memory, np.uint8, size, at)
            yield shared.copy() if copy else shared
            at += -(-size // _HEAD) * _HEAD
        if not copy:
            self._at = at

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
                _die_with(parent)
                _serve(self._function, theirs, self._memory)
            finally:
                os._exit(1)
        theirs.close()
        self._pid, self._connection = pid, ours

    def _end(self) -> str:
        """Ends the child if there is one; how it ended, in words."""
        if self._connection is None:
            return "no child"
        self._connection.close()
        self._connection = None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def guarded_map(
    function: Function, jobs: Iterable[tuple[str, Any]], workers: int, timeout: float
) -> Iterator[tuple[str, Any]]:
    """Calls ``function`` for every (path, argument) in ``workers`` children, as they get free.

    Yields:
        (path, result or exception) in the order in which they finish. Leaving the loop ends all children.
    """
    left = iter(jobs)
    guards = [Guard(function, timeout) for _ in range(workers)]
    busy: dict[Connection, tuple[str, Guard]] = {}

    def begin(guard: Guard) -> None:
        job = next(left, None)
        if job is not None:
            guard.start(*job)
            busy[guard.connection] = (job[0], guard)

    try:
        for guard in guards:
            begin(guard)
        while busy:
            ready = set(wait(list(busy), timeout=1.0))
            for connection, (path, guard) in list(busy.items()):
                if connection not in ready and not guard.stalled():
                    continue
                del busy[connection]
                try:
                    outcome = guard.result()
                except Exception as error:
                    outcome = error
                begin(guard)  # before the caller does its part
                yield path, outcome
    finally:
        for guard in guards:
            guard.close()


def _serve(function: Function, connection: Connection, memory: mmap.mmap) -> NoReturn:
    """The child: answers calls until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    beats = np.frombuffer(memory, np.int64, 1)

    def beat() -> None:
        beats[0] += 1

    while True:
        try:
            argument, at = connection.recv()
        except (EOFError, ConnectionResetError):
            os._exit(0)
        try:
            good, result = True, function(argument, beat)
        except Exception as error:
            good, result = False, error
        beat()
        try:
            message = (good, *_pack(result, memory, at))
        except Exception as error:  # what cannot be pickled
            message = (False, *_pack(RuntimeError(f"{type(result).__name__}: {result} ({error})"), memory, at))
        connection.send(message)


def _pack(result: Any, memory: mmap.mmap, at: int) -> tuple[bytes, list[int]]:
    """Pickles a result; its tensors and arrays go into the shared memory from ``at`` on, while there is room."""
    sizes: list[int] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        nonlocal at
        raw = buffer.raw()
        if at + raw.nbytes > len(memory):
            return True  # inside the pickle
        memory[at : at + raw.nbytes] = raw
        sizes.append(raw.nbytes)
        at += -(-raw.nbytes // _HEAD) * _HEAD
        return False

    body = io.BytesIO()
    _Pickler(body, protocol=5, buffer_callback=keep).dump(result)
    return body.getvalue(), sizes


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _die_with(parent: int) -> None:
    """Has the kernel end this process when its parent ends, even while it hangs (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)
