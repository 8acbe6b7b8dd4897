"""Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 30.0


class ProgressBar:
    """How many of ``total`` are done. A context manager.

    Drawn by :meth:`update` alone: a thread that draws could hold a lock at the moment when a child is forked.

    Args:
        what: what is done, a few words.
        total: of how many; None until :meth:`update` tells.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total = what, total
        self._bar: Progress | None = None
        self._due, self._last = time.monotonic(), ""
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task(what, total=total, note="")

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Shows that ``done`` are done, with a remark; ``total`` replaces the one before."""
        self.total = self.total if total is None else total
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self.total, note=note)
            if now >= self._due or done == self.total:
                self._due = now + _REDRAW_SECONDS
                self._bar.refresh()
        elif now >= self._due or done == self.total:
            self._due = now + _LINE_SECONDS
            line = f"{self.what}: {done:,} of {self.total or 0:,}{f', {note}' if note else ''}"
            if line != self._last:
                print(line, file=sys.stderr, flush=True)
            self._last = line

    def message(self, text: str) -> None:
        """A line of its own on standard error, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
