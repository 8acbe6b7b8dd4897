"""``videogn data check``: decodes every video of a data set once and writes down what it found, in the manifest."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from videogn.data.classes import ClassList, read_class_names
from videogn.data.cores import available_cores
from videogn.data.decode import VideoInfo, VideoReader
from videogn.data.decode.opening import DEFAULT_LIMITS, Limits
from videogn.data.guard import Beat
from videogn.data.index import VideoIndex, listed_class_names, read_index
from videogn.data.jobs import check_times, map_files, reason_for, with_deadline
from videogn.data.layouts import Layout, Source, Split, every_video, find_source, no_source, subfolders
from videogn.data.manifest import FileRecord, ManifestWriter, manifest_path, read_manifest
from videogn.data.progress import ProgressBar

_SHOWN = 20
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def check_data(
    root: str,
    *,
    manifest: str | None = None,
    layout: Layout = "auto",
    fold: int = 1,
    lists: Mapping[str, str | None] | None = None,
    path_prefix: str | None = None,
    class_names: str | None = None,
    workers: int | None = None,
    timeout: float = 60.0,
    max_seconds: float = 3600.0,
    limits: Limits = DEFAULT_LIMITS,
    recheck: str | None = None,
) -> int:
    """Decodes every video that the splits of a data set list, writes the manifest and prints a summary.

    A file that the manifest already knows, with the same size and modification time, is not decoded again.

    Args:
        root: the data set's folder.
        manifest: csv file to write or to go on with; ``videogn_manifest.csv`` in the root by default.
        layout: as in training.
        fold: as in training.
        lists: list file per split, as in training.
        path_prefix: as in training.
        class_names: as in training.
        workers: files decoded at a time; by default the cores that this process may use.
        timeout: seconds without a decoded packet after which a file is given up as one that hangs.
        max_seconds: seconds that one file may take in all.
        limits: what a video may at most be.
        recheck: ``"bad"`` decodes the files again that the manifest calls bad, ``"all"`` every file.

    Returns:
        The exit code: 0 if all files are good, 1 if any is bad or missing, 130 if the user interrupted the check.

    Raises:
        UsageError: no videos, annotations that cannot be read, a manifest that cannot be written.
    """
    workers = available_cores() if workers is None else workers
    check_times(workers, timeout, max_seconds)
    root = os.path.abspath(os.path.expanduser(root))
    indices = read_splits(root, layout, lists or {}, path_prefix, class_names, fold)
    for split, index in indices.items():
        print(f"{split}: {index.summary()}", flush=True)
    file = manifest_path(root, manifest)
    check = _Check(indices, file, limits, max_seconds, recheck)
    try:
        with ManifestWriter(file) as writer:
            check.run(writer, workers, timeout)
    except KeyboardInterrupt:
        print(
            f"\ninterrupted: {check.done:,} of {check.total:,} files are checked; their results are in {file}. "
            + (f"--recheck {recheck} begins anew." if recheck else "The same command goes on from there."),
            file=sys.stderr,
        )
        return 130
    known = read_manifest(file)
    assert known is not None
    print(f"decoded {check.decoded:,} files, knew {check.done - check.decoded:,} from before; manifest: {file}")
    return report({split: index.with_manifest(known) for split, index in indices.items()}, check.gone, file)


def read_splits(
    root: str,
    layout: Layout = "auto",
    lists: Mapping[str, str | None] | None = None,
    path_prefix: str | None = None,
    class_names: str | None = None,
    fold: int = 1,
) -> dict[str, VideoIndex]:
    """The videos of every split that a root has; of a root without splits, all videos below it, without labels.

    Raises:
        UsageError: no videos, or annotations that cannot be read.
    """
    lists = lists or {}
    sources = {split: find_source(root, split, layout, lists.get(split), fold) for split in _SPLITS}
    found: dict[str, Source] = {split: source for split, source in sources.items() if source is not None}
    if not found:
        paths = list(every_video(root)) if layout == "auto" else []
        if not paths:
            raise no_source(root, "train", layout)
        return {"no split": VideoIndex.build(root, paths, [-1] * len(paths), (), source=f"all videos below {root}")}
    classes = None
    if class_names is not None:
        classes = ClassList(read_class_names(class_names))
    elif (train := found.get("train")) and (train.kind != "folders" or subfolders(train.path)):
        classes = ClassList(listed_class_names(train)[0])
    return {split: read_index(source, classes, path_prefix, require_labels=False) for split, source in found.items()}


class _Check:
    """The files to decode, and how far the check has come.

    Attributes:
        total: files in all.
        done: files that are in the manifest or gone.
        decoded: of these, decoded now.
        gone: files that disappeared since the splits were read.
    """

    def __init__(
        self, indices: dict[str, VideoIndex], file: str, limits: Limits, max_seconds: float, recheck: str | None
    ) -> None:
        # A file in two splits is one file.
        self.files = {index.video_id(i): index.root for index in indices.values() for i in range(len(index))}
        self.missing = {name: index.source for index in indices.values() for name in index.missing}
        self.manifest = read_manifest(file)
        self.limits, self.max_seconds, self.recheck = limits, max_seconds, recheck
        self.total, self.done, self.decoded, self.bad = len(self.files), 0, 0, 0
        self.gone: set[str] = set()
        self._begun: dict[str, FileRecord] = {}

    def run(self, writer: ManifestWriter, workers: int, timeout: float) -> None:
        for name, source in self.missing.items():
            writer.add(FileRecord(name, -1, -1, "missing", reason=f"listed in {source}, not on the disk"))
        outcomes = map_files(inspect, self._jobs(), min(workers, self.total), timeout)
        with ProgressBar("checking videos", self.total) as self._bar, closing(outcomes):
            for path, outcome in outcomes:
                record = self._begun.pop(path)
                if isinstance(outcome, Exception):
                    record = replace(record, status="bad", reason=reason_for(outcome))
                else:
                    record = replace(record, status="ok", **outcome)
                writer.add(record)
                self.decoded += 1
                self._advance(record.status == "bad")
        for name in self.gone:
            writer.add(FileRecord(name, -1, -1, "missing", reason="disappeared before it was checked"))

    def _jobs(self) -> Iterator[tuple[str, Any]]:
        """The files that are not known; counts the others."""
        manifest = self.manifest
        rows = manifest.find(self.files).tolist() if manifest is not None else [-1] * self.total
        for row, (name, root) in zip(rows, self.files.items(), strict=True):
            path = os.path.join(root, name)
            try:
                status = os.stat(path)
            except OSError:
                self.gone.add(name)
                self._advance(True)
                continue
            if manifest is not None and row >= 0 and self.recheck != "all":
                bad = row in manifest.reasons
                same = (manifest.sizes[row], manifest.mtimes_ns[row]) == (status.st_size, status.st_mtime_ns)
                if same and not (bad and self.recheck == "bad"):
                    self._advance(bad)
                    continue
            self._begun[path] = FileRecord(name, status.st_size, status.st_mtime_ns, "")
            yield path, (path, self.limits, self.max_seconds)

    def _advance(self, bad: bool) -> None:
        self.done += 1
        self.bad += bad
        self._bar.update(self.done, f"{self.bad:,} bad" if self.bad else "")


def inspect(job: tuple[str, Limits, float], beat: Beat) -> dict[str, Any]:
    """Decodes every frame of a file once; what the manifest says of it.

    Raises:
        VideoError: a file that cannot be decoded to its end, within the limits.
    """
    path, limits, max_seconds = job
    beat = with_deadline(beat, path, max_seconds)
    with VideoReader(path, limits=limits, progress=beat) as reader:
        if reader.counted is None:  # else counting the frames has decoded them
            reader.check()
        return {**columns(reader.info), "counted": int(reader.counted is not None)}


def columns(info: VideoInfo) -> dict[str, Any]:
    """What a manifest's line says of a video."""
    return {
        "frames": info.num_frames,
        "fps": round(info.fps, 6),
        "width": info.width,
        "height": info.height,
        "duration": round(info.duration, 6),
        "codec": info.codec,
    }


def report(indices: Mapping[str, VideoIndex], gone: set[str], file: str) -> int:
    """Prints what is missing and bad, by class and by file; returns the exit code.

    Args:
        indices: the splits, with the manifest of this check.
        gone: files that are missing though they were there when the splits were read.
        file: the manifest's path.
    """
    rows: list[tuple[int, str, str, int, int, int]] = []
    bad: dict[str, str] = {}
    for split, index in indices.items():
        lost = [i for i in range(len(index)) if gone and index.video_id(i) in gone]
        missing = Counter([*index.missing_labels, *(index.label(i) for i in lost)])
        wrong = Counter(index.label(i) for i in index.errors)
        listed = Counter([*index.labels.tolist(), *index.missing_labels])
        bad.update({index.path(i): reason for i, reason in index.errors.items()})
        for label in {*missing, *wrong}:
            name = index.class_names[label] if label >= 0 else "(no label)"
            worst = -(missing[label] + wrong[label])
            rows.append((worst, split, name, listed[label], missing[label], wrong[label]))
    rows.sort()
    total = sum(len(index) for index in indices.values())
    lost_count = sum(row[4] for row in rows)
    if not rows:
        print(f"all {total:,} videos are good")
        return 0
    print("\nclasses with missing or bad videos, worst first:")
    table: list[tuple[str, ...]] = [("split", "class", "listed", "missing", "bad")]
    table += [(row[1], row[2], *(f"{count:,}" for count in row[3:])) for row in rows[:_SHOWN]]
    print("\n".join(_columns(table)))
    if len(rows) > _SHOWN:
        print(f"... and {len(rows) - _SHOWN:,} classes more")
    if bad:
        print("\nbad files:")
        print("\n".join(f"  {path}: {reason}" for path, reason in list(bad.items())[:_SHOWN]))
        if len(bad) > _SHOWN:
            print(f"  ... and {len(bad) - _SHOWN:,} more")
    print(f"\n{lost_count:,} missing and {len(bad):,} bad; each is in {file} with status and reason")
    return 1


def _columns(table: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table: two columns of text, to the left, and numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(["", *cells]))
    return lines
