"""How long a study's runs take: by its finished runs, or by training steps that were timed. Imports no torch."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from videogn.study.outcomes import Outcome
from videogn.study.runs import Purpose, Run

if TYPE_CHECKING:
    from videogn.study.costs import RunCost

PER_CLIPS = 1000
OWN, OTHERS, STEP, ONE_CLIP, UNKNOWN = "its runs", "other runs", "a step", "a step of 1 clip", "unknown"
_PURPOSES = {"pretraining": ": pre-training", "rate": ": rates", "result": ""}


@dataclass(frozen=True)
class Line:
    """The runs of a cell that share a purpose, and so a length.

    Attributes:
        name: of the cell, and what its runs are for unless they count.
        purpose: of the runs.
        runs: in their order.
        outcomes: of the same runs.
    """

    name: str
    purpose: Purpose
    runs: tuple[Run, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def done(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == "done"]


@dataclass(frozen=True)
class Estimate:
    """How long a run takes.

    Attributes:
        seconds: of a whole run; of :data:`PER_CLIPS` training clips where ``whole`` is not so; None where unknown.
        source: which of ``"its runs"``, ``"other runs"``, ``"a step"``, ``"a step of 1 clip"`` and ``"unknown"``.
        whole: whether it is about a run.
    """

    seconds: float | None
    source: str
    whole: bool = True

    def text(self) -> str:
        if self.seconds is None:
            return self.source
        return f"{time_text(self.seconds)}{'' if self.whole else f' per {PER_CLIPS:,} clips'}, {self.source}"


def find_lines(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> list[Line]:
    """The runs by cell and purpose, those that come first in the order of the runs first; none twice."""
    known = {outcome.run.folder: outcome for outcome in outcomes}
    found: dict[tuple[Purpose, str], dict[object, Run]] = {}
    for run in runs:
        found.setdefault((run.purpose, run.cell.text() + _PURPOSES[run.purpose]), {})[run.folder] = run
    return [
        Line(
            name,
            purpose,
            tuple(of.values()),
            tuple(known.get(run.folder) or Outcome(run, "missing", {}, {}, None, 0.0) for run in of.values()),
        )
        for (purpose, name), of in found.items()
    ]


def seconds_per_work(lines: Sequence[Line], costs: Mapping[str, RunCost]) -> float | None:
    """Wall seconds per multiply-add of one clip's forward pass, over all finished runs; None without any.

    Args:
        lines: the study's.
        costs: by the lines' names.
    """
    seconds = work = 0.0
    for line in lines:
        for outcome in line.done:
            cost = costs[line.name]
            clips = outcome.training.clips if outcome.training and outcome.training.clips else cost.clips
            if clips:
                seconds, work = seconds + outcome.seconds, work + clips * cost.multiply_adds
    return seconds / work if work else None


def estimate(line: Line, cost: RunCost, pace: float | None, step: tuple[float, int] | None) -> Estimate:
    """How long a run takes, by the best that is known.

    Args:
        line: whose runs.
        cost: of each of them.
        pace: of :func:`seconds_per_work`.
        step: seconds per clip of a step that was timed, and its clips.
    """
    whole = cost.clips is not None
    clips = PER_CLIPS if cost.clips is None else cost.clips
    if line.done:
        return Estimate(sum(outcome.seconds for outcome in line.done) / len(line.done), OWN)
    if pace is not None:
        return Estimate(pace * cost.multiply_adds * clips, OTHERS, whole)
    if step is not None:
        return Estimate(step[0] * clips / cost.processes, STEP if step[1] == cost.batch else ONE_CLIP, whole)
    return Estimate(None, UNKNOWN)


def hours_together(seconds: Sequence[tuple[Purpose, float]], jobs: int) -> float:
    """Wall hours of runs, ``jobs`` at a time in their order; runs wait for all those of an earlier purpose."""
    total = 0.0
    for purpose in get_args(Purpose):
        ends = [0.0] * jobs
        for own in (own for of, own in seconds if of == purpose):
            heapq.heappush(ends, heapq.heappop(ends) + own)
        total += max(ends)
    return total / 3600


def time_text(seconds: float) -> str:
    """Seconds for people: ``61 s``, ``35 min``, ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
