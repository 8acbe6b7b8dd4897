"""The names of a data set's copy, whose videos all become mp4 files, and the lists that name them. No torch."""

from __future__ import annotations

import os

from videogn.data.annotations import rename_listed
from videogn.data.files import write_atomically
from videogn.data.layouts import LIST_FOLDERS, VIDEO_SUFFIXES, every_video
from videogn.data.manifest import NAME
from videogn.errors import UsageError


def target_names(root: str) -> dict[str, str]:
    """Every video below the root -> the name of its copy, both relative.

    Raises:
        UsageError: no videos, or two that would get one name.
    """
    names: dict[str, str] = {}
    source_of: dict[str, str] = {}
    for source in every_video(root):
        name = _as_mp4(source)
        other = source_of.setdefault(name, source)
        if other != source:
            raise UsageError(
                f"{root}: expected videos whose names differ in more than the suffix, found {other} and {source}, "
                f"which would both become {name}. Rename one of them."
            )
        names[source] = name
    if not names:
        raise UsageError(f"{root}: expected videos ({', '.join(VIDEO_SUFFIXES)}) in it or below it, found none")
    return names


def copy_lists(root: str, target: str, names: dict[str, str]) -> None:
    """Copies the csv and txt files of a root, its ``annotations`` folder and the archives' folders of split files.

    Listed videos get their new names.

    Raises:
        UsageError: a file that cannot be copied.
    """
    # Lists may start from any folder (data.path_prefix), so a file is known by the last part of its name.
    renamed = {os.path.basename(source) for source, name in names.items() if source != name}

    def rename(path: str) -> str:
        if os.path.isabs(path):
            below = os.path.relpath(os.path.normpath(path), root)
            return path if below.startswith(os.pardir) else os.path.join(target, _as_mp4(below))
        return _as_mp4(path) if os.path.basename(path) in renamed else path

    for folder in LIST_FOLDERS:
        if not os.path.isdir(os.path.join(root, folder)):
            continue
        for name in sorted(os.listdir(os.path.join(root, folder))):
            source = os.path.join(root, folder, name)
            if (
                not name.endswith((".csv", ".txt"))
                or name.startswith(".")
                or name == NAME
                or not os.path.isfile(source)
            ):
                continue
            try:
                with open(source, encoding="utf-8", errors="surrogateescape", newline="") as file:
                    lines = [rename_listed(line, rename) for line in file]
                os.makedirs(os.path.join(target, folder), exist_ok=True)
                write_atomically(os.path.join(target, folder, name), lines)
            except OSError as error:
                raise UsageError(f"{source}: cannot be copied to {target} ({error.strerror or error})") from error


def _as_mp4(path: str) -> str:
    return os.path.splitext(path)[0] + ".mp4"
