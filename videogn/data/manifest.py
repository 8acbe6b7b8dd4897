"""The manifest of a data set: what a check found out about each file, in a csv file. Imports no torch and no decoder.

One line per file. Lines are appended and flushed one by one, so that a run that is killed loses the files in flight
alone; a file's last line counts; :meth:`ManifestWriter.close` sorts them and drops what later lines replaced. A line
is valid while size and modification time of its file are those of the line.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from types import TracebackType
from typing import Any

import numpy as np

from videogn.data.files import cannot_write, lock_folder, write_atomically
from videogn.errors import UsageError

NAME = "videogn_manifest.csv"


@dataclass(frozen=True)
class FileRecord:
    """What is known of one file; the columns of the csv file, in this order.

    Attributes:
        path: as :meth:`videogn.data.index.VideoIndex.video_id` gives it: relative to the root, absolute if elsewhere.
        bytes: size of the file.
        mtime_ns: its modification time, nanoseconds since 1970.
        status: ``"ok"`` or ``"bad"``.
        frames: frames that a full decode shows; -1 if bad, as the numbers below.
        fps: frames per second, the average where the rate varies.
        width: pixels, as displayed.
        height: pixels, as displayed.
        duration: seconds.
        codec: FFmpeg's name, such as ``h264``.
        counted: 1 if the frames can be counted by decoding alone, else 0.
        reason: why the file is bad, on one line.
    """

    path: str
    bytes: int
    mtime_ns: int
    status: str
    frames: int = -1
    fps: float = -1.0
    width: int = -1
    height: int = -1
    duration: float = -1.0
    codec: str = ""
    counted: int = 0
    reason: str = ""


COLUMNS = tuple(field.name for field in fields(FileRecord))


@dataclass(frozen=True, eq=False)
class Manifest:
    """The lines of a manifest as flat arrays; M files, each once.

    Attributes:
        file: where it was read.
        paths: all paths as one string of bytes in the file system's encoding.
        offsets: int64 (M + 1,); path m is ``paths[offsets[m]:offsets[m + 1]]``.
        sizes: int64 (M,), bytes.
        mtimes_ns: int64 (M,).
        frames: int64 (M,), -1 for bad files.
        reasons: why a file is bad, by its number.
    """

    file: str
    paths: bytes
    offsets: np.ndarray
    sizes: np.ndarray
    mtimes_ns: np.ndarray
    frames: np.ndarray
    reasons: dict[int, str]

    def __len__(self) -> int:
        return len(self.sizes)

    def find(self, paths: Iterable[str | bytes]) -> np.ndarray:
        """Number of each path, as text or as the bytes of it, int64, -1 for those that are not here."""
        number = {path: m for m, path in enumerate(split_paths(self.paths, self.offsets))}
        return np.fromiter((number.get(os.fsencode(path), -1) for path in paths), np.int64)


def join_paths(paths: Sequence[str]) -> tuple[bytes, np.ndarray]:
    """Paths as one string of bytes in the file system's encoding, and their offsets in it, int64 (N + 1,)."""
    text = "".join(paths)
    joined = os.fsencode(text)
    # One byte for each character, as almost always: no list of encoded paths beside the others.
    lengths = map(len, paths if len(joined) == len(text) else map(os.fsencode, paths))
    offsets = np.zeros(len(paths) + 1, np.int64)
    np.cumsum(np.fromiter(lengths, np.int64, len(paths)), out=offsets[1:])
    return joined, offsets


def split_paths(paths: bytes, offsets: np.ndarray) -> Iterator[bytes]:
    """What :func:`join_paths` has joined, one after another, encoded."""
    return (paths[start:end] for start, end in itertools.pairwise(offsets.tolist()))


def manifest_path(root: str | os.PathLike[str], given: str | None = None) -> str:
    """Absolute path of a data set's manifest: the given one, or ``videogn_manifest.csv`` in the root."""
    return os.path.abspath(os.path.expanduser(given if given is not None else os.path.join(root, NAME)))


def read_manifest(path: str) -> Manifest | None:
    """The manifest at a path; None if there is none. A half-written last line is left out.

    Raises:
        UsageError: a file of another kind, or a damaged line.
    """
    number: dict[str, int] = {}
    columns = [array("q") for _ in range(3)]  # of each line, also of those that a later one replaces
    add_size, add_mtime, add_frames = (column.append for column in columns)
    reasons: dict[int, str] = {}
    try:
        for line, row in enumerate(_rows(path)):
            number[row[0]] = line
            add_size(int(row[1]))
            add_mtime(int(row[2]))
            add_frames(int(row[4]))
            if row[3] != "ok":
                reasons[line] = row[-1] or "unknown reason"
    except FileNotFoundError:
        return None
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{path}: expected whole numbers as bytes, mtime_ns and frames, found another value ({error}). "
            "Delete the line, or the file, and run `videogn data check` again."
        ) from error
    lines = np.fromiter(number.values(), np.int64, len(number))
    sizes, mtimes, frames = (np.frombuffer(values, np.int64)[lines] for values in columns)
    reasons = {m: reasons[line] for m, line in enumerate(lines.tolist()) if line in reasons}
    frames[list(reasons)] = -1
    return Manifest(path, *join_paths(list(number)), sizes, mtimes, frames, reasons)


def is_same(path: str, size: int, mtime_ns: int) -> bool:
    """Whether the file is still the one of a line with this size and time; costs one ``stat``."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_size == size and status.st_mtime_ns == mtime_ns


class ManifestWriter:
    """Appends lines to a manifest, which it creates or goes on with. A context manager.

    Holds a lock on the manifest's folder (where the file system offers locks), so that two runs cannot undo each
    other's lines.

    Raises:
        UsageError: a file of another kind, a place that cannot be written, or another run that writes here.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = lock_folder(os.path.dirname(path))
        try:
            _sort(path)  # also cuts off what a killed run left unfinished
            self._file = open(path, "a", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError):
                raise cannot_write(path, error) from error
            raise
        self._rows = csv.writer(self._file, lineterminator="\n")

    def add(self, record: FileRecord) -> None:
        """Appends a line; when this returns, the end of this process cannot lose it."""
        row = [*astuple(record)[:-1], " ".join(record.reason.split())]
        try:
            self._rows.writerow(row)
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Sorts the lines by path, keeps each file's last and writes the file anew, atomically."""
        if self._file.closed:
            return
        try:
            # A full disk leaves buffered text that cannot be written: the lines before it still count.
            with contextlib.suppress(OSError):
                self._file.close()
            _sort(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        finally:
            self._unlock()

    def __enter__(self) -> ManifestWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        else:
            with contextlib.suppress(UsageError):  # the first error is the one to tell
                self.close()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _Lines:
    """What csv.writer needs of a file, to get its lines one by one."""

    def write(self, line: str) -> str:
        return line


def _sort(path: str) -> None:
    """Sorts a manifest, with one line per file; makes an empty one where there is none."""
    rows: dict[str, list[str]] = {}
    with contextlib.suppress(FileNotFoundError):
        rows = {row[0]: row for row in _rows(path)}
    write: Any = csv.writer(_Lines(), lineterminator="\n").writerow
    write_atomically(
        path, (write(row) for row in [list(COLUMNS), *(rows[name] for name in sorted(rows, key=os.fsencode))])
    )


def _rows(path: str) -> Iterator[list[str]]:
    """The complete lines below the header; not the last one if a run was killed while it wrote it.

    Raises:
        FileNotFoundError: there is no manifest.
        UsageError: a file of another kind, or a damaged line.
    """
    try:
        # Universal newlines would change paths that hold a carriage return.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, None)
            if header is not None and header != list(COLUMNS):
                raise UsageError(
                    f"{path}: expected a manifest of videogn (first line {','.join(COLUMNS)}), found another file. "
                    "Nothing was written; give another --manifest."
                )
            last: list[str] | None = None
            for row in reader:
                if last is not None:
                    if len(last) != len(COLUMNS):
                        raise _damaged(path, reader.line_num - 1, last)
                    yield last
                last = row
            if last is not None and len(last) == len(COLUMNS) and _ends_with_newline(path):
                yield last
    except csv.Error as error:
        raise _damaged(path, reader.line_num, [str(error)]) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: expected a manifest, found what cannot be read ({error.strerror})") from error


def _damaged(path: str, number: int, found: list[str]) -> UsageError:
    return UsageError(
        f"{path}, line {number}: expected {len(COLUMNS)} columns, found {found}. Delete the line, or the file, and run "
        "`videogn data check` again."
    )


def _ends_with_newline(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
