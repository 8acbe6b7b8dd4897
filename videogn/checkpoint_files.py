"""Which file of its folder a run goes on from, and what to take where one is damaged."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from videogn import checkpoint
from videogn.errors import UsageError

log = logging.getLogger(__name__)

_LAST = re.compile(r"last(?:-(\d{1,9}))?\.ckpt")
_VERSION = re.compile(r"version_(\d{1,9})")
FOLDER = "checkpoints"


def find_last(root: str | os.PathLike[str], warn: Callable[[str], None] = log.warning) -> Path | None:
    """The checkpoint that a run under ``trainer.default_root_dir`` goes on from; None where no run has left one.

    It is of the newest run with checkpoints: the folder ``version_N`` with the highest N, or ``root`` itself if its
    files are newer, as of runs without a logger. There ``last.ckpt`` comes first, then ``last-1.ckpt`` and so on, then
    the best ones, the newest first. One that is damaged is passed over with a warning. Files of weights alone and of
    other programs do not count.

    Args:
        root: the folder in which the run makes its ``version_N``: for a logger with a name, that in ``root``.
        warn: is given the warnings.

    Raises:
        UsageError: all checkpoints of that run are damaged, or the folder cannot be read: a new start would hide that.
    """
    root = Path(root)
    try:
        for folder in _newest_first(root):
            found = _usable(_candidates(folder), warn)
            if found is not None:
                return found
    except OSError as error:
        raise UsageError(f"{error.filename or root}: cannot be read ({error.strerror or error})") from error
    return None


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`videogn.checkpoint.read` gives; of a damaged file, the error names one beside it that is usable."""
    try:
        return checkpoint.read(path)
    except checkpoint.DamagedFile as error:
        path = Path(path)
        for other in _candidates(path.parent):
            step = _step_of_run(other) if other != path else None
            if step is not None:
                raise checkpoint.DamagedFile(f"{error}. {other} is usable, after {step} steps.") from error
        raise checkpoint.DamagedFile(f"{error}. No other file of its folder is usable.") from error


def _usable(candidates: list[Path], warn: Callable[[str], None]) -> Path | None:
    """The first that a run can go on from."""
    damaged: list[tuple[Path, UsageError]] = []
    for path in candidates:
        try:
            stored = checkpoint.read(path)
        except checkpoint.ForeignFile:
            continue
        except UsageError as error:
            damaged.append((path, error))
            continue
        if checkpoint.holds_run(stored):
            for passed, reason in damaged:
                warn(f"{reason}. The run goes on from {path}, {_lost(passed, stored)}.")
            return path
    if damaged:
        reasons = "\n  ".join(str(error) for _, error in damaged)
        raise UsageError(
            f"{candidates[0].parent}: expected a checkpoint that the run can go on from, found none that is usable:\n  "
            f"{reasons}\nMove this run's folder away, or leave out --ckpt_path, to start anew."
        )
    return None


def _lost(damaged: Path, taken: dict[str, Any]) -> str:
    """What is computed again because of a damaged file. Its numbers are mostly readable: most bytes are tensors'."""
    step = taken.get("global_step")
    lost = _unchecked(damaged).get("global_step")
    if not (isinstance(step, int) and isinstance(lost, int)):
        return f"which has {step} steps"
    if lost <= step:
        return f"which has as many steps ({step})"
    return f"which has {step} steps instead of {lost}: {lost - step} are computed again"


def _step_of_run(path: Path) -> int | None:
    """The optimiser steps of a usable checkpoint of a run; None for any other file."""
    try:
        stored = checkpoint.read(path)
    except UsageError:
        return None
    step = stored.get("global_step")
    return step if checkpoint.holds_run(stored) and isinstance(step, int) else None


def _unchecked(path: Path) -> dict[str, Any]:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch raises many types for bytes that are no checkpoint
        return {}
    return stored if isinstance(stored, dict) else {}


def _newest_first(root: Path) -> list[Path]:
    """The ``checkpoints`` folders of the runs of ``root``, those without a file left out."""
    versions = [(int(match[1]), run) for run in root.glob("version_*") if (match := _VERSION.fullmatch(run.name))]
    found = [run / FOLDER for _, run in sorted(versions, reverse=True) if _candidates(run / FOLDER)]
    without_logger = _candidates(root / FOLDER)
    if without_logger:
        newer = not found or _newest(without_logger) > _newest(_candidates(found[0]))
        found.insert(0 if newer else len(found), root / FOLDER)
    return found


def _newest(files: list[Path]) -> float:
    return max(file.stat().st_mtime for file in files)


def _candidates(folder: Path) -> list[Path]:
    """The checkpoint files of a folder, in the order in which a run would go on from them."""
    numbers: dict[Path, int] = {}
    times: dict[Path, float] = {}
    for path in folder.glob("*.ckpt"):
        if path.is_file():
            last = _LAST.fullmatch(path.name)
            if last:
                numbers[path] = int(last[1] or 0)
            else:
                times[path] = path.stat().st_mtime
    return sorted(numbers, key=lambda path: numbers[path]) + sorted(times, key=lambda path: times[path], reverse=True)
