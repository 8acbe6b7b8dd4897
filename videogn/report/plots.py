"""The report's sections that are plots: training curves, feature percentiles, accuracy against clips, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from videogn.report.charts import MOST_POINTS, Line, legend, lines, reliability
from videogn.report.curves import percentiles
from videogn.report.markup import Cell, figure, missing, number, percent, table, text, thinned, value
from videogn.report.numbers import Numbers
from videogn.report.overview import interval, named
from videogn.report.runs import Curve, Run

MOST_ROWS = 60
"""Of a table below a plot."""

_CURVES = (
    # name in metrics.csv or its beginning, title, axis, factor, digits
    ("train/loss", "Training loss", "loss / nats", 1.0, 3),
    ("val/loss", "Validation loss", "loss / nats", 1.0, 3),
    ("train/top1", "Training top-1 (clips)", "top-1 / %", 100.0, 1),
    ("val/top1", "Validation top-1 (videos)", "top-1 / %", 100.0, 1),
    ("lr-", "Learning rate", "learning rate", 1.0, 6),
)


def training_curves(numbers: Numbers) -> str:
    """What was logged while the runs were trained, one plot per quantity."""
    runs = numbers.runs
    figures, absent = [], []
    for position, (name, title, axis, factor, digits) in enumerate(_CURVES):
        curves = [(i, _curve(run, name)) for i, run in enumerate(runs)]
        found = [(i, curve) for i, curve in curves if curve is not None]
        if not found:
            absent.append(title.lower())
            continue
        shown = [Line(i, c.steps.tolist(), (factor * c.values).tolist()) for i, c in found]
        label = f"{title} against optimiser steps of {', '.join(runs[i].name for i, _ in found)}"
        svg = lines(f"curve{position}", label, shown, "optimiser steps", axis)
        figures.append(figure(title, _means(shown), svg, _curve_table(runs, shown, title, axis, digits)))
    without = [run.name for run in runs if not run.curves]
    notes = missing(f"No metrics.csv was found for {', '.join(without)}.") if without else ""
    if absent and figures:
        notes += missing(f"Not logged: {', '.join(absent)}.")
    if not figures:
        return notes or missing("The metrics.csv files hold no curve.")
    return f'{legend(numbers.names)}<div class="plots">{"".join(figures)}</div>{notes}'


def feature_percentiles(numbers: Numbers) -> str:
    """Percentiles of a layer's features while the runs were trained, one plot per run; empty where none logged them."""
    logged = [(run, percentiles(run.curves)) for run in numbers.runs]
    names = sorted({p for _, found in logged for p in found}, reverse=True)
    if not names:
        return ""
    figures = []
    for position, (run, found) in enumerate(logged):
        if not found:
            continue
        shown = [Line(names.index(p), c.steps.tolist(), c.values.tolist()) for p, c in found.items()]
        label = f"Percentiles of features against optimiser steps of {run.name}"
        svg = lines(f"features{position}", label, shown, "optimiser steps", "features")
        head = ["step", *(f"percentile {p}" for p in found)]
        figures.append(figure(run.name, _means(shown), svg, _table(head, shown, f"Features of {text(run.name)}", 3)))
    without = [run.name for run, found in logged if not found]
    notes = missing(f"Not logged by {', '.join(without)}.") if without else ""
    marks = legend([f"percentile {p}" for p in names])
    return f'{marks}<div class="plots">{"".join(figures)}</div>{notes}'


def _curve(run: Run, name: str) -> Curve | None:
    """A column by its name; of those that only begin with it, such as one per parameter group, the first."""
    matching = [c for c in sorted(run.curves) if c == name or (name.endswith("-") and c.startswith(name))]
    curve = run.curves[matching[0]] if matching else None
    return curve if curve is not None and np.isfinite(curve.values).any() else None


def _means(shown: Sequence[Line]) -> str:
    """What has to be said of curves that are too long to be drawn point by point."""
    longest = max(len(line.x) for line in shown)
    return f" Points are means of about {longest / MOST_POINTS:.0f} neighbours." if longest > MOST_POINTS else ""


def _curve_table(runs: Sequence[Run], shown: Sequence[Line], title: str, axis: str, digits: int) -> str:
    head = ["step", *(named(line.run, runs[line.run]) for line in shown)]
    return _table(head, shown, f"{text(title)}: {text(axis)}", digits)


def _table(head: Sequence[str], shown: Sequence[Line], caption: str, digits: int) -> str:
    """The numbers of curves: HTML heads, a row for each step, thinned where there are many."""
    steps = sorted({step for line in shown for step in line.x})
    kept = thinned(steps, MOST_ROWS)
    values = [dict(zip(line.x, line.y, strict=True)) for line in shown]
    rows: list[Sequence[Cell | str]] = [
        [number(step), *(value(number(of.get(step), digits), of.get(step)) for of in values)] for step in kept
    ]
    thin = f", {len(kept)} of {len(steps):,} steps" if len(kept) < len(steps) else ""
    return table(head, rows, f"{caption}{thin}")


def clips(numbers: Numbers) -> str:
    """Top-1 against the number of clips that are averaged."""
    longest = max(len(scored.by_clips) for scored in numbers.scored)
    if longest < 2:
        return missing("One clip per video was evaluated: give a protocol with more clips to see what they add.")
    shown = [
        Line(
            i,
            [point.clips for point in scored.by_clips],
            [100 * point.accuracy.value for point in scored.by_clips],
            [100 * point.accuracy.low for point in scored.by_clips],
            [100 * point.accuracy.high for point in scored.by_clips],
        )
        for i, scored in enumerate(numbers.scored)
        if scored.by_clips
    ]
    label = f"Video top-1 against clips averaged per video, of {', '.join(numbers.names)}"
    svg = lines("clips", label, shown, "clips averaged per video", "top-1 / %")
    rows: list[Sequence[Cell | str]] = []
    for k in range(longest):
        points = [scored.by_clips[k] if k < len(scored.by_clips) else None for scored in numbers.scored]
        rows.append([str(k + 1), *(interval(p.accuracy, percent) if p else "" for p in points)])
    head = ["clips", *(named(i, run) for i, run in enumerate(numbers.runs))]
    title = "Top-1 against clips"
    note = " Clips evenly spread over the video, their probabilities averaged; the band is the 95 % interval."
    return (
        legend(numbers.names) + f'<div class="plots">{figure(title, note, svg, table(head, rows, "Top-1 / %"))}</div>'
    )


def calibration(numbers: Numbers) -> str:
    """Whether probabilities mean what they say: a reliability diagram per run."""
    figures = []
    for i, scored in enumerate(numbers.scored):
        own, run = scored.calibration, scored.run
        if math.isnan(own.ece):
            figures.append(missing(f"{run.name}: no video that was decoded and has a label."))
            continue
        says = (
            f"ECE {percent(own.ece)} %, mean confidence {percent(own.confidence)} %, accuracy {percent(own.accuracy)} %"
        )
        svg = reliability(
            f"reliability{i}",
            f"Reliability diagram of {run.name}: {says}",
            i,
            [b.confidence for b in own.bins],
            [b.accuracy.value for b in own.bins],
            [b.videos for b in own.bins],
        )
        rows: list[Sequence[Cell | str]] = [
            [
                f"{b.low:.2f} to {b.high:.2f}",
                value(number(b.videos), b.videos),
                value(percent(b.confidence), b.confidence),
                value(percent(b.accuracy.value), b.accuracy.value),
                value(f"{percent(b.accuracy.low)} to {percent(b.accuracy.high)}", b.accuracy.low),
            ]
            for b in own.bins
            if b.videos
        ]
        head = ("probability", "videos", "confidence / %", "accuracy / %", "95 % interval")
        below = table(head, rows, f"Reliability of {text(run.name)}")
        figures.append(figure(run.name, f" {says}. {_verdict(own.confidence - own.accuracy)}", svg, below))
    introduction = (
        "<p>Of the videos that get 80 %, 80 % should be right: points on the dotted line. Below it the network is too "
        "sure of itself, above it too careful.</p>"
    )
    return f'{introduction}<div class="plots narrow">{"".join(figures)}</div>'


def _verdict(gap: float) -> str:
    side = "surer than it is right" if gap > 0 else "less sure than it is right"
    return f"On average {percent(abs(gap))} points {side}."
