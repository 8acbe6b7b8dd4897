"""The report's sections about classes: accuracy of each, the most confused pairs, the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from videogn.report.charts import CIVIDIS
from videogn.report.markup import NONE, Cell, missing, number, percent, plural, script_json, table, text, value
from videogn.report.numbers import Numbers
from videogn.report.order import clustered
from videogn.report.overview import named
from videogn.report.statistics import ClassAccuracy, most_confused

MOST_PAIRS = 30
"""Rows in the table of confused pairs."""
TALL = 15
"""Rows from which on a table scrolls by itself."""


def per_class(numbers: Numbers) -> str:
    """Accuracy of every class; of several runs side by side, with the difference to the first."""
    names = numbers.runs[0].class_names
    rows = [_class_row(numbers, i, name) for i, name in enumerate(names)]
    first = text(numbers.names[0])
    head = ["class", "videos"]
    for i, run in enumerate(numbers.runs):
        head.append(f"{named(i, run)} top-1 / %")
        if i:
            head.append(f"{text(run.name)} minus {first} / points")
    if len(numbers.scored) == 1:
        head += ["95 % interval (Wilson)", "most often taken for"]
    caption = f"Top-1 per class, {plural(len(names), 'class')}. A click on a head sorts, another one turns the order."
    tools = (
        '<div class="tools"><label>Filter <input type="search" data-filter="classes" placeholder="part of a name">'
        '</label><output aria-live="polite"></output></div>'
    )
    return tools + table(head, rows, caption, identifier="classes", sortable=True, tall=len(rows) > TALL)


def _class_row(numbers: Numbers, label: int, name: str) -> list[Cell | str]:
    own = [scored.classes[label] for scored in numbers.scored]
    counts = list(dict.fromkeys(of.videos for of in own))
    row: list[Cell | str] = [text(name), value(" / ".join(map(number, counts)), counts[0])]
    for i, of in enumerate(own):
        row.append(_accuracy(of))
        if i:
            difference = of.accuracy.value - own[0].accuracy.value
            row.append(value(percent(difference, sign=True), difference))
    if len(own) == 1:
        within = own[0].accuracy
        row.append(value(f"{percent(within.low)} to {percent(within.high)}" if own[0].videos else NONE, within.low))
        row.append(_taken_for(numbers, label))
    return row


def _accuracy(of: ClassAccuracy) -> Cell:
    return value(percent(of.accuracy.value), of.accuracy.value, bar=of.accuracy.value)


def _taken_for(numbers: Numbers, label: int) -> str:
    counts = numbers.scored[0].confusion[label].copy()
    counts[label] = 0
    most = int(counts.argmax())
    return f"{text(numbers.runs[0].class_names[most])} ({counts[most]})" if counts[most] else ""


def confused_pairs(numbers: Numbers) -> str:
    """The pairs of classes that are confused most often, in any of the runs."""
    names = numbers.runs[0].class_names
    found: dict[tuple[int, int], int] = {}
    for scored in numbers.scored:
        for pair in most_confused(scored.confusion, MOST_PAIRS):
            key = (pair.true, pair.predicted)
            found[key] = max(found.get(key, 0), pair.count)
    pairs = sorted(found, key=lambda key: (-found[key], key))[:MOST_PAIRS]
    if not pairs:
        return missing("No class was taken for another one.")
    rows: list[Sequence[Cell | str]] = []
    for true, predicted in pairs:
        cells = []
        for scored in numbers.scored:
            count, videos = int(scored.confusion[true, predicted]), scored.classes[true].videos
            share = f" of {videos:,} ({percent(count / videos)} %)" if videos else ""
            cells.append(value(f"{count:,}{share}", count, bar=count / videos if videos else None))
        rows.append([text(names[true]), text(names[predicted]), *cells])
    head = ["true class", "taken for", *(f"{named(i, run)} videos" for i, run in enumerate(numbers.runs))]
    of_runs = "" if len(numbers.scored) == 1 else ", by the largest count of a run"
    caption = f"The {len(pairs)} most confused pairs{of_runs}"
    return table(head, rows, caption, identifier="pairs", sortable=True, tall=len(rows) > TALL)


_MATRIX = """<noscript><p>The matrix needs JavaScript; the table of the most confused pairs does not.</p></noscript>
<p>Rows are true classes, columns predicted ones; colour is the share of the true class's videos. Zoom with the buttons,
a double click, or the wheel once the matrix has the focus (or with Ctrl); drag to move. Keys: arrows move by one cell,
with Shift to the next cell that has videos, Home and End to the corners, + − 0 zoom.</p>
<div class="tools">
<label>Run <select id="matrix-run">{runs}</select></label>
<label>Order <select id="matrix-order"><option value="clustered">confused classes side by side</option>
<option value="accuracy">accuracy, lowest first</option><option value="name">name</option>
<option value="number">class number</option></select></label>
<label>Filter <input type="search" id="matrix-filter" placeholder="part of a name"></label>
<label><input type="checkbox" id="matrix-near" checked> with classes they are confused with</label>
<output id="matrix-shown"></output>
<span><button type="button" id="matrix-in" aria-label="zoom in">+</button>
<button type="button" id="matrix-out" aria-label="zoom out">−</button>
<button type="button" id="matrix-all">all</button></span>
<span class="scale">0 % <i id="matrix-scale"></i> 100 % (square-root scale)</span>
</div>
<div id="matrix"><p id="matrix-tip" aria-live="polite"></p>
<canvas tabindex="0" role="application" aria-roledescription="confusion matrix" aria-describedby="matrix-tip"
aria-label="Confusion matrix of {classes}. Arrow keys move from cell to cell."></canvas></div>
<script type="application/json" id="matrix-data">{data}</script>"""


def matrix(numbers: Numbers) -> str:
    """The confusion matrix: data for the page's script, which draws it."""
    names = numbers.runs[0].class_names
    counts = [scored.confusion for scored in numbers.scored]
    if not sum(int(c.sum()) for c in counts):
        return missing("No video that was decoded and has a label.")
    runs = [{"name": name, "cells": _sparse(c)} for name, c in zip(numbers.names, counts, strict=True)]
    data = {
        "names": names,
        "colours": "".join(shade.lstrip("#") for shade in CIVIDIS),
        "clustered": clustered(np.sum(counts, axis=0)),
        "runs": runs,
    }
    return _MATRIX.format(
        runs="".join(f"<option>{text(name)}</option>" for name in numbers.names),
        classes=plural(len(names), "class"),
        data=script_json(data),
    )


def _sparse(counts: np.ndarray) -> Sequence[int]:
    """Row, column and count of every entry that is not zero, one after another."""
    rows, columns = np.nonzero(counts)
    return np.stack([rows, columns, counts[rows, columns]], axis=1).ravel().tolist()
