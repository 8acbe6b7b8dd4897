"""The learning rate of each cell: the best of a few, on a seed of its own. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from videogn.study.outcomes import Outcome


def choose_rates(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The best rate by the name of the cell: highest ``val/top1``, then lowest ``val/loss``, then the lowest rate.

    Args:
        outcomes: of all runs that choose; one that is not done, as one that diverged, counts as the worst. Cells none
            of whose runs is done get no rate.
    """
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        name = outcome.run.cell.name
        if outcome.status == "done" and (name not in best or _key(outcome) < _key(best[name])):
            best[name] = outcome
    return {name: outcome.run.lr for name, outcome in best.items() if outcome.run.lr is not None}


def _key(outcome: Outcome) -> tuple[float, float, float]:
    return -outcome.scores["top1"], outcome.scores["loss"], outcome.run.lr or 0.0
