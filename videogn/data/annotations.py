"""Annotation files: lists of ``path label`` lines and the csv files of the CVDF Kinetics layout. Imports no torch."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Callable, Iterator

from videogn.data.layouts import VIDEO_SUFFIXES, Listing, Source, files_below, is_video, split_folder
from videogn.errors import UsageError

_REPLACEMENTS = ("replacement/replacement_for_corrupted_k400", "replacement_for_corrupted_k400")
_HEADER_WORDS = {"path", "video", "file", "filename", "file_name", "video_path", "filepath", "clip", "name"}
_SUFFIX_PATTERN = "|".join(re.escape(suffix) for suffix in VIDEO_SUFFIXES)
# The path ends at the last video suffix that a separator or the end of the line follows, so both paths and class names
# may hold spaces: 'my clips/a b.mp4 arm wrestling'.
_LINE = re.compile(rf"""(?P<quote>["']?)(?P<path>.*(?:{_SUFFIX_PATTERN}))(?P=quote)(?:[\s,]+(?P<label>.*))?""", re.I)

Entry = tuple[str, "str | int | None", int]


def list_entries(source: Source, path_prefix: str | None) -> Iterator[Entry]:
    """The lines of a list file.

    Args:
        source: a source of kind ``"list"``.
        path_prefix: folder that the listed paths start from, relative to the root; None is the root itself.

    Yields:
        Path (relative to the root, or absolute when it lies elsewhere), label or None, and line number.

    Raises:
        UsageError: a line that is no ``path label``.
    """
    prefix = below_root(source.root, os.path.join(source.root, os.path.expanduser(path_prefix or "")))
    prefix = os.path.join(prefix, "") if prefix else ""
    known: dict[str, str | int | None] = {"": None}  # one object per label, not per line
    first = True
    with open(source.path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, raw in enumerate(file, 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            path, text = split_line(line)
            if first and path.casefold() in _HEADER_WORDS:
                first = False
                continue
            first = False
            if not path:
                raise UsageError(
                    f"{source.path}, line {number}: expected 'path label', separated by a space, a tab or a comma, "
                    f"found {line[:120]!r}"
                )
            if text not in known:
                known[text] = int(text) if re.fullmatch(r"[+-]?\d+", text) else text
            path = below_root(source.root, path) if os.path.isabs(path) else prefix + path
            yield (os.path.normpath(path) if "./" in path or "//" in path else path), known[text], number


def below_root(root: str, path: str) -> str:
    """An absolute path relative to the root when it lies below it, so that ids do not depend on where the root is."""
    path = os.path.normpath(path)
    if path == root:
        return ""
    start = os.path.join(root, "")
    return path[len(start) :] if path.startswith(start) else path


def split_line(line: str) -> tuple[str, str]:
    """Path and label of a stripped line of a list file; each may be empty, and quotes around the path are gone."""
    path, _, label = line.rpartition(" ")
    if label.isdecimal() and path.endswith(VIDEO_SUFFIXES) and path[0] not in "\"'":  # most lines, in half the time
        return path, label
    match = _LINE.fullmatch(line)
    if match:
        quote, path, label = match.groups(default="")
        path = path.replace('""', '"') if quote == '"' else path
    else:  # a suffix that is not in the list, or a header: the label is the last column
        separator = next((s for s in ("\t", ",") if s in line), None)
        path, _, label = line.rpartition(separator) if separator else line.rpartition(" ")
        path = path.strip().strip("\"'")
    return path.strip(), label.strip().strip("\"'").strip(" ,\t")


def cvdf_entries(source: Source) -> Iterator[Entry]:
    """The rows of a CVDF csv, each as path of its file, label and line number; a replacement file goes first.

    Args:
        source: a source of kind ``"cvdf"``.

    Raises:
        UsageError: a row without id and times.
    """
    by_stem = _cvdf_files(source)
    replaced = _cvdf_replacements(source.root)
    folder = split_folder(source.root, source.split)  # type: ignore[arg-type]
    parent = os.path.relpath(folder, source.root) if folder else source.split
    with open(source.path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, skipinitialspace=True)  # csv.DictReader takes three times as long
        columns = _columns(rows)
        label = columns.get("label", sys.maxsize)
        youtube_id, start, end = (columns[name] for name in ("youtube_id", "time_start", "time_end"))
        for row in rows:
            if not row:
                continue
            try:
                name = row[youtube_id]
                stem = f"{name}_{int(row[start]):06d}_{int(row[end]):06d}"
            except (IndexError, ValueError):
                raise UsageError(
                    f"{source.path}, line {rows.line_num}: expected youtube_id, time_start and time_end (seconds), "
                    f"found {row}"
                ) from None
            path = replaced.get(name) or by_stem.get(stem) or os.path.join(parent, f"{stem}.mp4")
            yield path, (row[label].strip() or None) if label < len(row) else None, rows.line_num


def cvdf_labels(source: Source) -> list[str]:
    """The distinct labels of a CVDF csv, in the order in which they come. Files are not looked at."""
    with open(source.path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, skipinitialspace=True)
        label = _columns(rows).get("label", sys.maxsize)
        found = {row[label]: None for row in rows if label < len(row)}
    return list(dict.fromkeys(text.strip() for text in found if text.strip()))


def _columns(rows: Iterator[list[str]]) -> dict[str, int]:
    """Number of each column, from the first row."""
    return {name.strip(): number for number, name in enumerate(next(rows, []))}


def _cvdf_files(source: Source) -> dict[str, str]:
    """Stem -> path relative to the root, of the split's files: flat, or sorted into folders later on."""
    folder = split_folder(source.root, source.split)  # type: ignore[arg-type]
    if folder is None:
        return {}
    files = files_below(folder, os.path.relpath(folder, source.root), is_video)
    return {path[path.rfind(os.sep) + 1 : path.rfind(".")]: path for path in files}


def _cvdf_replacements(root: str) -> dict[str, str]:
    """YouTube id -> replacement file: whole downloads for clips that the archives hold damaged."""
    for relative in _REPLACEMENTS:
        folder = os.path.join(root, relative)
        if os.path.isdir(folder):
            return {os.path.basename(path)[:11]: path for path in files_below(folder, relative, is_video)}
    return {}


def check_files(source: Source, entries: Iterator[Entry]) -> Listing:
    """The entries whose files exist, each file once; the others are named in ``missing``.

    Raises:
        UsageError: no file exists, nothing is listed, or a file has two labels.
    """
    listing = Listing()
    folders: dict[str, frozenset[str]] = {}
    seen: dict[str, int] = {}
    missing: dict[str, str | int | None] = {}
    paths, labels, lines = listing.paths, listing.labels, listing.lines
    for path, label, line in entries:
        before = seen.setdefault(path, len(paths))
        parent, _, name = path.rpartition("/")
        names = folders.get(parent)
        if names is None:
            names = folders[parent] = _file_names(os.path.join(source.root, parent or os.path.dirname(path)))
        if name not in names:
            missing[path] = label
        elif before == len(paths):
            paths.append(path)
            labels.append(label)
            lines.append(line)
        else:
            if label != labels[before]:
                raise UsageError(
                    f"{source.path}, lines {lines[before]} and {line}: expected one label per file, found "
                    f"{labels[before]!r} and {label!r} for {path}"
                )
            listing.repeated += 1
    listing.missing, listing.missing_labels = list(missing), list(missing.values())
    if listing.missing and not listing.paths:
        looked = os.path.join(source.root, listing.missing[0])
        raise UsageError(
            f"{source.path}: none of its {len(listing.missing):,} files exists; the first was looked for at {looked}. "
            "Set data.root or data.path_prefix to the folder that the listed paths start from."
        )
    if not listing.paths:
        raise UsageError(f"{source.path}: expected lines 'path label', found none")
    return listing


def _file_names(folder: str) -> frozenset[str]:
    """Names of the files in a folder: one directory read instead of one request per file."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def rename_listed(line: str, rename: Callable[[str], str]) -> str:
    """A line of a list file with its path changed by ``rename``; a line without a video's path as it is."""
    body = line.lstrip("\ufeff").strip()
    match = _LINE.fullmatch(body)
    if match is None or body.startswith("#"):
        return line
    quoted = match["quote"] == '"'
    path = rename(match["path"].replace('""', '"') if quoted else match["path"])
    start, end = match.span("path")
    changed = body[:start] + (path.replace('"', '""') if quoted else path) + body[end:]
    at = line.index(body)
    return line[:at] + changed + line[at + len(body) :]
