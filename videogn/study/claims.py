"""What a study tests: differences of error between cells, with an exact statistic over seeds. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from videogn.report.paired import holm
from videogn.study.markdown import NONE, markdown_table
from videogn.study.statistics import Shift, shift_between, shift_from_zero

if TYPE_CHECKING:
    from videogn.study.outcomes import CellResult

Selector = dict[str, str]
Verdict = Literal["supported", "contradicted", "not shown", "not tested"]


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


@dataclass(frozen=True)
class ClaimResult:
    """What the runs say about a claim.

    Attributes:
        claim: which.
        verdict: by the confidence interval alone: ``"supported"`` where all of it agrees with the claim,
            ``"contradicted"`` where none of it does, else ``"not shown"``; ``"not tested"`` where runs are missing.
        reason: why it is not tested, or why there is no interval; else empty.
        shift: error of ``claim.of`` less that of ``claim.against``, in points; None where not tested.
        holm: its p-value corrected for the number of claims of the study that were tested.
    """

    claim: Claim
    verdict: Verdict
    reason: str = ""
    shift: Shift | None = None
    holm: float | None = None

    @property
    def text(self) -> str:
        """The verdict with its reason: ``not tested: 2 of 5 seeds are missing in gn, 4``."""
        return f"{self.verdict}: {self.reason}" if self.reason else self.verdict


def test_claims(claims: Sequence[Claim], results: Sequence[CellResult]) -> list[ClaimResult]:
    """Tests the claims on the errors of the finished seeds.

    Cells are independent samples, also where they share seeds: a seed gives the first weights and the order of the
    videos, but another norm or batch size makes another run of them. A rise is formed seed by seed and is then one
    sample. See :func:`~videogn.study.statistics.shift_between` and, for a claim against zero,
    :func:`~videogn.study.statistics.shift_from_zero`; p-values are corrected by :func:`~videogn.report.paired.holm`.

    Args:
        claims: of one study.
        results: of its cells.

    Returns:
        One for each claim, in their order.
    """
    reasons = [_untestable(claim, results) for claim in claims]
    shifts = [None if reason else _shift(claim, results) for claim, reason in zip(claims, reasons, strict=True)]
    corrected = iter(holm([shift.p_value for shift in shifts if shift]))
    out = []
    for claim, reason, shift in zip(claims, reasons, shifts, strict=True):
        if shift is None:
            out.append(ClaimResult(claim, "not tested", reason))
        else:
            out.append(ClaimResult(claim, *_verdict(claim, shift), shift, next(corrected)))
    return out


test_claims.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it wherever it is imported


def claims_markdown(tested: Sequence[ClaimResult]) -> str:
    """The claims as a table, and beneath it what was computed; empty without claims. No line break at its end."""
    return "\n\n".join([markdown_table(*claims_rows(tested)), *explained(tested)]) if tested else ""


def claims_rows(tested: Sequence[ClaimResult]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Heads and rows of the table of claims, as plain text."""
    head = ("claim", "error compared", "expected", "seeds", "shift in points", "p", "p (Holm)", "verdict")
    return head, [_row(result) for result in tested]


def explained(tested: Sequence[ClaimResult]) -> list[str]:
    """What was computed, in sentences: a paragraph each."""
    shifts = [result.shift for result in tested if result.shift]
    out = [
        "Error: 100 − top-1 per video in %, at the last validation, one value for each seed. Two cells are two "
        "independent samples; a rise (from → to) is formed seed by seed and is one sample."
    ]
    if not shifts:
        return out
    if any(len(shift.sizes) == 2 for shift in shifts):
        out.append(
            "Shift: Hodges and Lehmann's estimate, the median of all differences between a seed of the one side and a "
            "seed of the other. In brackets its exact confidence interval, by inversion of the two-sided Wilcoxon "
            "rank-sum test, at the lowest level of at least 95 % that the number of seeds allows. The level is that of "
            "values without ties; with ties it is conservative. p: of no shift, exact, twice the smaller tail of all "
            "splits of the pooled seeds; equal errors share their mean rank."
        )
    if any(len(shift.sizes) == 1 for shift in shifts):
        out.append(
            "Against zero: the median of the averages of all pairs of seeds, each with itself too; interval and p "
            "likewise from Wilcoxon's signed-rank test and all signs of the values. Zeros are ranked and count for "
            "neither side."
        )
    out.append(
        "Verdict: supported if the whole interval agrees with what is expected, contradicted if none of it does, else "
        "not shown; each claim by itself. p is of no shift at all, also where the claim is that there is hardly one. "
        f"p (Holm) is corrected for the number of claims tested, here {len(shifts)}."
    )
    lowest = min(holm([shift.lowest_p for shift in shifts]))
    if lowest > 0.05:
        out.append(f"With so few seeds no p (Holm) of this table can be below {lowest:.2g}, whatever the shifts.")
    return out


def _find(selector: Selector, results: Sequence[CellResult]) -> CellResult | None:
    return next((result for result in results if result.cell.values == selector), None)


def _folders(selector: Selector, results: Sequence[CellResult]) -> set[Path]:
    result = _find(selector, results)
    return {outcome.run.folder for outcome in result.outcomes} if result else set()


def _untestable(claim: Claim, results: Sequence[CellResult]) -> str:
    """Why a claim cannot be tested; empty if it can."""
    reasons = []
    for selector in {tuple(selector.items()): selector for selector in (*claim.of, *claim.against)}.values():
        result, cell = _find(selector, results), _name(selector)
        if result is None or not result.missing + len(result.outcomes):
            reasons.append(f"there are no runs of {cell}")
        elif result.missing:
            verb = "is" if result.missing == 1 else "are"
            all_of = result.missing + len(result.outcomes)
            reasons.append(f"{result.missing} of {all_of} seeds {verb} missing in {cell}")
    shared = [selector for selector in claim.of if selector in claim.against]
    if shared:
        reasons.append(f"{_name(shared[0])} is on both sides, which are then not independent")
    for one, other in itertools.product(claim.of, claim.against):
        if one != other and _folders(one, results) & _folders(other, results):
            reasons.append(f"{_name(one)} and {_name(other)} are the same runs, and not independent")
    return "; ".join(reasons)


def _shift(claim: Claim, results: Sequence[CellResult]) -> Shift:
    of = _sample(claim.of, results)
    return shift_between(of, _sample(claim.against, results)) if claim.against else shift_from_zero(of)


def _sample(side: Sequence[Selector], results: Sequence[CellResult]) -> NDArray[np.float64]:
    found = [result.errors for selector in side if (result := _find(selector, results))]
    seeds: Mapping[int, float] = found[0]
    values = [found[1][seed] - found[0][seed] if len(found) > 1 else found[0][seed] for seed in seeds]
    # Errors are shares of whole videos: what differs by less than this was equal before it was rounded, and is a tie.
    return np.round(values, 4)


def _verdict(claim: Claim, shift: Shift) -> tuple[Verdict, str]:
    if shift.low is None or shift.high is None:
        enough = "4 against 4" if len(shift.sizes) == 2 else "6"
        return "not shown", f"of {_seeds(shift)} seeds no 95 % interval exists; {enough} would do"
    low, high = shift.low, shift.high
    if claim.expect == "within":
        margin = claim.margin or 0.0
        agrees, differs = -margin <= low and high <= margin, low > margin or high < -margin
    else:
        low, high = (low, high) if claim.expect == "above" else (-high, -low)
        agrees, differs = low > 0, high < 0
    return "supported" if agrees else "contradicted" if differs else "not shown", ""


def _name(selector: Selector) -> str:
    return ", ".join(selector.values())


def _side(side: Sequence[Selector]) -> str:
    name = " → ".join(map(_name, side))
    return f"({name})" if len(side) > 1 else name


def _seeds(shift: Shift) -> str:
    return " against ".join(map(str, shift.sizes))


def _row(result: ClaimResult) -> list[str]:
    claim, shift = result.claim, result.shift
    compared = " − ".join(_side(side) for side in (claim.of, claim.against) if side)
    expected = f"within ±{claim.margin:g}" if claim.expect == "within" else f"{claim.expect} 0"
    if shift is None:
        return [claim.text, compared, expected, NONE, NONE, NONE, NONE, result.text]
    numbers = f"{shift.estimate:+.2f}"
    if shift.low is not None and shift.high is not None and shift.level is not None:
        numbers += f" ({shift.low:+.2f} to {shift.high:+.2f}; {100 * shift.level:.1f} %)"
    p_values = [f"{p:.2g}" for p in (shift.p_value, result.holm or 0.0)]
    return [claim.text, compared, expected, _seeds(shift), numbers, *p_values, result.text]
