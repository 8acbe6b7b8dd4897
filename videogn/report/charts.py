"""Plots as SVG that stands inside an HTML page: told apart by colour, marker and dash, readable on light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from videogn.report.drawing import INK, colour, inline, settings, style, variable
from videogn.report.markup import plain, text

CIVIDIS: list[str] = [matplotlib.colors.to_hex(c) for c in matplotlib.colormaps["cividis"].colors]  # type: ignore[attr-defined]

MOST_POINTS = 400
"""Points per curve; longer ones are shown as means of neighbours."""


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        run: number of the run (or of the percentile, in a plot of one run), which chooses colour, marker and dash.
        x: where; increasing.
        y: values, nan where unknown.
        low: lower end of a band around ``y``, or None.
        high: upper end of the band.
    """

    run: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def lines(
    name: str,
    label: str,
    curves: Sequence[Line],
    x_label: str,
    y_label: str,
) -> str:
    """Curves of several runs in one plot.

    Args:
        name: unique in the page; the ids inside the SVG begin with it.
        label: what a reader who sees no picture is told.
        curves: at least one.
        x_label: with its unit; the axis counts something.
        y_label: with its unit.

    Returns:
        One ``<svg>`` element.
    """
    with settings():
        figure, axes = _axes((5.2, 3.3))
        for curve in curves:
            x, y = shortened(curve.x, curve.y)
            axes.plot(x, y, lw=1.8, markersize=5, markevery=_marks(len(x), curve.run), **style(curve.run))
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour(curve.run), alpha=0.15, lw=0)
        axes.set(xlabel=plain(x_label), ylabel=plain(y_label))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        return inline(figure, name, label)


def shortened(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most :data:`MOST_POINTS` points: means of as many neighbours as that takes."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if len(xs) <= MOST_POINTS:
        return xs, ys
    edges = np.linspace(0, len(xs), MOST_POINTS + 1).astype(int)
    counts = np.diff(edges)
    return tuple(np.add.reduceat(values, edges[:-1]) / counts for values in (xs, ys))  # type: ignore[return-value]


def _marks(points: int, run: int) -> slice | None:
    """Markers on every point of a short curve, on about ten of a long one, at other places for each run."""
    if points <= 20:
        return None
    step = points // 10
    return slice((run * step // 4) % step, None, step)


def reliability(
    name: str,
    label: str,
    run: int,
    confidence: Sequence[float],
    accuracy: Sequence[float],
    count: Sequence[int],
) -> str:
    """A reliability diagram (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, figure 1): accuracy
    against confidence per bin, the share of videos per bin below.

    Args:
        name: unique in the page.
        label: what a reader who sees no picture is told.
        run: number of the run.
        confidence: mean confidence per bin, in [0, 1]; nan in an empty bin.
        accuracy: share of right videos per bin.
        count: videos per bin, over bins of equal width in [0, 1].
    """
    with settings():
        figure = Figure(figsize=(4.2, 4.2), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        where = np.asarray(count) > 0
        x, y = np.asarray(confidence, float)[where], np.asarray(accuracy, float)[where]
        top.plot([0, 1], [0, 1], color=INK, lw=1, ls=":")
        top.vlines(x, np.minimum(x, y), np.maximum(x, y), color=colour(run), alpha=0.35, lw=5)
        top.plot(x, y, lw=1.8, markersize=6, clip_on=False, zorder=3, **style(run))
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy (share right)", aspect="auto")
        edges = np.linspace(0, 1, len(count) + 1)
        share = np.asarray(count, float) / max(int(np.sum(count)), 1)
        bottom.bar(edges[:-1], share, width=np.diff(edges), align="edge", color=colour(run), alpha=0.5)
        bottom.set(xlabel="confidence (probability of the first class)", ylabel="videos\n(share)")
        bottom.yaxis.set_major_locator(MaxNLocator(2))
        return inline(figure, name, label)


def legend(runs: Sequence[str]) -> str:
    """The runs, each with its line and marker: HTML, so that names wrap and are text."""
    named = (f"<li>{swatch(number)}<span>{text(name)}</span></li>" for number, name in enumerate(runs))
    return f'<ul class="legend">{"".join(named)}</ul>'


def swatch(run: int) -> str:
    """The line and marker of a run, as a small picture."""
    shown = style(run)
    marker = MarkerStyle(shown["marker"])
    corners = np.asarray(marker.get_path().transformed(marker.get_transform()).to_polygons()[0], float)
    points = " ".join(f"{18 + 9 * x:.1f},{7 - 9 * y:.1f}" for x, y in corners)
    dash = "" if shown["linestyle"] == "-" else f' stroke-dasharray="{" ".join(map(str, shown["linestyle"][1]))}"'
    shade = variable(shown["color"].lower())
    return (
        f'<svg class="swatch" viewBox="0 0 36 14" aria-hidden="true" style="color:{shade}">'
        f'<path d="M0 7H36" stroke="currentColor" stroke-width="2"{dash}/>'
        f'<polygon points="{points}" fill="currentColor"/></svg>'
    )


def _axes(inches: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=inches, layout="constrained")
    return figure, figure.subplots()
