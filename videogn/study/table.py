"""A study's results as tables: CSV for programs, Markdown for people. Imports no torch.

Accuracies are in % of the videos (or clips) of a run's last validation.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from videogn.data.files import cannot_write, write_atomically
from videogn.report.curves import Curve
from videogn.study.captions import captions, has_top5, sources
from videogn.study.grid import Reported, Study
from videogn.study.markdown import NONE, markdown_table
from videogn.study.outcomes import CellResult, Outcome, percent
from videogn.study.series import words

_PER_EPOCH = ("train/top1", "train/loss", "val/top1", "val/clip_top1")
_SPREAD = ("top1", "top5", "clip_top1")
_SCORES = ("top1", "top5", "clip_top1", "clip_top5")


def write_tables(study: Study, results: Sequence[CellResult], folder: Path) -> None:
    """Writes ``runs.csv``, ``curves.csv``, ``table.csv`` and ``table.md``, each whole or not at all.

    ``runs.csv`` has a row for each finished run: learning rate before the linear rule, training clips seen, accuracies
    in %, loss in nats, wall time in seconds and the name of its folder. ``curves.csv`` has a row for each point of its
    curves: epochs from 0, optimiser steps, accuracies as shares; ``train/loss`` is the mean of what was logged in an
    epoch; percentiles of features are those of the first seed alone, as in the figure. ``table.csv`` has a row for each
    cell, with the median, lowest and highest of its seeds.

    Args:
        study: which.
        results: of its cells.
        folder: made if it is not there.

    Raises:
        UsageError: a file that cannot be written.
    """
    axes = list(study.axes)
    spread = [f"{name}_{part}" for name in _SPREAD for part in ("median", "lowest", "highest")]
    tables = {
        "runs.csv": _csv(
            [*axes, "seed", "lr", "clips", *_SCORES, "loss", "seconds", "folder"],
            (_run_row(outcome) for result in results for outcome in result.outcomes),
        ),
        "curves.csv": _csv([*axes, "seed", "name", "epoch", "step", "value"], _curve_rows(results)),
        "table.csv": _csv([*axes, "seeds", "missing", "lr", "clips", *spread], map(_cell_row, results)),
        "table.md": markdown(study, results) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in tables.items():
            write_atomically(str(folder / name), [text])
    except OSError as error:
        raise cannot_write(str(folder), error) from error


def markdown(study: Study, results: Sequence[CellResult]) -> str:
    """:func:`table_rows` beneath the study's title, and what it takes to read them. No line break at its end."""
    top = f"**{study.title}.** {accuracies(study)} accuracy per video in %."
    return "\n\n".join([top, markdown_table(*table_rows(study, results)), *captions(study, results)])


def table_rows(study: Study, results: Sequence[CellResult]) -> tuple[list[str], list[list[str]]]:
    """The head of the table for people, and its rows; plain text.

    A study of two axes is laid out as the paper's Table 8: a row for each value of ``study.lines``, a column for each
    of ``study.x``, top-1 / top-5 in each, with the published results beside the study's own. Any other study has a row
    for each cell. Published results outside the grid have rows or columns too. Five classes or fewer have no top-5.
    """
    two = len(study.axes) == 2 and study.x != study.lines
    return (_crossed if two else _listed)(study, results)


def accuracies(study: Study) -> str:
    """What the numbers of :func:`table_rows` are: ``Top-1`` or ``Top-1 / top-5``."""
    top5 = any(map(has_top5, study.cells)) or any(row.top5 is not None for row in study.reported)
    return "Top-1 / top-5" if top5 else "Top-1"


def _crossed(study: Study, results: Sequence[CellResult]) -> tuple[list[str], list[list[str]]]:
    columns = []
    for place in _values(study, study.x):
        if any(row.values[study.x] == place for row in study.reported):
            columns.append((place, "reported"))
        columns.append((place, "here"))
    plain = all(kind == "here" for _, kind in columns)
    names = [place if plain else f"{place}: {kind}" for place, kind in columns]
    rows = []
    for line in _values(study, study.lines):
        cells = [({study.lines: line, study.x: place}, kind) for place, kind in columns]
        shown = [
            _reported(study, values) if kind == "reported" else _here(values, results, study) for values, kind in cells
        ]
        rows.append([line, *shown])
    return [f"{words(study.lines)} \\ {words(study.x)}", *names], rows


def _listed(study: Study, results: Sequence[CellResult]) -> tuple[list[str], list[list[str]]]:
    places = [cell.values for cell in study.cells]
    places += [row.values for row in study.reported if row.values not in places]
    distinct = list({tuple(values[axis] for axis in study.axes): values for values in places}.values())
    head = [*map(words, study.axes), *(["reported"] if study.reported else []), "here"]
    rows = [
        [
            *(values[axis] for axis in study.axes),
            *([_reported(study, values)] if study.reported else []),
            _here(values, results, study),
        ]
        for values in distinct
    ]
    return head, rows


def _values(study: Study, axis: str) -> list[str]:
    """The values of an axis, those of published results among them: as in the study's file; numbers along the
    columns fall, as in the paper's tables of batch sizes."""
    values = list(dict.fromkeys([*study.axes[axis], *(row.values[axis] for row in study.reported)]))
    try:
        return sorted(values, key=lambda value: -float(value)) if axis == study.x else values
    except ValueError:
        return values


def _reported(study: Study, values: dict[str, str]) -> str:
    numbers = sources(study)
    rows = [row for row in study.reported if row.values == values]
    return "; ".join(_published(row, numbers) for row in rows) or NONE


def _published(row: Reported, numbers: dict[str, int]) -> str:
    scores = f"{row.top1:.1f}" if row.top5 is None else f"{row.top1:.1f} / {row.top5:.1f}"
    return f"{scores} [{numbers[row.source]}]" if len(numbers) > 1 else scores


def _here(values: dict[str, str], results: Sequence[CellResult], study: Study) -> str:
    result = next((result for result in results if result.cell.values == values), None)
    if result is None or not result.outcomes:
        return NONE
    names = ("top1", "top5") if has_top5(result.cell) else ("top1",)
    text = " / ".join(_spread(scores) for name in names if (scores := _scores(result, name)))
    if result.missing:
        text += f"; {len(result.outcomes)} of {len(result.outcomes) + result.missing} seeds"
    return text


def _scores(result: CellResult, name: str) -> list[float]:
    """One score of each run; empty where a run has it not."""
    return result.scores(name) if all(name in outcome.scores for outcome in result.outcomes) else []


def _spread(scores: Sequence[float]) -> str:
    middle = f"{statistics.median(scores):.1f}"
    return f"{middle} ({min(scores):.1f} to {max(scores):.1f})" if len(scores) > 1 else middle


def _run_row(outcome: Outcome) -> list[object]:
    run = outcome.run
    scores = [_number(percent(outcome.scores[name])) if name in outcome.scores else "" for name in _SCORES]
    loss = outcome.scores.get("loss")
    return [
        *run.cell.values.values(),
        run.seed,
        _number(run.lr),
        _clips(outcome),
        *scores,
        _number(loss),
        f"{outcome.seconds:.1f}",
        run.folder.name,
    ]


def _cell_row(result: CellResult) -> list[object]:
    clips = [outcome.training.clips for outcome in result.outcomes if outcome.training and outcome.training.clips]
    row = [*result.cell.values.values(), len(result.outcomes), result.missing, _number(result.lr)]
    row.append(_number(statistics.median(clips)) if clips else "")
    for name in _SPREAD:
        scores = _scores(result, name) if result.outcomes else []
        row += [_number(of(scores)) for of in (statistics.median, min, max)] if scores else ["", "", ""]
    return row


def _clips(outcome: Outcome) -> object:
    return "" if outcome.training is None or outcome.training.clips is None else outcome.training.clips


def _curve_rows(results: Sequence[CellResult]) -> Iterator[list[object]]:
    for result in results:
        for i, outcome in enumerate(result.outcomes):
            for name, curve in outcome.curves.items():
                if name in _PER_EPOCH or (i == 0 and name.startswith("features/")):
                    start = [*result.cell.values.values(), outcome.run.seed, name]
                    for epoch, step, value in _points(name, curve):
                        yield [*start, "" if np.isnan(epoch) else _number(epoch), step, _number(value)]


def _points(name: str, curve: Curve) -> Iterator[tuple[float, int, float]]:
    if name != "train/loss":
        yield from zip(curve.epochs.tolist(), curve.steps.tolist(), curve.values.tolist(), strict=True)
        return
    for epoch in np.unique(curve.epochs[np.isfinite(curve.epochs)]).tolist():  # it is logged every few steps
        at = curve.epochs == epoch
        yield epoch, int(curve.steps[at].max()), float(curve.values[at].mean())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    return text.getvalue()
