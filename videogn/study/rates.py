"""The learning rate of each cell: the best of a few, on a seed of its own. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from videogn.study.outcomes import Outcome


def choose_rates(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The best rate by the name of the cell: highest ``val/top1``, then lowest ``val/loss``, then the lowest rate.

    Args:
        outcomes: of all runs that choose; one that failed, as those do that diverge, is out. Cells whose runs are not
            all at their end get no rate yet, and those of which all failed get none.
    """
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        name = outcome.run.cell.name
        if outcome.status == "done" and (name not in best or _key(outcome) < _key(best[name])):
            best[name] = outcome
    open_yet = {outcome.run.cell.name for outcome in outcomes if outcome.status in ("missing", "interrupted")}
    return {name: o.run.lr for name, o in best.items() if o.run.lr is not None and name not in open_yet}


def _key(outcome: Outcome) -> tuple[float, float, float]:
    loss = outcome.scores["loss"]
    return -outcome.scores["top1"], math.inf if math.isnan(loss) else loss, outcome.run.lr or 0.0
