"""Pieces of HTML. Every name, path and message of a run passes through :func:`text` and is shown as text."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

NONE = "–"
"""Shown where there is no value."""

# What neither UTF-8 nor XML can hold: control characters, halves of surrogate pairs, two non-characters.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def plain(value: object) -> str:
    """The text of a value with what no file can hold written out: byte 0xE9 of a file name becomes ``\\xe9``."""

    def written_out(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is not UTF-8
            code -= 0xDC00
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _UNFIT.sub(written_out, str(value))


def text(value: object) -> str:
    """A value as HTML text, also fit for an attribute in double quotes."""
    return html.escape(plain(value), quote=True)


def script_json(value: object) -> str:
    """JSON that can stand in a ``<script>``: nothing in it ends the element or begins a comment."""
    out = json.dumps(_plain_all(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        out = out.replace(character, f"\\u{ord(character):04x}")
    return out


def _plain_all(value: object) -> object:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(k): _plain_all(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        # Long lists of numbers need no walk.
        return [_plain_all(v) for v in value] if any(isinstance(v, str | dict | list | tuple) for v in value) else value
    return value


def known(value: float | None) -> bool:
    """Whether a number is there at all: neither None nor nan."""
    return value is not None and not math.isnan(value)


def percent(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A share as per cent without the sign %: 0.7342 is ``73.4``."""
    return number(None if value is None else 100 * value, digits, sign)


def number(value: float | None, digits: int = 0, sign: bool = False) -> str:
    """A number with thousands separated; ``–`` for None and nan."""
    if value is None or not known(value):
        return NONE
    out = f"{value:{'+' if sign else ''},.{digits}f}"
    return out.replace("-", "\N{MINUS SIGN}")


def size(count: float | None) -> str:
    """Bytes for people, in powers of 1024."""
    if count is None or not known(count):
        return NONE
    for unit, digits in (("B", 0), ("KiB", 0), ("MiB", 1)):
        if abs(count) < 1024 or (unit == "MiB" and abs(count) < 10 * 1024):
            return f"{count:,.{digits}f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        html: what is shown, escaped already.
        sort: what it is sorted by; None sorts by the text, last if that is empty.
        bar: share of the cell's width in [0, 1] that is tinted, as a bar behind the number.
    """

    html: str
    sort: float | None = None
    bar: float | None = None


def value(shown: str, sort: float | None, bar: float | None = None) -> Cell:
    """A cell with a number; what has no number (``–``) is sorted last."""
    usable = sort is not None and known(sort)
    return Cell(shown, sort if usable else math.nan, bar if usable else None)


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Cell | str]],
    caption: str,
    *,
    identifier: str = "",
    sortable: bool = False,
    tall: bool = False,
) -> str:
    """A table in a box that scrolls by itself.

    Args:
        head: HTML of the column heads.
        rows: cells, the first of which names the row; a plain string is HTML that is sorted as text.
        caption: HTML; what the table shows, also its accessible name.
        identifier: id of the table.
        sortable: whether a script may sort it; needs one row of heads.
        tall: whether it is cut to the height of a screen and scrolls.
    """
    classes = ' class="sortable"' if sortable else ""
    name = f' id="{identifier}"' if identifier else ""
    box = '<div class="scroll tall" tabindex="0">' if tall else '<div class="scroll" tabindex="0">'
    out = [f"{box}<table{name}{classes}><caption><span>{caption}</span></caption><thead><tr>"]
    out += [f'<th scope="col">{title}</th>' for title in head]
    out.append("</tr></thead><tbody>")
    for row in rows:
        out.append("<tr>")
        for column, cell in enumerate(row):
            out.append(_cell(cell, column == 0))
        out.append("</tr>\n")
    out.append("</tbody></table></div>")
    return "".join(out)


def _cell(cell: Cell | str, is_head: bool) -> str:
    tag, attributes = ("th", ' scope="row"') if is_head else ("td", "")
    if isinstance(cell, str):
        return f"<{tag}{attributes}>{cell}</{tag}>"
    if cell.sort is not None:
        shown = "" if math.isnan(cell.sort) else f"{cell.sort:.9g}"
        attributes += f' class="n" data-v="{shown}"'
    if cell.bar is not None:
        attributes += f' style="--bar:{100 * min(max(cell.bar, 0.0), 1.0):.1f}%"'
    return f"<{tag}{attributes}>{cell.html}</{tag}>"


def figure(title: str, note: str, svg: str, data: str) -> str:
    """A plot with its caption, and its numbers as a table that can be opened.

    Args:
        title: any text.
        note: any text, set apart from the title; empty for none.
        svg: one element.
        data: HTML of the table.
    """
    caption = f"<strong>{text(title)}</strong>{'. ' if note else ''}{text(note)}"
    return (
        f'<figure class="plot"><figcaption>{caption}</figcaption>'
        f"{svg}<details><summary>Data</summary>{data}</details></figure>"
    )


def thinned(rows: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def missing(reason: str) -> str:
    """One line that says why a part of the page is empty."""
    return f'<p class="missing">{text(reason)}</p>'


def plural(count: int, noun: str) -> str:
    """``1 video``, ``2,000 videos``, ``400 classes``."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"
