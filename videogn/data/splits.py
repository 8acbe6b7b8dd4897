"""The split files of UCF101 and HMDB51, as they come: which videos a fold trains on and tests on. Imports no torch.

UCF101 (Soomro et al. 2012): ``classInd.txt`` with lines ``1 ApplyEyeMakeup``, and per fold ``trainlist01.txt`` with
lines ``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`` and ``testlist01.txt`` with the same without the number.
HMDB51 (Kuehne et al. 2011): per class and fold ``brush_hair_test_split1.txt`` with lines ``name.avi 1``, where 1 is
training, 2 is test and 0 is neither.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from videogn.data.annotations import Entry, below_root, check_files
from videogn.data.classes import ClassList
from videogn.data.layouts import Listing, Source, every_video, fold_files, subfolders
from videogn.errors import UsageError

# Folders of the videos' archives, which hold one folder per class, below the root.
_VIDEO_FOLDERS = {
    "ucf101": ("UCF-101", "UCF101", "ucf101", "videos", ""),
    "hmdb51": ("hmdb51_org", "HMDB51", "hmdb51", "videos", ""),
}
_HMDB_TAGS = {"train": "1", "val": "2"}

# A video as the lists name it: class folder, and file name without its suffix. Copies with smaller videos have others.
_Video = tuple[str, str]


def fold_class_names(source: Source) -> tuple[str, ...]:
    """Class names in the order of the labels: that of ``classInd.txt``, and sorted for HMDB51.

    Raises:
        UsageError: no ``classInd.txt`` or one with other lines, or a class of HMDB51 without a file for this fold.
    """
    if source.kind == "ucf101":
        return _read_class_ind(os.path.join(source.path, "classInd.txt"))
    folds = fold_files(source.path, source.kind)
    for other, files in folds.items():
        lacking = sorted(set(files) - set(folds[source.fold]))
        if lacking:
            raise UsageError(
                f"{source.path}: expected {lacking[0]}_test_split{source.fold}.txt beside the file of fold {other}, "
                f"found none ({len(lacking)} classes lack theirs). Unpack the archive of split files again."
            )
    return tuple(sorted(folds[source.fold]))


def read_fold(source: Source, path_prefix: str | None = None) -> Listing:
    """The videos of one list of a fold that are on the disk; the others are named in ``missing``.

    Args:
        source: a source of kind ``"ucf101"`` or ``"hmdb51"``.
        path_prefix: folder of the class folders, relative to the root; None looks for the archives' folders.

    Raises:
        UsageError: a line that says something else than the format, a class or number that is not in the classes, a
            video in both lists of the fold, or not one listed file on the disk.
    """
    names = ClassList(fold_class_names(source))
    read = _read_ucf101 if source.kind == "ucf101" else _read_hmdb51
    listed, unused = read(source, names)
    base = _videos_folder(source, names, path_prefix)
    folder = os.path.join(source.root, base)
    on_disk: dict[_Video, str] = {}
    for path in every_video(folder) if os.path.isdir(folder) else ():
        on_disk.setdefault(_video(path), os.path.join(base, path))  # .avi, as listed, sorts before what it became
    videos = listed[source.split]
    if not videos:
        purpose = "training" if source.split == "train" else "test"
        raise UsageError(f"{source.path}: expected videos for {purpose} in fold {source.fold}, found none")

    def entries() -> Iterator[Entry]:
        for (name, stem), line in videos:
            default = os.path.join(base, name, f"{stem}.avi")
            yield on_disk.get((name.casefold(), stem), default), name, line

    listing = check_files(source, entries())
    if source.kind == "hmdb51":
        listing.lines = []  # they count from the start of each class's file
    if source.split == "train":  # once is enough: the lists of a fold are read together
        known = {(name.casefold(), stem) for lines in (*listed.values(), unused) for (name, stem), _ in lines}
        folders = {name.casefold() for name in names.names}
        # The root may hold other videos beside the class folders; a folder of the archive holds nothing else.
        listing.unlisted = [
            path for video, path in on_disk.items() if video not in known and (base or video[0] in folders)
        ]
    return listing


_Lines = list[tuple[_Video, int]]


def _read_ucf101(source: Source, names: ClassList) -> tuple[dict[str, _Lines], _Lines]:
    """Split -> videos with their line numbers, and no unused ones."""
    files = fold_files(source.path, source.kind)[source.fold]
    for kind in ("train", "test"):
        if kind not in files:
            raise UsageError(
                f"{source.path}: expected {kind}list{source.fold:02d}.txt beside "
                f"{', '.join(map(os.path.basename, files.values()))}, found none"
            )
    listed = {split: _ucf101_lines(files[kind], names) for split, kind in (("train", "train"), ("val", "test"))}
    both = {video for video, _ in listed["train"]} & {video for video, _ in listed["val"]}
    if both:
        shown = ", ".join("/".join(video) for video in sorted(both)[:3])
        raise UsageError(
            f"{files['train']} and {files['test']}: expected no video in both lists, found {len(both):,}: {shown}. "
            "Unpack the archive of split files again."
        )
    return listed, []


def _ucf101_lines(file: str, names: ClassList) -> _Lines:
    videos = []
    for number, line in _lines(file):
        match = re.fullmatch(r"(?P<path>\S.*?)(?:\s+(?P<label>\d+))?", line)
        folder, _, name = (match["path"] if match else line).rpartition("/")
        if match is None or not folder:
            raise UsageError(
                f"{file}, line {number}: expected 'Class/video.avi' or 'Class/video.avi 1', found {line!r}"
            )
        label = names.find(os.path.basename(folder))
        if label is None:
            raise UsageError(f"{file}, line {number}: expected the folder of a class in classInd.txt, found {folder!r}")
        if match["label"] is not None and int(match["label"]) != label + 1:
            raise UsageError(
                f"{file}, line {number}: expected {label + 1}, the number of {names.names[label]} in classInd.txt, "
                f"found {match['label']}. The lists and classInd.txt must come from one archive."
            )
        videos.append(((names.names[label], os.path.splitext(name)[0]), number))
    return videos


def _read_class_ind(file: str) -> tuple[str, ...]:
    if not os.path.isfile(file):
        raise UsageError(
            f"{os.path.dirname(file)}: expected classInd.txt, which numbers UCF101's classes, beside the lists, found "
            "none. It comes in the same archive, UCF101TrainTestSplits-RecognitionTask.zip."
        )
    names: list[str] = []
    for number, line in _lines(file):
        label, _, name = line.partition(" ")
        if label != str(len(names) + 1) or not name.strip():
            raise UsageError(f"{file}, line {number}: expected '{len(names) + 1} ClassName', found {line!r}")
        names.append(name.strip())
    if not names:
        raise UsageError(f"{file}: expected lines '1 ClassName', found none")
    return tuple(names)


def _read_hmdb51(source: Source, names: ClassList) -> tuple[dict[str, _Lines], _Lines]:
    """Split -> videos with their line numbers, and those that the fold does not use."""
    by_tag: dict[str, _Lines] = {"0": [], "1": [], "2": []}
    files = fold_files(source.path, source.kind)[source.fold]
    for name in names.names:
        seen: dict[str, tuple[str, int]] = {}
        for number, line in _lines(files[name]):
            video, _, tag = line.replace("\t", " ").rpartition(" ")
            stem = os.path.splitext(video.strip())[0]
            if not stem or tag not in by_tag:
                raise UsageError(
                    f"{files[name]}, line {number}: expected 'video.avi 1' with 1 for training, 2 for test and 0 for "
                    f"neither, found {line!r}"
                )
            before, line_before = seen.setdefault(stem, (tag, number))
            if before != tag:
                raise UsageError(
                    f"{files[name]}, lines {line_before} and {number}: expected each video once, found {video.strip()} "
                    f"with {before} and with {tag}"
                )
            by_tag[tag].append(((name, stem), number))
    return {split: by_tag[tag] for split, tag in _HMDB_TAGS.items()}, by_tag["0"]


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty. No comments: file names of HMDB51 begin with ``#``."""
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as text:
        for number, raw in enumerate(text, 1):
            if line := raw.strip():
                yield number, line


def _videos_folder(source: Source, names: ClassList, path_prefix: str | None) -> str:
    """The folder of the class folders, relative to the root or absolute; the archive's where there is none."""
    if path_prefix is not None:
        path = os.path.join(source.root, os.path.expanduser(path_prefix))
        if not os.path.isdir(path):
            raise UsageError(f"data.path_prefix: expected a folder with one folder per class, found nothing at {path}")
        return below_root(source.root, path)
    known = {name.casefold() for name in names.names}
    candidates = _VIDEO_FOLDERS[source.kind]
    for relative in candidates:
        path = os.path.join(source.root, relative)
        if os.path.isdir(path) and known & {name.casefold() for name in subfolders(path)}:
            return relative
    return candidates[0]


def _video(path: str) -> _Video:
    """The class folder and the name of a file in it, or in a folder further below."""
    folder, _, rest = path.partition(os.sep)
    return folder.casefold(), os.path.splitext(os.path.basename(rest))[0]
