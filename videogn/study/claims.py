"""What a study tests: differences of error between cells, with an exact statistic over seeds. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Selector = dict[str, str]


@dataclass(frozen=True)
class Claim:
    """A statement about errors, in points of top-1 error (100 - top-1 in %).

    Attributes:
        text: the statement.
        of: the cell it is about, as values of axes; two of them stand for the rise from the first to the second, seed
            by seed.
        against: what it is compared with, likewise; empty for zero.
        expect: ``"above"``, ``"below"``, or ``"within"`` the margin, on either side.
        margin: points, for ``"within"``.
    """

    text: str
    of: tuple[Selector, ...]
    against: tuple[Selector, ...] = ()
    expect: Literal["above", "below", "within"] = "above"
    margin: float | None = None
