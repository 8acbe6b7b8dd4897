"""Where a split is written down and what it lists: class folders, list files, the CVDF Kinetics layout, the split files
of UCF101 and HMDB51. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from videogn.errors import UsageError

Layout = Literal["auto", "folders", "list", "cvdf", "ucf101", "hmdb51"]
Split = Literal["train", "val", "test"]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
ALIASES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate"),
    "test": ("test", "testing"),
}
# Folders that archivers, file systems and network disks leave beside the class folders.
_NOT_CLASSES = {"__MACOSX", "lost+found", "@eaDir"}
# Where archives and people leave the split files, below the root: the root itself, the archive's own folder, that in a
# folder called like the archive, and what other projects call it.
_SPLIT_FOLDERS: dict[str, tuple[str, ...]] = {
    "ucf101": ("", "ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist", "annotations"),
    "hmdb51": ("", "testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "annotations"),
}
# Every folder below the root in which this module looks for lists.
LIST_FOLDERS = tuple(dict.fromkeys(folder for folders in _SPLIT_FOLDERS.values() for folder in folders))
_SPLIT_FILE = {
    "ucf101": r"(train|test)list0?(?P<fold>\d+)\.txt",
    "hmdb51": r"(?P<name>.+)_test_split(?P<fold>\d+)\.txt",
}


@dataclass(frozen=True)
class Source:
    """Where one split is written down.

    Attributes:
        kind: ``"folders"``, ``"list"``, ``"cvdf"``, ``"ucf101"`` or ``"hmdb51"``.
        path: the split's folder (``folders``), its annotation file (``list``, ``cvdf``), or the folder of the split
            files (``ucf101``, ``hmdb51``).
        root: the data set's folder.
        split: ``"train"``, ``"val"`` or ``"test"``.
        fold: which of the published splits, for ``ucf101`` and ``hmdb51``.
    """

    kind: str
    path: str
    root: str
    split: str
    fold: int = 1


@dataclass
class Listing:
    """What a source lists, before labels are checked.

    Attributes:
        paths: one per video, relative to the root where the file lies below it, absolute otherwise.
        labels: class name, or the integer that a list file gives, or None where there is no label.
        lines: line number per video in the annotation file; empty for class folders.
        missing: listed files that are not on the disk; they are not in ``paths``.
        missing_labels: label per missing file.
        repeated: number of lines that list a file again with the same label; they count once.
        unlisted: videos on the disk that the split files of the fold do not name; for ``ucf101`` and ``hmdb51``.
    """

    paths: list[str] = field(default_factory=list)
    labels: list[str | int | None] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    missing_labels: list[str | int | None] = field(default_factory=list)
    repeated: int = 0
    unlisted: list[str] = field(default_factory=list)


def is_video(name: str) -> bool:
    """Whether a file name has a video suffix and is not hidden (``._clip.mp4`` is macOS metadata, not a video)."""
    return name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")


def find_source(
    root: str, split: Split, layout: Layout = "auto", list_file: str | None = None, fold: int = 1
) -> Source | None:
    """Where ``split`` is written down, or None when the root has no such split.

    A list file wins; without one, ``auto`` takes a split folder that holds class folders, then the CVDF layout (a csv
    file with a ``youtube_id`` column beside flat video files), then ``train.txt`` or ``train.csv`` in the root or in
    ``annotations/``, then the split files of UCF101 and HMDB51, and last a split folder of unlabelled videos.

    UCF101 and HMDB51 publish two lists per fold. The test list is the split ``"val"``; there is no other test split.

    Args:
        root: the data set's folder.
        split: which split.
        layout: restricts the search.
        list_file: list or CVDF csv of this split; relative to the working folder, or else to the root.
        fold: which of the published splits of UCF101 or HMDB51.

    Raises:
        UsageError: the root or the list file does not exist, several folders could be the split, the split files do
            not have the fold, or a fold is asked of a data set that has none.
    """
    source = _find_source(root, split, layout, list_file, fold)
    if source is not None and source.kind not in _SPLIT_FILE and fold != 1:
        raise UsageError(
            f"data.fold: expected 1, the default, found {fold}: UCF101 and HMDB51 have folds, and the {split} split "
            f"comes from {source.path}"
        )
    return source


def _find_source(root: str, split: Split, layout: Layout, list_file: str | None, fold: int) -> Source | None:
    root = os.path.abspath(os.path.expanduser(root))
    if not os.path.isdir(root):
        raise UsageError(
            f"data.root: expected a folder, found nothing at {root}. Give the folder that holds train/ and val/, "
            "or the one that the paths in the list files start from."
        )
    if list_file is not None:
        candidates = [os.path.abspath(os.path.expanduser(list_file)), os.path.join(root, list_file)]
        path = next((c for c in candidates if os.path.isfile(c)), None)
        if path is None:
            raise UsageError(
                f"data.{split}_list: expected a file, found none at {' or '.join(dict.fromkeys(candidates))}"
            )
        kind = "cvdf" if is_cvdf(path) else "list"
        if layout not in ("auto", "list", kind):
            raise UsageError(f"data.layout: expected {kind} or auto for data.{split}_list={list_file}, found {layout}")
        return Source(kind, path, root, split)

    if layout in ("ucf101", "hmdb51"):
        return _split_files(root, split, layout, fold)
    folder = split_folder(root, split)
    names = [f"{alias}{suffix}" for suffix in (".csv", ".txt") for alias in ALIASES[split]]
    files = [os.path.join(root, sub, name) for sub in ("annotations", "") for name in names]
    files = [path for path in files if os.path.isfile(path)]
    cvdf = next((path for path in files if is_cvdf(path)), None)
    plain = next((path for path in files if not is_cvdf(path)), None)
    if folder and layout in ("auto", "folders") and subfolders(folder):
        return Source("folders", folder, root, split)
    if cvdf and layout in ("auto", "cvdf"):
        return Source("cvdf", cvdf, root, split)
    if plain and layout in ("auto", "list"):
        return Source("list", plain, root, split)
    if layout == "auto":
        for kind in _SPLIT_FILE:
            if source := _split_files(root, split, kind, fold):
                return source
    if folder and layout in ("auto", "folders"):
        return Source("folders", folder, root, split)
    return None


def _split_files(root: str, split: Split, kind: str, fold: int) -> Source | None:
    """The split files of UCF101 or HMDB51 below a root; None without any, and for the split ``"test"``."""
    for relative in _SPLIT_FOLDERS[kind] if split != "test" else ():
        path = os.path.normpath(os.path.join(root, relative))
        folds = fold_files(path, kind)
        if folds and fold not in folds:
            found = ", ".join(map(str, sorted(folds)))
            raise UsageError(f"data.fold: expected a fold whose split files are in {path}, {found}; found {fold}")
        if folds:
            return Source(kind, path, root, split, fold)
    return None


def fold_files(folder: str, kind: str) -> dict[int, dict[str, str]]:
    """Fold -> the files of UCF101 or HMDB51 in a folder that belong to it.

    The files of a fold are given by what they are of: ``"train"`` and ``"test"`` for UCF101, the class for HMDB51.
    """
    folds: dict[int, dict[str, str]] = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        match = re.fullmatch(_SPLIT_FILE[kind], name)
        if match and not name.startswith("."):
            folds.setdefault(int(match["fold"]), {})[match[1]] = os.path.join(folder, name)
    return folds


def no_source(root: str, split: Split, layout: Layout) -> UsageError:
    """The error for a split that :func:`find_source` did not find."""
    expected = {
        "folders": f"a folder {split}/ with one folder per class",
        "list": f"a list file (data.{split}_list, or {split}.txt or {split}.csv in the root)",
        "cvdf": f"annotations/{split}.csv with the columns label, youtube_id, time_start, time_end",
        "ucf101": "classInd.txt, trainlist01.txt and testlist01.txt in the root or in ucfTrainTestlist/ (UCF101; they "
        "come in UCF101TrainTestSplits-RecognitionTask.zip, apart from the videos)",
        "hmdb51": "<class>_test_split1.txt files in the root or in testTrainMulti_7030_splits/ (HMDB51; they come in "
        "test_train_splits.rar, apart from the videos)",
    }
    wanted = "; or ".join(expected.values()) if layout == "auto" else expected[layout]
    entries = sorted(entry for entry in os.listdir(root) if not entry.startswith("."))
    shown = ", ".join(entries[:8]) + (", ..." if len(entries) > 8 else "") if entries else "an empty folder"
    return UsageError(f"data.root {root}: no {split} split. Expected {wanted}. Found {shown}.")


def is_cvdf(path: str) -> bool:
    """Whether an annotation file has the header of the CVDF Kinetics csv files."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        header = [column.strip() for column in file.readline().split(",")]
    return {"youtube_id", "time_start", "time_end"} <= set(header)


def subfolders(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out."""
    with os.scandir(folder) as entries:
        folders = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return sorted(name for name in folders if name not in _NOT_CLASSES)


def split_folder(root: str, split: Split) -> str | None:
    """``root/train``, an alias, or one with a size such as ``train_256``; also below ``root/videos``."""
    pattern = re.compile(rf"(?:{'|'.join(ALIASES[split])})(?:[_-]?\d+(?:px|p)?)?", re.I)
    for parent in (root, os.path.join(root, "videos")):
        if not os.path.isdir(parent):
            continue
        found = [name for name in subfolders(parent) if pattern.fullmatch(name)]
        exact = [name for name in found if name == split]
        if len(found) > 1 and not exact:
            raise UsageError(
                f"{parent}: expected one folder for the {split} split, found {', '.join(found)}. "
                f"Rename one of them to {split}, or give a list file as data.{split}_list."
            )
        if found:
            return os.path.join(parent, (exact or found)[0])
    return None


def read_folders(source: Source) -> Listing:
    """The videos of a split in class folders, or without labels when the split's folder holds the videos itself.

    Files anywhere below a class folder belong to the class.

    Raises:
        UsageError: there is no video.
    """
    listing = Listing()
    prefix = os.path.relpath(source.path, source.root)
    classes = subfolders(source.path)
    for name in classes:
        for path in files_below(os.path.join(source.path, name), os.path.join(prefix, name), is_video):
            listing.paths.append(path)
            listing.labels.append(name)
    if not classes:
        listing.paths = [os.path.join(prefix, name) for name in sorted(os.listdir(source.path)) if is_video(name)]
        listing.labels = [None] * len(listing.paths)
    if not listing.paths:
        held = (
            f"{len(classes)} folders without one" if classes else f"{len(os.listdir(source.path))} files of other kinds"
        )
        raise UsageError(
            f"{source.path}: expected videos ({', '.join(VIDEO_SUFFIXES)}) in one folder per class, found {held}. "
            "Check data.root, and that the archives were unpacked."
        )
    return listing


def files_below(folder: str, relative: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Files with ``wanted`` names in a folder and in those below it, sorted, as paths that start with ``relative``."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            # Links to folders below a class are not followed: one could lead back up and never end.
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif wanted(entry.name) and (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
                files.append(entry.name)
    prefix = os.path.join(relative, "")
    for name in sorted(files):
        yield prefix + name
    for name in sorted(folders):
        if not name.startswith("."):
            yield from files_below(os.path.join(folder, name), os.path.join(relative, name), wanted)


def every_video(root: str, relative: str = "", above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Every video below a folder, in sorted order, as paths relative to it; links to folders are followed, hidden
    folders are not. ``above`` are the folders that this one is in: a link that leads back to one is left out."""
    status = os.stat(os.path.join(root, relative))
    this = (status.st_dev, status.st_ino)
    if this in above:
        return
    folders = []
    with os.scandir(os.path.join(root, relative)) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():  # not what links to itself
                folders.append(entry.name)
            elif is_video(entry.name) and (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
                yield os.path.join(relative, entry.name)
    for name in folders:
        if not name.startswith("."):
            yield from every_video(root, os.path.join(relative, name), (*above, this))
