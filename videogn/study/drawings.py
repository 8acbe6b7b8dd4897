"""The plots of a study, drawn within :func:`videogn.report.drawing.settings`: 7 inches wide, in type of 11 points."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from matplotlib.transforms import offset_copy

from videogn.report.drawing import MARKERS, colour, style
from videogn.report.markup import plain
from videogn.study.series import Pair, Panel, Series, is_number

_WIDTH = 7.0
_LEGEND_LETTERS = 84  # in a row of a legend as wide as the figure
MOST_BANDS = 7
"""Bands of more lines than there are colours would hide each other."""

_LONGEST = 28


def curves(panels: Sequence[Panel]) -> Figure:
    """Errors against epochs: training dashed and light, validation solid; medians in bands from lowest to highest."""
    most = max(len({series.number for series in panel.series}) for panel in panels)
    columns = 1 if most > MOST_BANDS else 3 if len(panels) == 3 else min(len(panels), 2)
    figure, plots = _grid(panels, columns, height=2.5 if columns > 1 else 3.2, share_x=True)
    for plot, panel in zip(plots, panels, strict=True):
        for series in panel.series:
            look = {"lw": 1.3, "markersize": 3.5, "ls": (0, (4, 2))} if series.training else {"lw": 1.9, "ls": "-"}
            many = max(1, len(series.x) // 10)
            marks = {"marker": style(series.number)["marker"], "markevery": (series.number % many, many)}
            shade = colour(series.number)
            hollow = {"mfc": rcParams["axes.facecolor"]} if series.training else {}
            plot.plot(series.x, series.median, color=shade, zorder=3, **{"markersize": 5, **look, **marks, **hollow})
            if most <= MOST_BANDS:
                plot.fill_between(series.x, series.low, series.high, color=shade, alpha=0.15, lw=0)
        plot.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    _outer(figure, plots, "epochs", "top-1 error of clips / %")
    ink = rcParams["text.color"]
    kinds = [
        Line2D([], [], color=ink, lw=1.9, label="validation"),
        Line2D([], [], color=ink, lw=1.3, ls=(0, (4, 2)), label="training"),
    ]
    _legend(figure, [*_handles([s for panel in panels for s in panel.series], "-"), *kinds])
    return figure


def errors(series: Sequence[Series], categories: Sequence[str], x_label: str) -> Figure:
    """Errors of runs against the categories that ``series.x`` counts: every run as a dot, medians on bars from lowest
    to highest, each line a little beside the others; joined where the categories are numbers."""
    figure = Figure(figsize=(_WIDTH, 4.0), layout="constrained")
    plot = figure.subplots()
    alone = max(len(one.x) for one in series) == 1 and len({x for one in series for x in one.x}) == len(series)
    step = 0.0 if alone else min(0.13, 0.8 / len(series))
    joined = all(map(is_number, categories))
    for position, one in enumerate(series):
        look = style(one.number)
        x = np.asarray(one.x) + step * (position - (len(series) - 1) / 2)
        spread = [np.subtract(one.median, one.low), np.subtract(one.high, one.median)]
        bars: dict[str, Any] = {"elinewidth": 1.6, "capsize": 3, "markersize": 7, "zorder": 3, "markeredgewidth": 0.8}
        edge = {"markeredgecolor": rcParams["axes.facecolor"]}
        plot.errorbar(x, one.median, spread, label=_short(one.label), **bars, **edge, **{**look, "linestyle": "none"})
        if joined and len(x) > 1:
            plot.plot(x, one.median, color=look["color"], ls=look["linestyle"], lw=1.2, alpha=0.8)
        beside = offset_copy(plot.transData, figure, x=6.5, units="points")  # what is on the bar is not seen
        for place, runs in zip(x, one.values, strict=True):
            if len(runs) > 1:
                dots: dict[str, Any] = {"s": 9, "alpha": 0.6, "lw": 0}
                plot.scatter([place] * len(runs), runs, color=look["color"], transform=beside, **dots)
    if joined and alone:
        medians = sorted((place, median) for one in series for place, median in zip(one.x, one.median, strict=True))
        plot.plot(*zip(*medians, strict=True), color=rcParams["text.color"], lw=0.8, alpha=0.6, zorder=1)
    for between in () if joined or alone else np.arange(len(categories) - 1) + 0.5:
        plot.axvline(between, color=rcParams["grid.color"], lw=0.8)
    names = [_short(category) for category in categories]
    steep = len(names) > 1 and sum(map(len, names)) > 70
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if steep else {}
    plot.set_xticks(range(len(names)), names, **turned)
    plot.set(xlabel=_short(x_label), ylabel="top-1 error of videos / %", xlim=(-0.5, len(categories) - 0.5))
    plot.grid(visible=False, axis="x")
    if len(series) > 1 and not alone:
        _legend(figure, _handles(series, None if joined else "none"))
    return figure


def features(panels: Sequence[Panel]) -> Figure:
    """Percentiles of features against steps, a panel for each cell; see :func:`same_scale`."""
    columns = min(len(panels), 3)
    height = 2.2 if columns > 1 else 3.3
    figure, plots = _grid(panels, columns=columns, height=height, share_x=False, share_y=same_scale(panels))
    for plot, panel in zip(plots, panels, strict=True):
        for series in panel.series:
            look = style(series.number)
            plot.plot(series.x, series.median, color=look["color"], ls=look["linestyle"], lw=1.5)
        plot.xaxis.set_major_locator(MaxNLocator(3 if columns > 1 else 6, integer=True, min_n_ticks=1))
        plot.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _outer(figure, plots, "optimiser steps", "features")
    drawn = [series for panel in panels for series in panel.series]
    _legend(figure, _handles(drawn, marker=False))
    return figure


def same_scale(panels: Sequence[Panel]) -> bool:
    """Whether the values of all panels can be read on one axis: the widest reach at most five times the narrowest."""
    reach = [max(abs(value) for one in panel.series for value in (*one.low, *one.high)) for panel in panels]
    return max(reach) <= 5 * min(reach)


def reported_and_here(pairs: Sequence[Pair]) -> Figure:
    """Published top-1 as hollow marks, other ones for each source; the medians of the runs here as dots, on bars from
    lowest to highest."""
    figure = Figure(figsize=(_WIDTH, 1.4 + 0.34 * len(pairs)), layout="constrained")
    plot = figure.subplots()
    rows = np.arange(len(pairs))
    reported = [pair.reported.top1 for pair in pairs]
    here = [pair.median for pair in pairs]
    spread = [[pair.median - min(pair.here) for pair in pairs], [max(pair.here) - pair.median for pair in pairs]]
    ink, ground = rcParams["text.color"], rcParams["axes.facecolor"]
    plot.hlines(rows, np.minimum(reported, here), np.maximum(reported, here), color=ink, lw=0.8, alpha=0.5)
    given: dict[str, Any] = {"ls": "none", "mfc": ground, "mew": 1.8, "ms": 7.5}
    own: dict[str, Any] = {"color": colour(0), "elinewidth": 2.2, "capsize": 3, "ms": 7, "mec": ground, "mew": 0.8}
    handles = []
    sources = sorted({pair.source for pair in pairs})
    for source in sources:
        look = {**given, "marker": MARKERS[(1 + source) % len(MARKERS)], "mec": colour(1 + source)}
        mine = [(pair.reported.top1, row) for row, pair in zip(rows, pairs, strict=True) if pair.source == source]
        plot.plot(*zip(*mine, strict=True), zorder=4, **look)
        handles.append(Line2D([], [], label="reported" + (f" [{source + 1}]" if len(sources) > 1 else ""), **look))
    plot.errorbar(here, rows, xerr=spread, fmt="o", label="here", zorder=3, **own)
    plot.set_yticks(rows, [_short(pair.label) for pair in pairs])
    plot.set(xlabel="top-1 / %", ylim=(len(pairs) - 0.5, -0.5))
    plot.grid(visible=False, axis="y")
    _legend(figure, [*handles, Line2D([], [], lw=2.2, marker="o", color=colour(0), ms=7, label="here")])
    return figure


def _grid(
    panels: Sequence[Panel], columns: int, height: float, share_x: bool, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(len(panels) / columns)
    size = (_WIDTH, 0.7 + height * rows)
    figure = Figure(figsize=size, layout="constrained")
    every = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False).ravel().tolist()
    for plot in every[len(panels) :]:
        plot.remove()
    for plot, panel in zip(every, panels, strict=False):
        plot.set_title(_in_two_lines(panel.title, 66 // columns), fontsize=11)
    return figure, every[: len(panels)]


def _outer(figure: Figure, plots: Sequence[Axes], x_label: str, y_label: str) -> None:
    """Labels once for all panels; numbers below the last panel of each column, which another row may not reach."""
    if len(plots) == 1:
        plots[0].set(xlabel=x_label, ylabel=y_label)
        return
    figure.supxlabel(x_label, fontsize=11)
    figure.supylabel(y_label, fontsize=11)
    columns = plots[0].get_gridspec().ncols  # type: ignore[union-attr]
    for plot in plots[-columns:]:
        plot.tick_params(labelbottom=True)


def _handles(series: Sequence[Series], line: Any = None, *, marker: bool = True) -> list[Line2D]:
    """One for each label, in the order of their numbers."""
    found = {}
    for one in sorted(series, key=lambda one: one.number):
        look = style(one.number)
        found[one.label] = Line2D(
            [],
            [],
            color=look["color"],
            ls=line or look["linestyle"],
            marker=look["marker"] if marker else "",
            lw=1.7,
            ms=6,
            label=_short(one.label),
        )
    return list(found.values())


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Above the plots, so that it covers nothing."""
    letters = [len(str(handle.get_label())) + 7 for handle in handles]
    columns = next(
        n
        for n in range(len(handles), 0, -1)
        if n == 1 or sum(max(letters[column::n]) for column in range(n)) <= _LEGEND_LETTERS
    )
    rows = math.ceil(len(handles) / columns)
    columns = math.ceil(len(handles) / rows)  # rows of about the same length
    by_rows = [handle for column in range(columns) for handle in handles[column::columns]]
    figure.legend(
        handles=by_rows,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=10.5,
        handlelength=2.6,
        columnspacing=1.4,
    )


def _in_two_lines(label: str, longest: int) -> str:
    return "\n".join(textwrap.wrap(plain(label), longest, max_lines=2, placeholder="…"))


def _short(label: str, longest: int = _LONGEST) -> str:
    """On one line, and not longer than a plot has room for."""
    line = plain(" ".join(label.split()))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
