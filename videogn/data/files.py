"""Files that are written whole or not at all, by one run at a time. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

from videogn.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_SECONDS = 3.0  # the children of a run that was killed hold its lock for a moment longer


def cannot_write(path: str, error: OSError) -> UsageError:
    """The error for a file or folder that cannot be written: read-only, disk full and so on."""
    return UsageError(
        f"{path}: cannot be written ({error.strerror or error}). What is complete stays; make room or choose another "
        "place, and run the same command again to go on."
    )


def write_atomically(path: str, lines: Iterable[str]) -> None:
    """Writes a text file under a temporary name and moves it to its place when all of it is on the disk."""
    temporary = os.path.join(os.path.dirname(path), f".videogn-{os.getpid()}.partial")
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def lock_folder(folder: str, other: str = "another `videogn data` command", seconds: float | None = None) -> int | None:
    """Locks a folder until the descriptor that is returned is closed; None where the file system has no locks.

    Args:
        folder: that is there.
        other: what the message calls the one that has the lock.
        seconds: for which it is waited for; by default three.

    Raises:
        UsageError: no folder, or another run holds the lock.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{folder}: expected a folder, found none")
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(folder, error) from error
    deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(descriptor)
            raise UsageError(
                f"{folder}: expected to write here alone, found {other} at it. Wait until it has ended, or end it."
            ) from error
        except OSError:  # a network file system without locks
            os.close(descriptor)
            return None
