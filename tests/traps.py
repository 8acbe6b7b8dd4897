"""Tells from outside whether something opened another file or called an address."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from video_files import write_video


class Watch:
    """Tells whether a file was opened, by any process."""

    IN_OPEN = 0x20

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue = libc.inotify_init1(os.O_NONBLOCK)
        assert self._queue >= 0
        assert libc.inotify_add_watch(self._queue, os.fsencode(path), self.IN_OPEN) >= 0

    def opened(self) -> bool:
        """Whether it was since the last time this was asked."""
        try:
            return bool(os.read(self._queue, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._queue)


@dataclass
class Trap:
    """Another video and an address, which the files under test refer to."""

    folder: Path
    other: Path
    address: str
    _server: socket.socket
    _watch: Watch | None

    def touched(self) -> set[str]:
        """What was opened since the last time this was asked: ``file``, ``address``, both or none."""
        found = set()
        if self._watch is not None and self._watch.opened():
            found.add("file")
        with contextlib.suppress(BlockingIOError):
            self._server.accept()[0].close()
            found.add("address")
        return found


@contextlib.contextmanager
def set_trap(folder: Path) -> Iterator[Trap]:
    """Writes the other video and listens on loopback."""
    other = write_video(folder / "other.mp4", 5, container_options={"movflags": "faststart"})
    watch = Watch(other) if sys.platform == "linux" else None
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield Trap(folder, other, f"http://127.0.0.1:{server.getsockname()[1]}/a.ts", server, watch)
    if watch is not None:
        watch.close()


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)
