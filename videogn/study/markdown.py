"""Tables in Markdown. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NONE = "–"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells may hold any text; without a line break at its end."""
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    inside = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(inside)} |"
