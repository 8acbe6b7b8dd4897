"""``videogn study --dry-run``: a study's cells with their runs, memory and time, before anything runs.

Imports no torch; :func:`dry_run` itself needs it.
"""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from videogn.study.estimates import (
    ONE_CLIP,
    OTHERS,
    OWN,
    STEP,
    UNKNOWN,
    Estimate,
    Line,
    estimate,
    find_lines,
    hours_together,
    seconds_per_work,
    time_text,
)
from videogn.study.grid import Study
from videogn.study.outcomes import Outcome, Status
from videogn.study.runs import Run

if TYPE_CHECKING:
    from videogn.study.costs import RunCost

_STATES: tuple[Status, ...] = ("done", "interrupted", "failed", "missing")
_HEAD = (
    "cell", *_STATES, "clips per run", "parameters", "multiply-adds", "step", "evaluation", "time per run",
)  # fmt: skip
_WIDTH = 120
_COMPUTING = "a training step was timed here with random clips, {}: computing alone, without decoding and validation"
_SOURCES = {
    OWN: "mean wall time of the finished runs of this line",
    OTHERS: "wall time of the study's finished runs, scaled by multiply-adds x clips",
    STEP: _COMPUTING.format("after one that warms up"),
    ONE_CLIP: _COMPUTING.format("one clip instead of the batch"),
    UNKNOWN: "no run is finished, and to time a training step takes too long, or another machine",
}
_TOO_MUCH = "warning: that does not fit; run fewer at a time (--jobs), or lower data.batch_size"


def dry_run(study: Study, runs: Sequence[Run], outcomes: Sequence[Outcome], jobs: int) -> str:
    """What `videogn study --dry-run` prints: starts no run and writes nothing, but may time training steps.

    Args:
        study: whose.
        runs: all of them, in the order in which they are run.
        outcomes: of the runs, as far as there are any.
        jobs: runs at a time.

    Returns:
        Lines: a table of the cells, what its columns mean, and what all runs that are not done take together.

    Raises:
        UsageError: a cell's configuration that `videogn fit` would refuse.
    """
    from videogn.callbacks.records import peak_resident
    from videogn.study.costs import count_costs

    process, memory = peak_resident() or 0, machine_memory()
    lines = find_lines(runs, outcomes)
    costs = count_costs({line.name: line.runs[0].config for line in lines}, jobs)
    estimates = _estimates(lines, costs, jobs, memory)
    to_do = _to_do(lines)
    states = Counter(outcome.status for line in lines for outcome in line.outcomes)
    out = [
        f"{study.name}: {study.title}",
        f"{sum(states.values())} runs of {len(study.cells)} cells: "
        + ", ".join(f"{states[status]} {status}" for status in _STATES),
        "",
        *_table([_HEAD, *(_row(line, costs[line.name], estimates[line.name]) for line in lines)]),
        "",
        *(
            textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
            for text in (
                *_remarks(list(costs.values()), list(estimates.values()), jobs),
                _total(to_do, estimates, jobs),
                *_memory([costs[line.name] for line, _ in to_do], jobs, process, memory),
            )
        ),
    ]
    return "\n".join(out)


def machine_memory() -> int | None:
    """Bytes of this machine; None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _estimates(
    lines: Sequence[Line], costs: Mapping[str, RunCost], jobs: int, memory: int | None
) -> dict[str, Estimate]:
    from videogn.study.step_time import time_clips

    pace = seconds_per_work(lines, costs)
    unknown = [costs[line.name] for line in lines if pace is None and not line.done]
    steps = time_clips(unknown, jobs, memory) if unknown else {}
    return {line.name: estimate(line, costs[line.name], pace, steps.get(costs[line.name])) for line in lines}


def _row(line: Line, cost: RunCost, time: Estimate) -> tuple[str, ...]:
    from videogn.memory import format_bytes

    states = Counter(outcome.status for outcome in line.outcomes)
    adds = cost.multiply_adds
    return (
        line.name,
        *(str(states[status]) for status in _STATES),
        f"{cost.clips:,}" if cost.clips is not None else f"{cost.epochs} epoch{'s' if cost.epochs != 1 else ''}",
        f"{cost.parameters / 1e6:.2f} M",
        f"{adds / 1e9:.2f} G" if adds >= 1e8 else f"{adds / 1e6:.2f} M",
        format_bytes(cost.step_bytes),
        format_bytes(cost.eval_bytes),
        time.text(),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _remarks(costs: Sequence[RunCost], times: Sequence[Estimate], jobs: int) -> list[str]:
    from videogn.study.step_time import run_threads

    settings = ", ".join(dict.fromkeys(str(cost.setting) for cost in costs))
    sources, threads = {time.source for time in times}, run_threads(jobs)
    on_cpu = f"; with {threads} CPU thread{'s' if threads != 1 else ''}, as a run has"
    out = [
        f"step, evaluation: the most that a process holds at once in a training step with the cell's batch and in an "
        f"evaluation, counted as by `videogn plan` ({settings}); multiply-adds: of one training clip",
        *(
            f"time, {source}: {text}{on_cpu if source in (STEP, ONE_CLIP) else ''}"
            for source, text in _SOURCES.items()
            if source in sources
        ),
    ]
    for why in dict.fromkeys(cost.why for cost in costs if cost.clips is None and cost.why):
        out.append(f"the number of training videos is unknown, and with it the clips per run: {why}")
    if any(cost.device == "cpu" and cost.setting.device == "cuda" for cost in costs):
        out.append(
            "memory is counted for a CUDA GPU, which is not here: set trainer.accelerator to cpu to count it for a CPU"
        )
    return out


def _to_do(lines: Sequence[Line]) -> list[tuple[Line, Outcome]]:
    """What is not done, each folder once, as a study runs it."""
    found = {o.run.folder: (line, o) for line in lines for o in line.outcomes if o.status != "done"}
    return list(found.values())


def _total(to_do: Sequence[tuple[Line, Outcome]], times: Mapping[str, Estimate], jobs: int) -> str:
    own = [(line.purpose, times[line.name]) for line, _ in to_do]
    if not own:
        return "to do: nothing"
    known = [(purpose, time.seconds) for purpose, time in own if time.whole and time.seconds is not None]
    text = f"to do: {len(own)} run{'s' if len(own) != 1 else ''}"
    if not known:
        return f"{text}; their time is unknown"
    text += f", about {time_text(3600 * hours_together(known, jobs))}"
    if jobs > 1:
        text += f" with {jobs} at a time ({time_text(3600 * hours_together(known, 1))} one after another)"
    if len(known) < len(own):
        text += f", and {len(own) - len(known)} of unknown time"
    if any(outcome.status != "missing" for _, outcome in to_do):
        text += "; runs that were interrupted or failed are counted whole"
    return text


def _memory(costs: Sequence[RunCost], jobs: int, process: int, memory: int | None) -> list[str]:
    """What the runs to do need at once, and a warning where that is more than there is."""
    from videogn.memory import format_bytes

    out = []
    together = f"memory, {jobs} at a time" if jobs > 1 else "memory"
    for_cpu = [cost for cost in costs if cost.setting.device == "cpu"]
    if for_cpu:
        most = sorted((cost.processes * (_bytes(cost) + process) for cost in for_cpu), reverse=True)[:jobs]
        here = f" of this machine's {format_bytes(memory)}" if memory else ""
        out.append(
            f"{together}: {format_bytes(sum(most))}{here}: the largest of the above and {format_bytes(process)} for "
            "each process, what this one holds with its libraries; the loaders' frames come on top"
        )
        if memory and sum(most) > memory:
            out.append(_TOO_MUCH)
    if len(for_cpu) < len(costs):
        out += _gpu_memory([_bytes(cost) for cost in costs if cost.setting.device == "cuda"], jobs)
    return out


def _gpu_memory(peaks: Sequence[int], jobs: int) -> list[str]:
    import torch

    from videogn.memory import format_bytes

    gpus = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    share = -(-jobs // len(gpus)) if gpus else 1
    most = sum(sorted(peaks, reverse=True)[:share])
    runs = "one run" if share == 1 else f"{share} runs"
    here = f" of {format_bytes(min(gpus))}" if gpus else ", and there is none here to compare with"
    out = [f"memory of each GPU with {runs} at a time: {format_bytes(most)}{here}"]
    if gpus and most > min(gpus):
        out.append(_TOO_MUCH)
    return out


def _bytes(cost: RunCost) -> int:
    return max(cost.step_bytes, cost.eval_bytes)
