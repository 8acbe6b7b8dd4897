"""One file, one call: files in parallel, each in a child process with limits of time."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from typing import Any

from videogn.data.guard import AVAILABLE, Beat, Function, guarded_map
from videogn.errors import UsageError, VideoError


def map_files(
    function: Function, jobs: Iterable[tuple[str, Any]], workers: int, timeout: float
) -> Generator[tuple[str, Any], None, None]:
    """:func:`~videogn.data.guard.guarded_map`; where processes cannot fork, one file at a time without ``timeout``."""
    if AVAILABLE:
        yield from guarded_map(function, jobs, workers, timeout)
        return
    for path, argument in jobs:
        try:
            outcome = function(argument, lambda: None)
        except Exception as error:
            outcome = error
        yield path, outcome


def with_deadline(beat: Beat, path: str, seconds: float) -> Beat:
    """A beat that ends the work on a file which takes longer than ``seconds``, from now on, with a VideoError."""
    end = time.monotonic() + seconds

    def beat_in_time() -> None:
        if time.monotonic() > end:
            raise VideoError(path, f"takes longer than the {seconds:g} s of max_seconds")
        beat()

    return beat_in_time


def reason_for(error: Exception) -> str:
    """Why a file failed, in one line; errors that no file should cause are named by their type."""
    return error.reason if isinstance(error, VideoError) else f"unexpected {type(error).__name__}: {error}"


def check_times(workers: int, timeout: float, max_seconds: float) -> None:
    """Raises UsageError for numbers that make no sense."""
    if workers < 1:
        raise UsageError(f"--workers: expected at least 1, found {workers}")
    for option, value in (("--timeout", timeout), ("--max-seconds", max_seconds)):
        if not value > 0:
            raise UsageError(f"{option}: expected more than 0 seconds, found {value:g}")
