"""What a study's runs left in their folders. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from videogn.report.curves import Curve
from videogn.results import Training
from videogn.study.grid import Cell
from videogn.study.runs import Run

Status = Literal["done", "failed", "interrupted", "missing"]


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
        return 100.0 * (1.0 - self.scores["top1"])


@dataclass(frozen=True)
class CellResult:
    """What is known of one cell.

    Attributes:
        cell: which.
        lr: the learning rate of its runs, before the linear rule.
        outcomes: of its finished runs, in the order of the study's seeds.
        missing: how many runs are not finished.
    """

    cell: Cell
    lr: float | None
    outcomes: tuple[Outcome, ...]
    missing: int

    def scores(self, name: str) -> list[float]:
        """One score of each finished run, in %: ``top1``, ``top5``, ``clip_top1``, ``clip_top5``."""
        return [100.0 * outcome.scores[name] for outcome in self.outcomes]

    @property
    def errors(self) -> dict[int, float]:
        """Seed -> top-1 error per video in %."""
        return {outcome.run.seed: outcome.error for outcome in self.outcomes}
