"""Plots as SVG that stands inside an HTML page: told apart by colour, marker and dash, readable on light and dark."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from videogn.report.markup import plain, text

# Okabe and Ito's palette ("Color Universal Design", 2008) without black, which is not seen on a dark page, and with
# yellow last, which is hardly seen on a light one.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 1)), (0, (4, 4)))
CIVIDIS: list[str] = [matplotlib.colors.to_hex(c) for c in matplotlib.colormaps["cividis"].colors]  # type: ignore[attr-defined]

MOST_POINTS = 400
"""Points per curve; longer ones are shown as means of neighbours."""

# Stand-ins for the page's own colours, which change with its scheme; replaced in the finished SVG.
_INK, _GRID = "#010203", "#010204"
_HEX = re.compile("#[0-9a-f]{6}")
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "videogn",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.unicode_minus": True,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.formatter.use_mathtext": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Line:
    """One run's curve.

    Attributes:
        run: number of the run, which chooses colour, marker and dash.
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


def colour(run: int) -> str:
    """Colour of a run; they repeat after seven runs, and markers and dashes then differ from it by one."""
    return COLOURS[run % len(COLOURS)]


def _style(run: int) -> dict[str, Any]:
    shift = run + run // len(COLOURS)
    return {"color": colour(run), "marker": MARKERS[shift % len(MARKERS)], "linestyle": DASHES[shift % len(DASHES)]}


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
    with _settings():
        figure, axes = _axes((5.2, 3.3))
        for curve in curves:
            x, y = shortened(curve.x, curve.y)
            axes.plot(x, y, lw=1.8, markersize=5, markevery=_marks(len(x), curve.run), **_style(curve.run))
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour(curve.run), alpha=0.15, lw=0)
        axes.set(xlabel=plain(x_label), ylabel=plain(y_label))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        return _svg(figure, name, label)


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
    with _settings():
        figure = Figure(figsize=(4.2, 4.2), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        where = np.asarray(count) > 0
        x, y = np.asarray(confidence, float)[where], np.asarray(accuracy, float)[where]
        top.plot([0, 1], [0, 1], color=_INK, lw=1, ls=":")
        top.vlines(x, np.minimum(x, y), np.maximum(x, y), color=colour(run), alpha=0.35, lw=5)
        top.plot(x, y, lw=1.8, markersize=6, clip_on=False, zorder=3, **_style(run))
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy (share right)", aspect="auto")
        edges = np.linspace(0, 1, len(count) + 1)
        share = np.asarray(count, float) / max(int(np.sum(count)), 1)
        bottom.bar(edges[:-1], share, width=np.diff(edges), align="edge", color=colour(run), alpha=0.5)
        bottom.set(xlabel="confidence (probability of the first class)", ylabel="videos\n(share)")
        bottom.yaxis.set_major_locator(MaxNLocator(2))
        return _svg(figure, name, label)


def legend(runs: Sequence[str]) -> str:
    """The runs, each with its line and marker: HTML, so that names wrap and are text."""
    named = (f"<li>{swatch(number)}<span>{text(name)}</span></li>" for number, name in enumerate(runs))
    return f'<ul class="legend">{"".join(named)}</ul>'


def swatch(run: int) -> str:
    """The line and marker of a run, as a small picture."""
    style = _style(run)
    marker = MarkerStyle(style["marker"])
    corners = np.asarray(marker.get_path().transformed(marker.get_transform()).to_polygons()[0], float)
    points = " ".join(f"{18 + 9 * x:.1f},{7 - 9 * y:.1f}" for x, y in corners)
    dash = "" if style["linestyle"] == "-" else f' stroke-dasharray="{" ".join(map(str, style["linestyle"][1]))}"'
    shade = _variable(style["color"].lower())
    return (
        f'<svg class="swatch" viewBox="0 0 36 14" aria-hidden="true" style="color:{shade}">'
        f'<path d="M0 7H36" stroke="currentColor" stroke-width="2"{dash}/>'
        f'<polygon points="{points}" fill="currentColor"/></svg>'
    )


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """The same plots on every machine, whatever its matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)  # type: ignore[arg-type]
        yield


def _axes(inches: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=inches, layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, name: str, label: str) -> str:
    """A figure as an element of an HTML page: ids of its own, no metadata, colours that follow the page."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):  # its style would apply to the whole page
                parent.remove(child)
    renamed = {old: f"{name}-{i}" for i, old in enumerate(e.attrib["id"] for e in root.iter() if "id" in e.attrib)}
    used = _references(root)
    for element in root.iter():
        _rewrite(element, renamed, used)
    for attribute in ("width", "height"):  # in points; the page gives the width, the viewBox the rest
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": plain(label)} if label else {"aria-hidden": "true"}
    return _written(root)


def _references(root: ElementTree.Element) -> set[str]:
    found = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == f"{{{_XLINK}}}href":
                found.add(value[1:])
            found.update(re.findall(r"url\(#([^)]+)\)", value))
    return found


def _rewrite(element: ElementTree.Element, renamed: dict[str, str], used: set[str]) -> None:
    attributes = element.attrib
    if "id" in attributes:
        old = attributes.pop("id")
        if old in used:
            attributes["id"] = renamed[old]
    target = attributes.pop(f"{{{_XLINK}}}href", None)
    if target is not None:
        attributes["href"] = f"#{renamed[target[1:]]}"
    for key, value in attributes.items():
        value = re.sub(r"url\(#([^)]+)\)", lambda match: f"url(#{renamed[match[1]]})", value)
        if key in ("style", "fill", "stroke"):
            value = value.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
            value = _HEX.sub(lambda match: _variable(match[0]), value)
            value = re.sub(r"'[^']*'(, *'[^']*')*, *", "", value)  # matplotlib's list of fonts, but for the last
        attributes[key] = value


def _variable(shade: str) -> str:
    """A run's colour, which the page's style may lighten on a dark ground; any other as it is."""
    shades = [one.lower() for one in COLOURS]
    return f"var(--run-{shades.index(shade)}, {shade})" if shade in shades else shade


def _written(root: ElementTree.Element) -> str:
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        element.tail = None
        if element.tag != "text" and element.tag != "tspan":
            element.text = None
    return ElementTree.tostring(root, encoding="unicode")
