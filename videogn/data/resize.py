"""``videogn data resize``: a copy of a data set whose videos are smaller and decode faster."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from hashlib import blake2b
from typing import Any

from videogn.data.check import columns
from videogn.data.cores import available_cores
from videogn.data.decode.opening import DEFAULT_LIMITS, Limits
from videogn.data.encode import Encoding, encode
from videogn.data.files import cannot_write, write_atomically
from videogn.data.guard import Beat
from videogn.data.jobs import check_times, map_files, reason_for, with_deadline
from videogn.data.lists import copy_lists, target_names
from videogn.data.manifest import FileRecord, ManifestWriter, manifest_path, read_manifest
from videogn.data.progress import ProgressBar
from videogn.errors import UsageError

SETTINGS = "videogn_resize.json"
_SHOWN = 20
_COARSEST_TIME = 2_000_000_000  # nanoseconds; some file systems keep times no finer


def resize_data(
    root: str,
    target: str,
    encoding: Encoding,
    *,
    workers: int | None = None,
    timeout: float = 60.0,
    max_seconds: float = 3600.0,
    limits: Limits = DEFAULT_LIMITS,
) -> int:
    """Re-encodes every video below ``root`` into ``target`` and copies the lists; see ``videogn data resize --help``.

    A video gets its name when it is complete, on the disk and decoded again with the frames, sizes and times that it
    should have. Its modification time is its source's, and a line in the target's manifest says that it is done: a
    second run leaves out files of which all three agree, and tries those again that failed.

    Args:
        root: the data set's folder; nothing in it is changed.
        target: folder to create, or to go on with.
        encoding: how videos are encoded.
        workers: files at a time; by default the cores that this process may use.
        timeout: seconds without a decoded packet after which a file is given up as one that hangs.
        max_seconds: seconds that one file may take in all.
        limits: what a video may at most be.

    Returns:
        The exit code: 0 if all files are done, 1 if any failed, 130 if the user interrupted the work.

    Raises:
        UsageError: no videos, two that would get one name, a target that is part of the root, holds other things or
            was made with other settings, or a place that cannot be written.
    """
    workers = available_cores() if workers is None else workers
    check_times(workers, timeout, max_seconds)
    root, target = (os.path.abspath(os.path.expanduser(folder)) for folder in (root, target))
    if not os.path.isdir(root):
        raise UsageError(f"ROOT: expected the folder of a data set, found none at {root}")
    new = _check_target(root, target, encoding)
    names = target_names(root)
    try:
        os.makedirs(target, exist_ok=True)
        if new:
            write_atomically(os.path.join(target, SETTINGS), [json.dumps(_settings(encoding), indent=2) + "\n"])
    except OSError as error:
        raise cannot_write(target, error) from error
    work = _Resize(root, target, names, encoding, limits, max_seconds)
    try:
        with ManifestWriter(manifest_path(target)) as writer:
            _remove_partial(target)
            copy_lists(root, target, names)
            work.run(writer, workers, timeout)
    except KeyboardInterrupt:
        print(
            f"\ninterrupted: {work.done:,} of {len(names):,} videos are done. The same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    return work.report()


class _Resize:
    """The videos, and how far the work has come.

    Attributes:
        done: videos that are complete in the target.
        failed: source -> reason.
    """

    def __init__(
        self,
        root: str,
        target: str,
        names: dict[str, str],
        encoding: Encoding,
        limits: Limits,
        max_seconds: float,
    ) -> None:
        self.root, self.target, self.names = root, target, names
        self.encoding, self.limits, self.max_seconds = encoding, limits, max_seconds
        self.done, self.written, self.before, self.after = 0, 0, 0, 0
        self.failed: dict[str, str] = {}
        self._begun: dict[str, FileRecord] = {}

    def run(self, writer: ManifestWriter, workers: int, timeout: float) -> None:
        outcomes = map_files(resize_file, self._jobs(), min(workers, len(self.names)), timeout)
        try:
            with ProgressBar("resizing videos", len(self.names)) as self._bar, contextlib.closing(outcomes):
                for path, outcome in outcomes:
                    if isinstance(outcome, UsageError):  # the target, not this file: the next would fail, too
                        raise outcome
                    record = self._begun.pop(path)
                    if isinstance(outcome, Exception):
                        record = replace(record, status="bad", reason=reason_for(outcome))
                        self._remove_partial(record)
                        writer.add(record)
                        self._fail(path, record.reason)
                    else:
                        writer.add(replace(record, status="ok", **outcome))
                        self.written += 1
                        self._succeed(record.bytes, outcome["bytes"])
        finally:
            for record in self._begun.values():
                self._remove_partial(record)

    def report(self) -> int:
        """Prints what was done; returns the exit code."""
        share = f" ({self.after / self.before:.0%})" if self.before else ""
        print(
            f"{self.done:,} of {len(self.names):,} videos are in {self.target}: {self.written:,} written now, "
            f"{self.done - self.written:,} before; {_size(self.before)} became {_size(self.after)}{share}"
        )
        if not self.failed:
            return 0
        print(f"{len(self.failed):,} failed and are not there; the next run tries them again:")
        print("\n".join(f"  {path}: {reason}" for path, reason in list(self.failed.items())[:_SHOWN]))
        if len(self.failed) > _SHOWN:
            print(
                f"  ... and {len(self.failed) - _SHOWN:,} more; each is in {manifest_path(self.target)} with its reason"
            )
        return 1

    def _jobs(self) -> Iterator[tuple[str, Any]]:
        """The videos that are not yet in the target; counts the others."""
        manifest = read_manifest(manifest_path(self.target))
        assert manifest is not None
        for row, (source, name) in zip(manifest.find(self.names.values()).tolist(), self.names.items(), strict=True):
            path, target = os.path.join(self.root, source), os.path.join(self.target, name)
            try:
                status = os.stat(path)
            except OSError as error:
                self._fail(path, f"cannot be read ({error.strerror})")
                continue
            if row >= 0 and row not in manifest.reasons:
                size, mtime = int(manifest.sizes[row]), int(manifest.mtimes_ns[row])
                if _is_done(target, size, mtime, status.st_mtime_ns):
                    self._succeed(status.st_size, size)
                    continue
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
            except OSError as error:
                raise cannot_write(target, error) from error
            self._begun[path] = FileRecord(name, status.st_size, status.st_mtime_ns, "")
            yield path, (path, target, status.st_mtime_ns, self.encoding, self.limits, self.max_seconds)

    def _remove_partial(self, record: FileRecord) -> None:
        with contextlib.suppress(OSError):
            os.unlink(_partial(os.path.join(self.target, record.path)))

    def _succeed(self, before: int, after: int) -> None:
        self.done += 1
        self.before += before
        self.after += after
        self._show()

    def _fail(self, path: str, reason: str) -> None:
        self.failed[path] = reason
        self._show()

    def _show(self) -> None:
        self._bar.update(self.done + len(self.failed), f"{len(self.failed):,} failed" if self.failed else "")


def resize_file(job: tuple[str, str, int, Encoding, Limits, float], beat: Beat) -> dict[str, Any]:
    """Makes one file of the target; what its manifest says of it.

    Raises:
        VideoError: the source is bad, or the result is not the same video.
        UsageError: the target cannot be written.
    """
    source, target, mtime_ns, encoding, limits, max_seconds = job
    partial = _partial(target)
    info = encode(source, partial, encoding, limits, with_deadline(beat, source, max_seconds))
    try:
        os.utime(partial, ns=(mtime_ns, mtime_ns))
        os.replace(partial, target)
        status = os.stat(target)
    except OSError as error:
        raise cannot_write(os.path.dirname(target), error) from error
    return {**columns(info), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _is_done(target: str, size: int, mtime_ns: int, source_mtime_ns: int) -> bool:
    """Whether a file is the one of its manifest's line, made of a source of this time."""
    try:
        status = os.stat(target)
    except OSError:
        return False
    same = (status.st_size, status.st_mtime_ns) == (size, mtime_ns)
    return same and abs(mtime_ns - source_mtime_ns) < _COARSEST_TIME


def _check_target(root: str, target: str, encoding: Encoding) -> bool:
    """Whether the target is new; raises UsageError for one that must not be written to."""
    inside, outside = os.path.realpath(target), os.path.realpath(root)
    if os.path.commonpath([inside, outside]) in (inside, outside):
        raise UsageError(
            f"TARGET: expected a folder outside of ROOT {root}, and ROOT not inside it, found {target}. The originals "
            "stay as they are; give another folder."
        )
    if not os.path.lexists(target) or (os.path.isdir(target) and not os.listdir(target)):
        return True
    try:
        with open(os.path.join(target, SETTINGS), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        raise UsageError(
            f"TARGET: expected a new or empty folder, or one that this command has begun, found {target} with other "
            "things. Nothing was written; give another folder."
        ) from None
    if found != _settings(encoding):
        raise UsageError(
            f"TARGET: expected a folder made with {_settings(encoding)}, found {found} in {target}. Give the same "
            "options to go on there, or another folder."
        )
    return False


def _settings(encoding: Encoding) -> dict[str, object]:
    return {"made by": "videogn data resize", **asdict(encoding)}


def _remove_partial(target: str) -> None:
    """Removes what a killed run left behind."""
    for folder, _, files in os.walk(target):
        for name in files:
            if name.startswith(".videogn-") and name.endswith(".partial"):
                os.unlink(os.path.join(folder, name))


def _partial(target: str) -> str:
    """Temporary name beside a target: hidden, and short even where the target's is as long as names may be."""
    folder, name = os.path.split(target)
    return os.path.join(folder, f".videogn-{blake2b(os.fsencode(name), digest_size=8).hexdigest()}.partial")


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
