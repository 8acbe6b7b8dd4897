"""A study's figures in the report of runs, from the folder that `videogn study` wrote. Imports no torch."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videogn.errors import UsageError
from videogn.report.folders import check_file
from videogn.report.markup import missing, plain, text

STUDY_FILE = "study.json"
_MAKE = "`videogn study` writes it into runs/study/NAME, or where its --output says"
_MOST_BYTES = 32 << 20


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        title: a few words; any text.
        caption: sentences; any text.
        svg: content of its file.
    """

    title: str
    caption: str
    svg: bytes


@dataclass(frozen=True)
class StudyFigures:
    """What a report shows of a study.

    Attributes:
        title: any text.
        about: command, date and processor, as far as the file says; any text.
        pictures: in the study's order.
    """

    title: str
    about: str
    pictures: tuple[Picture, ...]


def read_figures(folder: str) -> StudyFigures:
    """The figures that ``study.json`` in a study's output folder names.

    The folder may come from anyone: only files in it are opened, each once, and pages show the pictures as pictures, in
    which no script runs.

    Raises:
        UsageError: no such file, a damaged one, or a figure that is not there; more than 32 MiB in one of them.
    """
    path = os.path.join(folder, STUDY_FILE)
    if not os.path.isfile(path):
        raise UsageError(f"--study: expected a folder with {STUDY_FILE}, found none in {folder}; {_MAKE}")
    content = _content(path)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); {_MAKE}") from error
    figures = found.get("figures") if isinstance(found, dict) else None
    names = [one["name"] for one in figures if _is_figure(one)] if isinstance(figures, list) else []
    if not isinstance(figures, list) or len(set(names)) < len(figures):
        raise UsageError(f"{path}: expected the list `figures` in it, each of another name; {_MAKE}")
    about = [str(found[name]) for name in ("command", "date", "cpu") if found.get(name)]
    return StudyFigures(
        str(found.get("title") or os.path.basename(os.path.abspath(folder))),
        "; ".join(about),
        tuple(
            Picture(one["title"], one["caption"], _content(os.path.join(folder, f"{one['name']}.svg")))
            for one in figures
        ),
    )


def _is_figure(one: Any) -> bool:
    if not isinstance(one, Mapping) or not all(isinstance(one.get(key), str) for key in ("name", "title", "caption")):
        return False
    return bool(one["name"]) and os.path.basename(one["name"]) == one["name"]


def _content(path: str) -> bytes:
    check_file(path, "study")
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UsageError(
            f"{plain(path)}: cannot be read ({getattr(error, 'strerror', None) or error}); {_MAKE}"
        ) from error
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{path}: expected at most {_MOST_BYTES >> 20} MiB, found more; {_MAKE}")
    return content


def study_figures(study: StudyFigures) -> str:
    """The content of a section."""
    if not study.pictures:
        return missing("The study has no figures yet.")
    about = f" {text(study.about)}." if study.about else ""
    return (
        f"<p><strong>{text(study.title)}.</strong>{about}</p>"
        f'<div class="plots wide">{"".join(map(_figure, study.pictures))}</div>'
    )


def _figure(picture: Picture) -> str:
    address = "data:image/svg+xml;base64," + base64.b64encode(picture.svg).decode("ascii")
    caption = f"<strong>{text(picture.title)}</strong>. {text(picture.caption)}"
    return (
        f'<figure class="plot"><figcaption>{caption}</figcaption>'
        f'<img src="{address}" alt="{text(picture.title)}"></figure>'
    )
