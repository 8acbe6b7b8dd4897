"""Videos that training could not read: which, when and why, and an end when they are too many."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import logging
import os
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from videogn.callbacks.records import leaves_files, run_folder
from videogn.data.files import write_atomically
from videogn.errors import VideoError
from videogn.results import csv_line

log = logging.getLogger(__name__)

FILE = "videos_replaced.csv"
_COLUMNS = ("epoch", "step", "path", "reason")
_WINDOW = 10_000  # videos drawn, after which the older half counts half
_SHOWN = 20


class BadVideos(Callback):
    """Write down every video that another one had to replace; end training when their share is too high.

    ``videos_replaced.csv`` in the run's folder has a row per replacement: epoch, optimiser steps done, path and reason;
    of several processes, each has a file of its own, process 1 ``videos_replaced-1.csv``. A run that goes on from a
    checkpoint drops the rows of the steps that it takes again.

    The share is that of the last 5,000 to 10,000 videos which a process has drawn, replacements included, so that a
    disk that fails after days is noticed, too. Each process judges its own; the first above the limit ends all.

    Args:
        max_share: videos that could not be read among those drawn, from 0 to 1; 1 never ends training.
        tolerated: so many replacements are no reason to end training, whatever their share.
    """

    def __init__(self, max_share: float = 0.1, tolerated: int = 10) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"bad_videos.max_share: expected a share from 0 to 1, found {max_share:g}")
        if tolerated < 0:
            raise ValueError(f"bad_videos.tolerated: expected at least 0 videos, found {tolerated}")
        self.max_share = max_share
        self.tolerated = tolerated
        self._drawn = self._bad = 0.0
        self._path: str | None = None
        self._found: dict[str, str] = {}  # path -> reason, of this process since it began

    def state_dict(self) -> dict[str, float]:
        return {"drawn": self._drawn, "bad": self._bad}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        # Of process 0, as all checkpoints are: each process draws from the same videos.
        self._drawn, self._bad = state_dict["drawn"], state_dict["bad"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)
        if not leaves_files(trainer):
            return
        self._path = _path(folder, trainer.global_rank)
        for path in _paths(folder):
            # Those of processes that there are no more are process 0's to look after.
            if path == self._path or (trainer.is_global_zero and _rank(path) >= trainer.world_size):
                forget_rows(path, trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        replaced = batch.replaced
        self._drawn += len(batch) + len(replaced)
        self._bad += len(replaced)
        if self._drawn > _WINDOW:
            self._drawn, self._bad = self._drawn / 2, self._bad / 2
        if not replaced:
            return
        self._found.update(replaced)
        if self._path is not None:
            add_rows(self._path, trainer.current_epoch, trainer.global_step, replaced)
        if self._bad > self.tolerated and self._bad > self.max_share * self._drawn:
            raise self._error(trainer)

    def _error(self, trainer: Trainer) -> VideoError:
        found = dict(self._found)
        where = "the log"
        if self._path is not None:
            where = self._path
            for path in _paths(os.path.dirname(self._path)):
                with contextlib.suppress(OSError, csv.Error):
                    found |= {row["path"]: row["reason"] for row in _rows(path)}
        root = os.path.abspath(getattr(getattr(trainer, "datamodule", None), "root", os.curdir))
        return VideoError(
            root,
            f"{self._bad / self._drawn:.1%} of the videos that training has drawn could not be read ({self._bad:.0f} "
            f"of {self._drawn:.0f}), more than the {self.max_share:.1%} of bad_videos.max_share. Each was replaced by "
            f"another:\n{grouped(found, where)}\n"
            "Check that the disk answers and the files are complete (`videogn data check` looks at all and writes down "
            "the bad ones, which training then leaves out). With a higher bad_videos.max_share, the same command with "
            "--ckpt_path last goes on.",
        )


def grouped(found: dict[str, str], where: str) -> str:
    """Lines with the files of each reason, those of the most frequent reason first; of many files, the first.

    Args:
        found: path -> reason.
        where: the others are listed.
    """
    groups: dict[str, list[str]] = {}
    for path, reason in found.items():
        groups.setdefault(reason, []).append(path)
    lines: list[str] = []
    shown = 0
    for reason, paths in sorted(groups.items(), key=lambda group: -len(group[1])):
        if shown == _SHOWN:
            break
        some = sorted(paths)[: _SHOWN - shown]
        shown += len(some)
        lines += [
            f"  {reason} ({len(paths):,} file{'s' if len(paths) > 1 else ''}):",
            *(f"    {path}" for path in some),
        ]
    if len(found) > shown:
        lines.append(f"  and {len(found) - shown:,} more: see {where}")
    return "\n".join(lines)


def add_rows(path: str, epoch: int, step: int, replaced: list[tuple[str, str]]) -> None:
    """Appends a row for each (path, reason). A disk that is full is no reason to end training."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            head = csv_line(_COLUMNS) if file.tell() == 0 else ""
            file.write(head + "".join(csv_line([epoch, step, video, reason]) for video, reason in replaced))
    except OSError as error:
        log.warning("%s: cannot be written (%s)", path, error.strerror or error)


def forget_rows(path: str, step: int) -> None:
    """Drops the rows of a step and those after it, and one that a kill has cut short."""
    try:
        kept = [row for row in _rows(path) if int(row["step"]) < step]
        write_atomically(path, map(csv_line, [_COLUMNS, *([row[name] for name in _COLUMNS] for row in kept)]))
    except (OSError, csv.Error) as error:
        log.warning("%s: cannot be written anew (%s)", path, error)


def _rows(path: str) -> list[dict[str, str]]:
    """The rows that are whole."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        text = file.read()
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    return [row for row in rows if all(row.get(name) is not None for name in _COLUMNS) and row["step"].isdecimal()]


def _path(folder: str, rank: int) -> str:
    name, ending = os.path.splitext(FILE)
    return os.path.join(folder, f"{name}-{rank}{ending}" if rank else FILE)


def _paths(folder: str) -> list[str]:
    """The files of all processes that there are."""
    name, ending = os.path.splitext(FILE)
    return sorted(glob.glob(os.path.join(glob.escape(folder), f"{name}*{ending}")))


def _rank(path: str) -> int:
    number = os.path.splitext(os.path.basename(path))[0].rpartition("-")[2]
    return int(number) if number.isdecimal() else 0
