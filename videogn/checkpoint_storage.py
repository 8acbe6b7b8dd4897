"""Checkpoint files on disk: written whole or not at all, the ones before kept, their bytes checked. No torch here."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import platform
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from videogn.errors import UsageError

_PARTIAL = re.compile(r"\..+\.(\d{1,9})@(.+)\.partial")  # of a process on a machine
_STALE_SECONDS = 3600.0  # without a byte more; whether a process of another machine is alive cannot be asked
_MACHINE = platform.node() or "unnamed"
_CHUNK = 1 << 20
_ZIP = b"PK\x03\x04"


class DamagedFile(UsageError):
    """A checkpoint whose bytes are not those that were written."""


def write(path: Path, fill: Callable[[Any], object], keep: int | None = None) -> None:
    """Writes a file; a kill or a power failure at any moment leaves the one that was there, or the whole new one.

    The bytes go to a temporary file of the same folder and are on the disk before it takes the name. What writers that
    were killed have left in the folder is removed.

    Args:
        path: of the file.
        fill: writes to the file object that it is given, through ``write`` alone.
        keep: files to keep, this one included: the one before becomes ``NAME-1.SUFFIX``, the one before that
            ``NAME-2.SUFFIX``, and so on; those beyond are removed. At each moment ``path`` is a whole file, where the
            file system has hard links; where it has none, ``path`` or ``NAME-1.SUFFIX`` is. None touches no other file.

    Raises:
        OSError: the file cannot be written. What was there is as before.
    """
    owner = f"{os.getpid()}@{_MACHINE}.partial"
    temporary = path.with_name(f".{path.name}.{owner}")
    before = path.with_name(f".{numbered(path, 1).name}.{owner}")
    try:
        _sweep(path.parent)
        with open(temporary, "wb") as file:
            _fill(file, fill)
            file.flush()
            os.fsync(file.fileno())
        if keep is None:
            os.replace(temporary, path)
        else:
            _rotate(temporary, path, before, keep)
        _sync_folder(path.parent)
    finally:
        for left in (temporary, before):
            with contextlib.suppress(OSError):
                left.unlink()


def numbered(path: Path, number: int) -> Path:
    """The name of the ``number``-th file before ``path``: ``last.ckpt``, ``last-1.ckpt``, ``last-2.ckpt`` ..."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}") if number else path


def check_records(path: Path) -> None:
    """Compares the CRC-32 of every record of a file of ``torch.save``, which ``torch.load`` does not do.

    A file that does not begin as a zip archive is left to those who know other formats, unless nothing is in it.

    Raises:
        DamagedFile: with the reason; also for an archive that ``torch.save`` does not write.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_CHUNK)
            if not start:
                raise DamagedFile(f"{path}: is damaged: the file is empty")
            if not start.strip(b"\0"):
                raise DamagedFile(f"{path}: is damaged: it begins with zeros, as files do that a power failure cut")
            if start.startswith(_ZIP):
                reason = _wrong_records(file)
                if reason:
                    raise DamagedFile(f"{path}: is damaged: {reason}")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error


def cannot_write(path: Path, error: OSError, needed: int) -> UsageError:
    """The error for a checkpoint that cannot be written, with what is needed and free where it is room that lacks."""
    room = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            room = f"; about {_size(needed)} are needed, {_size(free)} of the disk are free"
        if error.errno != errno.ENOSPC:
            room += ", and a quota or limit may allow less"
    intact = "The checkpoint that was there is intact. " if path.is_file() else ""
    return UsageError(
        f"{path}: cannot be written ({error.strerror or error}){room}. {intact}Make room or choose another place "
        "(trainer.default_root_dir); training goes on with --ckpt_path last, or CHECKPOINT."
    )


def lost_folder(error: OSError, folder: str | os.PathLike[str]) -> UsageError | None:
    """What an error means that ended a run: its folder is full, read-only or gone. None for any other error.

    Args:
        error: of any file, mostly one that another program's code has written.
        folder: trainer.default_root_dir.
    """
    again = (
        "run the same command again: an evaluation goes on where it stopped, training with --ckpt_path last. Or set "
        "trainer.default_root_dir to another place."
    )
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return UsageError(f"a file of the run cannot be written ({error.strerror}). Make room and {again}")
    name = os.path.abspath(error.filename) if isinstance(error.filename, str) else ""
    inside = name.startswith(os.path.join(os.path.abspath(folder), ""))
    if inside and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO, errno.ENOTCONN):
        return UsageError(
            f"{name}: is gone ({error.strerror}): the run's folder was moved or removed, or its disk was disconnected, "
            f"while the run was at work. Bring it back and {again}"
        )
    return None


def _fill(file: BinaryIO, fill: Callable[[Any], object]) -> None:
    recorded = _Recorded(file)
    try:
        fill(recorded)
    except Exception as error:
        if recorded.error is not None:
            raise recorded.error from error
        raise


class _Recorded:
    """Keeps the error of a write: torch's writer hides it behind a RuntimeError about positions."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _rotate(new: Path, path: Path, before: Path, keep: int) -> None:
    if keep > 1 and path.is_file():
        try:
            os.link(path, before)
        except OSError:  # a file system without hard links
            _move_up(path, 0)
            os.replace(new, path)
        else:
            # First the new file: the one before may be damaged, and the one before that the only usable one.
            os.replace(new, path)
            _move_up(path, 1)
            os.replace(before, numbered(path, 1))
    else:
        os.replace(new, path)
    for number in itertools.count(max(keep, 1)):
        try:
            numbered(path, number).unlink()
        except OSError:
            return


def _move_up(path: Path, first: int) -> None:
    """Frees the name with the number ``first``: it and those that follow it without a gap get the next number."""
    end = next(number for number in itertools.count(first) if not numbered(path, number).exists())
    for number in range(end, first, -1):
        os.replace(numbered(path, number - 1), numbered(path, number))


def _sweep(folder: Path) -> None:
    """Removes what writers that are dead have left."""
    for left in folder.glob(".*.partial"):
        match = _PARTIAL.fullmatch(left.name)
        with contextlib.suppress(OSError):
            if match and _is_abandoned(int(match[1]), match[2], left):
                left.unlink()


def _is_abandoned(process: int, machine: str, left: Path) -> bool:
    if machine != _MACHINE or os.name == "nt":  # where asking for a process would end it
        return time.time() - left.stat().st_mtime > _STALE_SECONDS
    if process == os.getpid():  # one like this before a restart: this one is about to begin
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # of another user
        return False
    return False


def _sync_folder(folder: Path) -> None:
    """Brings the names to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _wrong_records(file: BinaryIO) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if not any(record.filename.endswith("/data.pkl") for record in records):
                return "it is a zip archive of something else"
            stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
            if not stored or sum(record.file_size for record in records) > os.fstat(file.fileno()).st_size:
                return "its records are not as torch.save writes them"
            for record in records:
                with archive.open(record) as content:
                    while content.read(_CHUNK):
                        pass
    except zipfile.BadZipFile as error:
        text = str(error)
        if text.startswith("Bad CRC-32"):
            return f"the checksum of the record {text.split(' ', 4)[-1]} is not that of its bytes"
        return f"it is cut short or its table of contents is wrong ({text})"
    # What the module raises for entries that make no sense; encrypted ones are a RuntimeError.
    except (RuntimeError, NotImplementedError, EOFError, ValueError, OverflowError, zlib.error) as error:
        return f"its table of contents is wrong ({error})"
    return None


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
