"""The figures of a study, as in "Group Normalization" (Wu and He, ECCV 2018, figures 1 and 4 to 6): SVG and PNG."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from videogn.data.files import cannot_write, write_atomically
from videogn.report.drawing import as_files, inline, settings
from videogn.report.markup import number, thinned
from videogn.study import drawings
from videogn.study.grid import Study, file_word
from videogn.study.outcomes import CellResult
from videogn.study.series import (
    Series,
    curve_panels,
    error_series,
    feature_panels,
    listed,
    ordered,
    pairs,
    selected,
    words,
)

MOST_PANELS = 12
"""Of features."""

_MOST_ROWS = 60


@dataclass(frozen=True)
class StudyFigure:
    """A figure and what is said of it. All texts are plain, not HTML.

    Attributes:
        name: of its files.
        title: a few words.
        caption: sentences: what is drawn, and what is missing.
        path: of its files, without ``.svg`` and ``.png``.
        svg: the figure as an element of a page, in the page's own colours.
        head: of the table of its numbers.
        rows: of that table.
    """

    name: str
    title: str
    caption: str
    path: Path
    svg: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_figures(study: Study, results: Sequence[CellResult], folder: Path) -> list[StudyFigure]:
    """Draws what the results allow and writes each figure as SVG and as PNG.

    Args:
        study: which.
        results: of its cells, in any order; cells that are not there are named in the captions.
        folder: is made if it is not there.

    Returns:
        The figures that were drawn: error against epochs and against ``study.x`` for each combination of the axes that
        are neither ``x`` nor lines; percentiles of features; reported and here.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    found: list[StudyFigure | None] = []
    others = [axis for axis in study.axes if axis not in (study.x, study.lines)]
    for chosen in itertools.product(*(study.axes[axis] for axis in others)):
        where = dict(zip(others, chosen, strict=True))
        found.append(_curves(study, selected(results, where), where, folder))
        found.append(_errors(study, selected(results, where), where, folder))
    found += [_features(study, results, folder), _reported(study, results, folder)]
    return [figure for figure in found if figure is not None]


def _curves(study: Study, results: Sequence[CellResult], where: dict[str, str], folder: Path) -> StudyFigure | None:
    panels = curve_panels(study, results)
    if not panels:
        return None
    lines = sorted({(s.number, s.label, s.training) for panel in panels for s in panel.series})
    rows = []
    for panel in panels:
        epochs = sorted({epoch for series in panel.series for epoch in series.x})
        by_line = {(s.number, s.label, s.training): s for s in panel.series}
        for epoch in thinned(epochs, max(2, _MOST_ROWS // len(panels))):
            rows.append((panel.place, f"{epoch:g}", *(_spread(by_line.get(line), epoch) for line in lines)))
    head = (words(study.x), "epochs", *(f"{label}, {'training' if t else 'validation'}" for _, label, t in lines))
    crowded = len({line[0] for line in lines}) > drawings.MOST_BANDS
    seen = [r for r in results if any({"train/top1", "val/clip_top1"} & set(o.curves) for o in r.outcomes)]
    caption = (
        "Error of single clips: solid on the validation videos, dashed on the training clips as they are seen "
        f"(augmented, while the weights change). {_gathered(results, '' if crowded else 'bands reach')}"
    )
    alone = study.x == study.lines
    return _figure(
        folder,
        "curves",
        "Error against epochs",
        where,
        caption + _absent(study, results, seen, where, "curve"),
        lambda: drawings.curves(panels),
        head[alone:],
        [row[alone:] for row in rows],
    )


def _errors(study: Study, results: Sequence[CellResult], where: dict[str, str], folder: Path) -> StudyFigure | None:
    series = error_series(study, results)
    if not series:
        return None
    shown = {position for one in series for position in one.x}
    places = [place for i, place in enumerate(ordered(study, study.x)) if i in shown]
    positions = {old: float(new) for new, old in enumerate(sorted(shown))}
    series = [Series(s.label, s.number, tuple(positions[x] for x in s.x), s.values) for s in series]
    caption = (
        f"Error per video at the end of training. {_gathered(results, 'bars reach', 'Small dots are single runs.')}"
    )
    if study.x == study.lines:
        head: tuple[str, ...] = (words(study.x), "error / %")
        rows: list[tuple[str, ...]] = [
            (places[int(s.x[0])], _spread(s, s.x[0])) for s in sorted(series, key=lambda s: s.x)
        ]
    else:
        head = (words(study.x), *(s.label for s in series))
        rows = [(place, *(_spread(s, i) for s in series)) for i, place in enumerate(places)]
    return _figure(
        folder,
        "error",
        f"Error against {words(study.x)}",
        where,
        caption + _absent(study, results, [r for r in results if r.outcomes], where, "finished run"),
        lambda: drawings.errors(series, places, words(study.x)),
        head,
        rows,
    )


def _features(study: Study, results: Sequence[CellResult], folder: Path) -> StudyFigure | None:
    every = feature_panels(study, results)
    panels = every[:MOST_PANELS]
    if not panels:
        return None
    caption = (
        "Percentiles of one layer's features on training batches, of one run of each cell: its first seed that logged "
        "them."
    )
    if not drawings.same_scale(panels):
        caption += " The scales differ."
    if len(every) > len(panels):
        caption += f" The first {len(panels)} of {len(every)} cells that logged them."
    labels = sorted({(s.number, s.label) for panel in panels for s in panel.series})
    rows = []
    for panel in panels:
        values = {s.number: dict(zip(s.x, s.median, strict=True)) for s in panel.series}
        steps = sorted({step for series in panel.series for step in series.x})
        for step in thinned(steps, max(2, _MOST_ROWS // len(panels))):
            numbers = (number(values.get(i, {}).get(step), 3) for i, _ in labels)
            rows.append((panel.title, f"{step:,.0f}", *numbers))
    head = ("cell", "step", *(label for _, label in labels))
    title = "Evolution of feature percentiles"
    return _figure(folder, "features", title, {}, caption, lambda: drawings.features(panels), head, rows)


def _reported(study: Study, results: Sequence[CellResult], folder: Path) -> StudyFigure | None:
    found = pairs(study, results)
    if not found:
        return None
    names = dict(sorted({pair.source: pair.reported.source for pair in found}.items()))
    sources = "; ".join(f"[{i + 1}] {name}" if len(names) > 1 else name for i, name in names.items())
    caption = f"Top-1 of the same cells as published and in this study's runs. {_gathered(results, 'bars reach')}"
    caption += f" Published: {sources}."
    if len(found) < len(study.reported):
        caption += f" {len(study.reported) - len(found)} of {len(study.reported)} published results have no run here."
    rows = []
    for pair in found:
        here = _numbers(pair.here)
        rows.append((pair.label, number(pair.reported.top1, 1), here, str(len(pair.here))))
    head = ("cell", "reported", "here", "runs")
    title = "Top-1 as reported and here"
    return _figure(folder, "reported", title, {}, caption, lambda: drawings.reported_and_here(found), head, rows)


def _figure(
    folder: Path,
    name: str,
    title: str,
    where: dict[str, str],
    caption: str,
    draw: Callable[[], Figure],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> StudyFigure:
    """Draws twice: in the colours of files and in those of a page."""
    if where:
        title += " (" + ", ".join(f"{words(axis)}: {value}" for axis, value in where.items()) + ")"
        name += "".join(f"_{file_word(value)}" for value in where.values())
    path = folder / name
    with settings(for_files=True):
        files = as_files(draw())
    try:
        write_atomically(f"{path}.svg", [files["svg"].decode()])
        Path(f"{path}.png").write_bytes(files["png"])
    except OSError as error:
        raise cannot_write(str(path), error) from error
    with settings():
        svg = inline(draw(), f"figure-{name}", f"{title}. {caption}")
    return StudyFigure(name, title, caption, path, svg, tuple(head), tuple(map(tuple, rows)))


def _spread(series: Series | None, x: float) -> str:
    if series is None or x not in series.x:
        return number(None)
    return _numbers(series.values[series.x.index(x)])


def _numbers(runs: Sequence[float]) -> str:
    median, low, high = (number(value, 1) for value in (statistics.median(runs), min(runs), max(runs)))
    return f"{median} ({low} to {high})" if len(runs) > 1 else median


def _gathered(results: Sequence[CellResult], spread: str, more: str = "") -> str:
    """What the lines and points of a figure stand for."""
    if all(len(result.outcomes) < 2 for result in results):
        return "One run of each cell."
    reach = f"; the {spread} from the lowest to the highest" if spread else ""
    return f"Median of a cell's runs{reach}. {more}".strip()


def _absent(
    study: Study, results: Sequence[CellResult], seen: Sequence[CellResult], where: dict[str, str], what: str
) -> str:
    """What a caption says of cells that are not drawn, and of those that lack runs."""
    drawn = [result.cell.values for result in seen]
    without = [cell.text() for cell in study.select(where) if cell.values not in drawn]
    fewer = [
        f"{result.cell.text()} ({len(result.outcomes)} of {len(result.outcomes) + result.missing} runs)"
        for result in results
        if result.cell.values in drawn and result.missing
    ]
    out = f" No {what} of: {listed(without)}." if without else ""
    return out + (f" Not all runs of: {listed(fewer)}." if fewer else "")
