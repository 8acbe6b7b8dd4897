"""What a study's figures show, as numbers: runs gathered into lines, panels and pairs. Imports no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from videogn.report.charts import shortened
from videogn.report.curves import percentiles
from videogn.study.grid import Reported, Study
from videogn.study.outcomes import CellResult, Outcome

_Points = tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]
_WORDS = {"batch_size": "clips per batch", "clip": "clip (frames x stride)", "num_groups": "number of groups"}


@dataclass(frozen=True)
class Series:
    """One line of a figure.

    Attributes:
        label: in the legend; any text.
        number: chooses colour and marker.
        x: places, rising.
        values: at each place, one of each run that has one.
        training: whether it is about training, not validation.
    """

    label: str
    number: int
    x: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    training: bool = False

    @property
    def median(self) -> list[float]:
        return [statistics.median(runs) for runs in self.values]

    @property
    def low(self) -> list[float]:
        return [min(runs) for runs in self.values]

    @property
    def high(self) -> list[float]:
        return [max(runs) for runs in self.values]


@dataclass(frozen=True)
class Panel:
    """One of several plots of the same kind.

    Attributes:
        title: above it.
        series: its lines.
        place: the value of ``study.x`` that it is about.
    """

    title: str
    series: tuple[Series, ...]
    place: str = ""


@dataclass(frozen=True)
class Pair:
    """A published result and the runs of the same cell.

    Attributes:
        label: the cell.
        reported: what was published.
        source: number of its source among those of the study, from 0 on.
        here: top-1 in % of each run.
    """

    label: str
    reported: Reported
    source: int
    here: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.here)


def words(axis: str) -> str:
    """An axis for people."""
    return _WORDS.get(axis, axis.replace("_", " "))


def is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def listed(names: Sequence[str], most: int = 6) -> str:
    """``bn, 8; bn, 4; and 7 more``."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return "; ".join([*names[:most], *more])


def ordered(study: Study, axis: str) -> list[str]:
    """An axis' values from left to right: numbers from large to small (the paper's figures of batch sizes), others as
    in the study's file."""
    values = list(study.axes[axis])
    return sorted(values, key=lambda value: -float(value)) if all(map(is_number, values)) else values


def selected(results: Sequence[CellResult], where: Mapping[str, str]) -> list[CellResult]:
    """The results of the cells that have these values."""
    return [result for result in results if all(result.cell.values[axis] == value for axis, value in where.items())]


def curve_panels(study: Study, results: Sequence[CellResult]) -> list[Panel]:
    """Top-1 errors of clips in % against epochs, a panel for each value of ``study.x``.

    A study whose lines are the values of ``x`` has one panel. Lines and panels without a curve are left out.
    """
    panels = []
    apart = study.x != study.lines
    for place in ordered(study, study.x) if apart else [""]:
        lines = []
        for number, line in enumerate(study.axes[study.lines]):
            cells = selected(results, {study.lines: line} | ({study.x: place} if apart else {}))
            outcomes = [outcome for result in cells for outcome in result.outcomes]
            for name, training in (("train/top1", True), ("val/clip_top1", False)):
                if epochs := _by_epoch(outcomes, name):
                    lines.append(Series(line, number, tuple(epochs), tuple(map(tuple, epochs.values())), training))
        if lines:
            title = f"{words(study.x)}: {place}" if is_number(place) else place
            panels.append(Panel(title, tuple(lines), place))
    return panels


def _by_epoch(outcomes: Sequence[Outcome], name: str) -> dict[float, list[float]]:
    """Errors in % after each epoch, the first of which is 1: of an epoch with several values, the last."""
    found: dict[float, list[float]] = {}
    for outcome in outcomes:
        curve = outcome.curves.get(name)
        if curve is None:
            continue
        pairs = zip(curve.epochs.tolist(), curve.values.tolist(), strict=True)
        last = {epoch + 1: value for epoch, value in pairs if math.isfinite(epoch) and math.isfinite(value)}
        for epoch, value in last.items():
            found.setdefault(epoch, []).append(100 * (1 - value))
    return dict(sorted(found.items()))


def error_series(study: Study, results: Sequence[CellResult]) -> list[Series]:
    """Final top-1 errors of videos in %, a line for each value of ``study.lines``; x counts ``ordered(study.x)``."""
    places = ordered(study, study.x)
    series = []
    for number, line in enumerate(study.axes[study.lines]):
        points = {}
        for position, place in enumerate(places):
            if study.x == study.lines and place != line:
                continue
            cells = selected(results, {study.lines: line, study.x: place})
            if errors := tuple(outcome.error for result in cells for outcome in result.outcomes):
                points[float(position)] = errors
        if points:
            series.append(Series(line, number, tuple(points), tuple(points.values())))
    return series


def feature_panels(study: Study, results: Sequence[CellResult]) -> list[Panel]:
    """Percentiles of a layer's features against optimiser steps, a panel for each cell: of its run with the study's
    first seed that has them. The lines are numbered and fall from the highest percentile to the lowest."""
    chosen = []
    for result in results:
        runs = sorted(result.outcomes, key=lambda outcome: study.seeds.index(outcome.run.seed))
        found = next((curves for outcome in runs if (curves := _percentiles(outcome))), None)
        if found:
            chosen.append((result.cell.text(), found))
    numbered = sorted({p for _, found in chosen for p in found}, reverse=True)
    return [
        Panel(title, tuple(Series(f"percentile {p}", i, *found[p]) for i, p in enumerate(numbered) if p in found))
        for title, found in chosen
    ]


def _percentiles(outcome: Outcome) -> dict[int, _Points]:
    """Steps and values by percentile."""
    found: dict[int, _Points] = {}
    for p, curve in percentiles(outcome.curves).items():
        finite = [math.isfinite(value) for value in curve.values.tolist()]
        steps, values = shortened(curve.steps[finite].tolist(), curve.values[finite].tolist())
        found[p] = tuple(steps.tolist()), tuple((value,) for value in values.tolist())
    return found


def pairs(study: Study, results: Sequence[CellResult]) -> list[Pair]:
    """The published results of cells that have finished runs, in the order of the study's file."""
    found: list[Pair] = []
    sources = list(dict.fromkeys(row.source for row in study.reported))
    for row in study.reported:
        here = [score for result in selected(results, row.values) for score in result.scores("top1")]
        if here:
            found.append(Pair(", ".join(row.values.values()), row, sources.index(row.source), tuple(here)))
    return found
