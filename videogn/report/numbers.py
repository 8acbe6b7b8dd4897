"""All numbers of a report, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videogn.data.progress import ProgressBar
from videogn.report.calibration import Calibration, calibration
from videogn.report.paired import Comparison, compare
from videogn.report.runs import Run
from videogn.report.statistics import (
    ClassAccuracy,
    ClipsAccuracy,
    Headline,
    accuracy_by_clips,
    confusion,
    headline,
    per_class,
)


@dataclass(frozen=True)
class Scored:
    """A run with its numbers.

    Attributes:
        run: as read.
        headline: its scores.
        calibration: of its probabilities.
        classes: accuracy of each class, by number.
        confusion: (classes, classes), videos of the class of the row that were taken for that of the column.
        by_clips: accuracy against the number of clips.
    """

    run: Run
    headline: Headline
    calibration: Calibration
    classes: list[ClassAccuracy]
    confusion: NDArray[np.int64]
    by_clips: list[ClipsAccuracy]


@dataclass(frozen=True)
class Numbers:
    """Runs with their numbers in the order given, and each pair of them compared."""

    scored: list[Scored]
    comparisons: list[Comparison]

    @property
    def runs(self) -> list[Run]:
        """As read."""
        return [s.run for s in self.scored]

    @property
    def names(self) -> list[str]:
        """Of the runs."""
        return [s.run.name for s in self.scored]


def compute(runs: Sequence[Run]) -> Numbers:
    """The numbers of a report; tells on standard error how far it is."""
    scored = []
    with ProgressBar("computing intervals", len(runs) + 1) as bar:
        for done, run in enumerate(runs):
            bar.update(done, run.name)
            classes = len(run.class_names)
            scored.append(
                Scored(
                    run,
                    headline(run.results),
                    calibration(run.results),
                    per_class(run.results, classes),
                    confusion(run.results, classes),
                    accuracy_by_clips(run.results),
                )
            )
        bar.update(len(runs), "pairs of runs")
        comparisons = compare([run.results for run in runs])
        bar.update(len(runs) + 1)
    return Numbers(scored, comparisons)
