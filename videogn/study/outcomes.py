"""What a study's runs left in their folders. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from videogn.errors import UsageError
from videogn.report.curves import Curve, read_curves
from videogn.results import TRAINING_FILE, Training
from videogn.results import read_record as read_training_record
from videogn.study.grid import Cell, Study
from videogn.study.runs import Run

Status = Literal["done", "failed", "interrupted", "missing"]
RECORD_FILE = "run.json"
_SCORES = ("top1", "top5", "clip_top1", "clip_top5", "loss")


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        run: which.
        status: ``"failed"`` ended with an error, ``"interrupted"`` can go on.
        scores: the last validation's ``top1``, ``top5``, ``clip_top1``, ``clip_top5`` in [0, 1] and ``loss``; empty
            unless done.
        curves: of ``metrics.csv`` by name (``"train/top1"``, ``"val/clip_top1"``, ``"features/p50"`` ...).
        training: what training took, clips seen among it; None where it is not known.
        seconds: wall time of all its starts together.
    """

    run: Run
    status: Status
    scores: dict[str, float]
    curves: dict[str, Curve]
    training: Training | None
    seconds: float

    @property
    def error(self) -> float:
        """Top-1 error per video in %, of the last validation."""
        return round(100.0 - percent(self.scores["top1"]), 9)


@dataclass(frozen=True)
class CellResult:
    """What is known of one cell.

    Attributes:
        cell: which.
        lr: the learning rate of its runs, before the linear rule; None where it is not set, or not chosen yet.
        outcomes: of its finished runs, in the order of the study's seeds.
        missing: how many runs are not finished.
    """

    cell: Cell
    lr: float | None
    outcomes: tuple[Outcome, ...]
    missing: int

    def scores(self, name: str) -> list[float]:
        """One score of each finished run, in %: ``top1``, ``top5``, ``clip_top1``, ``clip_top5``."""
        return [percent(outcome.scores[name]) for outcome in self.outcomes]

    @property
    def errors(self) -> dict[int, float]:
        """Seed -> top-1 error per video in %."""
        return {outcome.run.seed: outcome.error for outcome in self.outcomes}


def percent(share: float) -> float:
    """Without the last bits of the multiplication: 0.6375 is 63.75, not 63.74999999999999."""
    return round(100.0 * share, 9)


def read_outcome(run: Run) -> Outcome:
    """What a run has left in its folder.

    Raises:
        UsageError: files of the run that cannot be read.
    """
    record = read_record(run.folder)
    state = str(record.get("status", "missing"))
    folder = _newest_version(run.folder)
    if folder is None:
        return Outcome(run, "failed" if state == "failed" else "missing", {}, {}, None, record.get("seconds", 0.0))
    curves = read_curves(str(folder))
    scores = {name: float(curves[f"val/{name}"].values[-1]) for name in _SCORES if f"val/{name}" in curves}
    status: Status = "done" if state == "done" else "failed" if state == "failed" else "interrupted"
    if status == "done" and "top1" not in scores:
        raise UsageError(
            f"{folder}: the run is finished, but its metrics.csv has no val/top1; a study needs a validation at the "
            "end of each run. Delete the folder to run it again."
        )
    training = folder / TRAINING_FILE
    took = read_training_record(str(training), Training) if training.is_file() else None
    return Outcome(run, status, scores if status == "done" else {}, curves, took, record.get("seconds", 0.0))


def cell_results(study: Study, outcomes: Sequence[Outcome]) -> list[CellResult]:
    """The outcomes of the runs that count, by cell, in the order of the study's cells."""
    found = []
    for cell in study.cells:
        of = [o for o in outcomes if o.run.purpose == "result" and o.run.cell.values == cell.values]
        lr = of[0].run.lr if of else None
        chosen = study.rates is None or lr is not None  # else they are another study's, which chose their rate
        done = tuple(o for o in of if o.status == "done" and chosen)
        found.append(CellResult(cell, lr, done, len(study.seeds) - len(done)))
    return found


def read_record(folder: Path) -> dict[str, Any]:
    """How the starts of a run ended: ``status``, ``seconds``, ``starts``, ``exit_code``; empty before the first end."""
    try:
        found = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / RECORD_FILE}: cannot be read ({error}); delete it to run this again") from error
    return found if isinstance(found, dict) else {}


def _newest_version(folder: Path) -> Path | None:
    versions = [path for path in folder.glob("version_*") if path.name[8:].isdigit()]
    return max(versions, key=lambda path: int(path.name[8:]), default=None)
