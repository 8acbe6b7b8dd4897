"""Signals that ask a run to stop. No torch here: they are listened to before it is imported."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

CODES: dict[int, int] = {signal.SIGTERM: 143}
"""What a run that was asked to stop exits with, by signal."""
if hasattr(signal, "SIGUSR1"):  # not on Windows
    CODES[signal.SIGUSR1] = 75  # EX_TEMPFAIL: start me again

_AGAIN_SECONDS = 5.0


class Stopped(SystemExit):
    """A run ends because a signal asked it to.

    Args:
        number: of the signal.
        text: what to tell the user; empty where another process tells it.
        together: all processes of the run have agreed to end here, and end by themselves.
    """

    def __init__(self, number: int, text: str, together: bool = False) -> None:
        super().__init__(CODES[number])
        self.text = text
        self.together = together

    @property
    def exit_code(self) -> int:
        """As the errors of :mod:`videogn.errors` have it."""
        return int(self.code)  # type: ignore[arg-type]


class StopRequests:
    """Listens for SIGTERM and SIGUSR1 inside a ``with`` block, in the process that enters it and in none of its forks.

    The first signal raises :class:`Stopped` where it finds the process, or is left in ``asked`` while ``deferred``. The
    second one ends the process at once, with the code of the first, unless it comes within five seconds: a launcher
    hands on what its children have got already, when a whole group or job is signalled.

    Attributes:
        asked: number of the first signal; None before.
        deferred: whoever sets this looks at ``asked`` from time to time.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.deferred = False
        self._since = 0.0
        self._owner = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        self.asked, self.deferred, self._owner = None, False, os.getpid()
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {number: signal.signal(number, self._handle) for number in CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def overlook(self) -> None:
        """For a process that has stopped: whatever comes while it ends does not change its exit code."""
        for number in CODES:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a fork, which ends with its parent
            return
        if self.asked is None:
            self.asked, self._since = number, time.monotonic()
            if not self.deferred:
                name = signal.Signals(number).name
                raise Stopped(number, f"stopped by {name} before there was anything to save; start it again")
        elif time.monotonic() - self._since > _AGAIN_SECONDS:
            os._exit(CODES[self.asked])


REQUESTS = StopRequests()
"""Of this process: signals reach it as a whole."""
