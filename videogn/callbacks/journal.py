"""The journal of an evaluation: what was found for each finished video, so that an interrupted one can go on.

``ROOT/unfinished/KEY/`` holds ``rank-K.jsonl``, to which process K appends a JSON line per video, and ``about.json``,
what the key is the hash of: everything that decides the result. JSON's numbers are exact, so that a result that comes
from a journal is the result that was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from videogn.results import VideoResult

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

FOLDER = "unfinished"
_ABOUT = "about.json"
_SYNC_SECONDS = 10.0  # a power cut loses at most the videos of this time; a process that is killed loses none
_NAMED = 3


class Journal:
    """The journal of one evaluation, as one of its processes sees it.

    Args:
        folder: of the evaluation: :func:`journal_folder`.
        rank: of this process.

    Attributes:
        results: what was in it when it was opened, by number of the video.
        written: videos that this process has added since.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.results = read_results(folder)
        self.written = 0
        self._path = folder / f"rank-{rank}.jsonl"
        self._file: TextIO | None = None
        self._lock: TextIO | None = None
        self._synced = time.monotonic()
        self._broken = False

    def lock(self, about: Mapping[str, Any]) -> str | None:
        """Makes the folder and keeps other runs out of it; one process does so for all. Returns what is in the way."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            if self._lock is None:
                return f"another run is at the same evaluation and keeps {self.folder}"
            (self.folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        except OSError as error:
            self.close()
            return f"{self.folder}: cannot be written ({error.strerror or error})"
        return None

    def append(self, result: VideoResult) -> None:
        """Adds a video. A disk that is full ends the journal, not the evaluation."""
        if self._broken:
            return
        try:
            if self._file is None:
                self._file = _open_to_append(self._path)
            self._file.write(json.dumps(vars(result)) + "\n")
            self._file.flush()  # to the operating system: it survives the death of this process
            if time.monotonic() > self._synced + _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
            self.written += 1
        except OSError as error:
            self._broken = True
            log.warning(
                "%s: cannot be written (%s). The evaluation goes on; should it be interrupted, then what is done from "
                "here on is done again.",
                self._path,
                error.strerror or error,
            )

    def close(self) -> None:
        """Closes the files and lets others in; what is written stays."""
        for file in (self._file, self._lock):
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()
        self._file = self._lock = None

    def remove(self) -> None:
        """Closes and deletes the journal of an evaluation that is complete."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # if it is empty


def journal_folder(root: str, about: Mapping[str, Any]) -> Path:
    """Folder of the journal of an evaluation that ``about`` describes: plain values, all that decides its result."""
    text = json.dumps(about, sort_keys=True)
    return Path(os.path.abspath(root)) / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16]


def read_results(folder: Path) -> dict[int, VideoResult]:
    """What a journal's files hold. Lines that were torn when a process or the power died are left out."""
    results = {}
    for path in sorted(folder.glob("rank-*.jsonl")):
        with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    result = VideoResult.from_dict(json.loads(line))
                except (ValueError, TypeError, AttributeError, RecursionError):
                    continue
                results[result.id] = result
    return results


def other_journals(folder: Path, about: Mapping[str, Any]) -> str | None:
    """Names the journals beside ``folder`` that no run is at, and in what their evaluations differ; None without."""
    found = []
    for other in sorted(folder.parent.glob("*/")):
        if other == folder or _is_locked(other):
            continue
        try:
            theirs = json.loads((other / _ABOUT).read_text(encoding="utf-8"))
            differ = ", ".join(name for name, value in about.items() if theirs.get(name) != value)
        except (OSError, ValueError, AttributeError):
            differ = "what it is of cannot be read"
        found.append(f"{other.name} ({differ or 'nothing'})")
    if not found:
        return None
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return (
        f"{folder.parent} also holds what is done of {len(found)} other unfinished evaluation"
        f"{'s' if len(found) > 1 else ''}, not used here; in brackets what is different: "
        f"{', '.join(found[:_NAMED])}{more}. Delete what will not be continued."
    )


def _open_to_append(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)  # on each machine, where they share no disk
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a torn line, which must not take the next one with it
                file.write(b"\n")
    return path.open("a", encoding="utf-8")


def _lock(folder: Path) -> TextIO | None:
    """An open file whose lock keeps others out; None where another process has it.

    A lock of POSIX, which ends with this process; one of flock would live on in a loader's workers, which notice only
    after seconds that their parent was killed.
    """
    file = (folder / "lock").open("w", encoding="utf-8")
    if fcntl is None:
        return file
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except OSError:  # a network file system without locks
        pass
    return file


def _is_locked(folder: Path) -> bool:
    try:
        file = _lock(folder)
    except OSError:
        return False
    if file is not None:
        file.close()
    return file is None
