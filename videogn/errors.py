"""The two errors a user can cause, and the exit codes that the command line gives them."""

from __future__ import annotations

import os


class UsageError(ValueError):
    """A wrong option, path or combination: the message says what was expected, what was found and the likely fix.

    The command line prints the message without a traceback and exits with 2.
    """

    exit_code = 2


class VideoError(RuntimeError):
    """A file that gives no video frames: missing, empty, damaged, without a video stream, or not a video at all.

    The command line prints the message without a traceback and exits with 1.
    """

    exit_code = 1

    def __init__(self, path: str | os.PathLike[str], reason: str = "") -> None:
        # torch raises a worker's error again with one argument, its text.
        super().__init__(f"{os.fspath(path)}: {reason}" if reason else os.fspath(path))
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        # Workers send errors to the main process by pickle, which would call __init__ with the joined message alone.
        return type(self), (self.path, self.reason)
