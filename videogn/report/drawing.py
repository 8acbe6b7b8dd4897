"""How plots look and what they are made into: the palette, matplotlib's settings, SVG inside a page, files."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from videogn.report.markup import plain

# Okabe and Ito's palette ("Color Universal Design", 2008) without black, which is not seen on a dark page, and with
# yellow last, which is hardly seen on a light one.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 1)), (0, (4, 4)))

INK, _GRID, PAPER = "#010203", "#010204", "#fdfcfb"
"""Stand-ins for a page's own colours, which change with its scheme; replaced in the finished SVG."""

_FOR_FILES = {INK: "#1a1c20", _GRID: "#dfe2e8", PAPER: "#ffffff"}
_HEX = re.compile("#[0-9a-f]{6}")
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "videogn",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.unicode_minus": True,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.formatter.use_mathtext": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "path.simplify": True,
}
_NO_METADATA = {"Date": None, "Creator": None, "Type": None, "Format": None}


def colour(run: int) -> str:
    """Colour of a run; they repeat after seven runs, and markers and dashes then differ from it by one."""
    return COLOURS[run % len(COLOURS)]


def style(run: int) -> dict[str, Any]:
    """Colour, marker and dash of a run, as matplotlib takes them."""
    shift = run + run // len(COLOURS)
    return {"color": colour(run), "marker": MARKERS[shift % len(MARKERS)], "linestyle": DASHES[shift % len(DASHES)]}


@contextlib.contextmanager
def settings(*, for_files: bool = False) -> Iterator[None]:
    """The same plots on every machine, whatever its matplotlibrc says.

    Args:
        for_files: dark on white; otherwise in colours that :func:`inline` takes for the page's own.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        chosen = {name: _FOR_FILES.get(value, value) if for_files else value for name, value in _SETTINGS.items()}
        matplotlib.rcParams.update(chosen)  # type: ignore[arg-type]
        yield


def inline(figure: Figure, name: str, label: str) -> str:
    """A figure as an element of an HTML page: ids of its own, no metadata, colours that follow the page."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata=_NO_METADATA)
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


def as_files(figure: Figure) -> dict[str, bytes]:
    """A figure drawn with ``settings(for_files=True)``, by the ending of its file: the same bytes every time.

    ``svg`` has text as text, ``png`` 200 dots per inch; both are on white.
    """
    out = {}
    for ending, metadata in (("svg", _NO_METADATA), ("png", {"Software": None})):
        file = io.BytesIO()
        figure.savefig(file, format=ending, dpi=200, metadata=metadata)
        out[ending] = file.getvalue()
    return out


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
            value = value.replace(INK, "currentColor").replace(_GRID, "var(--grid)").replace(PAPER, "var(--card)")
            value = _HEX.sub(lambda match: variable(match[0]), value)
            value = re.sub(r"'[^']*'(, *'[^']*')*, *", "", value)  # matplotlib's list of fonts, but for the last
        attributes[key] = value


def variable(shade: str) -> str:
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
