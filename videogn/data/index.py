"""Annotations -> records: which videos a split has, with their labels, in flat arrays. Imports no torch.

The arrays are three objects however many videos there are, so worker processes share them: a list of 250,000 Python
strings would be copied page by page into every forked worker as its reference counts change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from videogn.data.annotations import check_files, cvdf_entries, cvdf_labels, list_entries
from videogn.data.classes import ClassList, order_class_names
from videogn.data.layouts import Listing, Source, read_folders, subfolders
from videogn.data.manifest import Manifest, is_same, join_paths, split_paths
from videogn.data.splits import fold_class_names, read_fold
from videogn.errors import UsageError

_KINDS = {
    "folders": "class folders",
    "list": "list file",
    "cvdf": "Kinetics csv",
    "ucf101": "UCF101 fold {fold},",
    "hmdb51": "HMDB51 fold {fold},",
}
_NAMED = 5


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The videos of one split.

    Attributes:
        root: folder that relative paths start from.
        source: where the split is written down, for messages.
        paths: all paths as one string of bytes in the file system's encoding.
        offsets: int64 (N + 1,); path i is ``paths[offsets[i]:offsets[i + 1]]``.
        labels: int64 (N,); -1 where a video has no label.
        class_names: name of every label.
        num_frames: int64 (N,), what a manifest says; -1 where none does.
        sizes: int64 (N,), bytes of the file that the manifest knows, -1 where it knows none.
        mtimes_ns: int64 (N,), its modification time.
        errors: number of a video -> why it is bad, of the files that a manifest calls bad and that are still the same.
        missing: listed files that are not on the disk, in the order of the list.
        missing_labels: their labels, -1 where there is none or it is not known.
        notes: remarks for the user.
    """

    root: str
    source: str
    paths: bytes
    offsets: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    num_frames: np.ndarray
    sizes: np.ndarray
    mtimes_ns: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    missing_labels: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        root: str,
        paths: Iterable[str],
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        **more: Any,
    ) -> VideoIndex:
        """An index from plain lists; ``more`` sets further attributes.

        Raises:
            ValueError: not one label per path.
        """
        joined, offsets = join_paths(list(paths))
        flat = np.asarray(labels, dtype=np.int64)
        if len(offsets) - 1 != len(flat):
            raise ValueError(f"expected one label per path, found {len(offsets) - 1} paths and {len(flat)} labels")
        unknown = np.full(len(flat), -1, dtype=np.int64)
        known = {name: more.pop(name, unknown) for name in ("num_frames", "sizes", "mtimes_ns")}
        return cls(root, more.pop("source", root), joined, offsets, flat, tuple(class_names), **known, **more)

    def with_manifest(self, manifest: Manifest) -> VideoIndex:
        """The same videos with what a manifest knows of them. Files that it calls bad are looked at: still the same?"""
        rows = manifest.find(split_paths(self.paths, self.offsets))
        # Row -1 takes the -1 behind the last row.
        frames, sizes, mtimes = (np.append(c, -1)[rows] for c in (manifest.frames, manifest.sizes, manifest.mtimes_ns))
        bad = np.flatnonzero(np.isin(rows, list(manifest.reasons))).tolist()
        bad = [i for i in bad if is_same(self.path(i), int(sizes[i]), int(mtimes[i]))]
        errors = {i: manifest.reasons[int(rows[i])] for i in bad}
        return replace(self, num_frames=frames, sizes=sizes, mtimes_ns=mtimes, errors=errors)

    def without_bad(self) -> VideoIndex:
        """The videos that no manifest calls bad; a note says which were left out."""
        if not self.errors:
            return self
        keep = np.ones(len(self), dtype=bool)
        keep[list(self.errors)] = False
        lengths = np.diff(self.offsets)
        files = _count(len(self.errors), "file that the manifest calls bad is", "files that the manifest calls bad are")
        return replace(
            self,
            paths=np.frombuffer(self.paths, np.uint8)[np.repeat(keep, lengths)].tobytes(),
            offsets=np.concatenate([[0], np.cumsum(lengths[keep])]),
            labels=self.labels[keep],
            num_frames=self.num_frames[keep],
            sizes=self.sizes[keep],
            mtimes_ns=self.mtimes_ns[keep],
            errors={},
            notes=(*self.notes, f"{files} left out: {self._some_errors()}"),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def video_id(self, i: int) -> str:
        """Name of video i that is the same on every machine: its path relative to the root (absolute if elsewhere)."""
        return os.fsdecode(self.paths[self.offsets[i] : self.offsets[i + 1]])

    def path(self, i: int) -> str:
        """Path of the file of video i."""
        return os.path.join(self.root, self.video_id(i))

    def label(self, i: int) -> int:
        """Label of video i, -1 without one."""
        return int(self.labels[i])

    def known_frames(self, i: int) -> int | None:
        """Frames of video i as a manifest knows them; None without one, or where the file is no longer the same."""
        frames = int(self.num_frames[i])
        if frames < 0 or not is_same(self.path(i), int(self.sizes[i]), int(self.mtimes_ns[i])):
            return None
        return frames

    def known_error(self, i: int) -> str | None:
        """Why a manifest calls video i bad; None otherwise. The file was the same when the manifest was read."""
        return self.errors.get(i)

    @property
    def empty_classes(self) -> list[str]:
        """Names of the classes that no video has."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        return [self.class_names[i] for i in np.flatnonzero(counts == 0)]

    def summary(self) -> str:
        """How many videos and classes there are, and which listed files are missing, in a few lines."""
        empty = self.empty_classes
        labelled = len(empty) < len(self.class_names)
        classes = _count(len(self.class_names), "class", "classes") if labelled else "unknown class"
        lines = [f"{_count(len(self), 'video')} of {classes} ({self.source})"]
        if self.missing:
            missing = _count(len(self.missing), "listed file is", "listed files are")
            lines.append(f"{missing} missing: {_some(self.missing)}")
        if empty and labelled:
            lines.append(f"{_count(len(empty), 'class has', 'classes have')} no video here: {_some(empty)}")
        good = int((self.num_frames >= 0).sum())
        if good or self.errors:
            bad = f", {len(self.errors):,} bad: {self._some_errors()}" if self.errors else ""
            lines.append(f"manifest: {_count(good + len(self.errors), 'file')} known{bad}")
        return "\n  ".join([*lines, *self.notes])

    def _some_errors(self) -> str:
        return _some([f"{self.video_id(i)} ({reason})" for i, reason in self.errors.items()])


def read_index(
    source: Source,
    classes: ClassList | None,
    path_prefix: str | None = None,
    require_labels: bool = True,
    manifest: Manifest | None = None,
) -> VideoIndex:
    """The videos of a split, checked against the disk and the class names.

    Args:
        source: where the split is written down, from :func:`videogn.data.layouts.find_source`.
        classes: the class names; integer labels of a list file count from 0 in this order. None: labels are not read.
        path_prefix: folder that the paths of a list file start from, relative to the root; None is the root itself.
        require_labels: False lets videos without a label pass, as prediction needs.
        manifest: what `videogn data check` found out about the files.

    Raises:
        UsageError: no video, a line that cannot be read, a label outside the classes, a video without a label, a file
            with two labels or in both lists of a fold, or not one listed file on the disk.
    """
    if source.kind == "folders":
        listing = read_folders(source)
    elif source.kind in ("ucf101", "hmdb51"):
        listing = read_fold(source, path_prefix)
    else:
        entries = cvdf_entries(source) if source.kind == "cvdf" else list_entries(source, path_prefix)
        listing = check_files(source, entries)
    missing_labels = [-1] * len(listing.missing)
    if classes is None:
        labels = np.full(len(listing.paths), -1, dtype=np.int64)
    else:
        labels = _labels(source, listing, classes, require_labels)
        missing_labels = _missing_labels(listing, classes)
    notes = []
    if listing.repeated:
        notes.append(f"{_count(listing.repeated, 'line lists', 'lines list')} a file again: left out")
    if listing.unlisted:
        unlisted = _count(len(listing.unlisted), "video on the disk is", "videos on the disk are")
        notes.append(f"{unlisted} in no list of this fold: {_some(listing.unlisted)}")
    index = VideoIndex.build(
        source.root,
        listing.paths,
        labels,
        classes.names if classes is not None else (),
        source=f"{_KINDS[source.kind].format(fold=source.fold)} {source.path}",
        missing=tuple(listing.missing),
        missing_labels=tuple(missing_labels),
        notes=tuple(notes),
    )
    return index if manifest is None else index.with_manifest(manifest)


def listed_class_names(source: Source) -> tuple[tuple[str, ...], str | None]:
    """Class names in order, from the labels of the *training* split; the files themselves are not looked at.

    UCF101 and HMDB51 have an order of their own. Folder names and names in annotation files go through
    :func:`videogn.data.classes.order_class_names`; integer labels 0..n make the names "0".."n".

    Args:
        source: where the training split is written down.

    Returns:
        The names, and a remark for the user or None.

    Raises:
        UsageError: no labels, or integers beside names.
    """
    if source.kind in ("ucf101", "hmdb51"):
        return fold_class_names(source), None
    labels = _distinct_labels(source)
    numbers = [label for label in labels if isinstance(label, int)]
    if not labels:
        raise UsageError(f"{source.path}: expected labels in the training split, found none")
    if numbers and len(numbers) < len(labels):
        names = [label for label in labels if isinstance(label, str)]
        raise UsageError(
            f"{source.path}: expected labels that are all integers or all names, found {numbers[0]} and {names[0]!r}. "
            "Where both are meant, give the names as data.class_names."
        )
    if numbers:
        if min(numbers) < 0:
            raise UsageError(f"{source.path}: expected labels from 0, found {min(numbers)}")
        return tuple(str(i) for i in range(max(numbers) + 1)), None
    return order_class_names([str(label) for label in labels])


def _distinct_labels(source: Source) -> list[str | int]:
    if source.kind == "folders":
        return list(subfolders(source.path))
    if source.kind == "cvdf":
        return list(cvdf_labels(source))
    return list({label: None for _, label, _ in list_entries(source, None) if label is not None})


def _labels(source: Source, listing: Listing, classes: ClassList, required: bool) -> np.ndarray:
    """Label of every listed video as an integer, int64 (N,)."""
    known: dict[str | int | None, int] = {} if required else {None: -1, -1: -1}
    out = np.empty(len(listing.labels), dtype=np.int64)
    for i, label in enumerate(listing.labels):
        found = known.get(label)
        if found is None:
            where = f"{source.path}, line {listing.lines[i]}" if listing.lines else source.path
            found = known[label] = classes.number(label, where)
        out[i] = found
    return out


def _missing_labels(listing: Listing, classes: ClassList) -> list[int]:
    """Label of every missing file, -1 where the classes have none: such a file fails nothing."""
    known: dict[str | int | None, int] = {None: -1}
    for label in listing.missing_labels:
        if isinstance(label, str) and label not in known:
            found = classes.find(label)
            known[label] = -1 if found is None else found
        elif isinstance(label, int):
            known[label] = label if 0 <= label < len(classes) else -1
    return [known[label] for label in listing.missing_labels]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
