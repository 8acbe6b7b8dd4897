"""How the GPU suite runs its measurements: within a time budget, one failure at a time, with nothing left out.

A section is a list of groups; a group is a list of rows that are measured together. Every row is in the JSON from the
start ("not reached") and ends as "ok", "failed" (a check), "out of memory", "error" or "skipped: ...".
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
OUT_OF_TIME = "skipped: out of time"
NOT_REACHED = "not reached"
_SAVE_EVERY = 2.0  # seconds


class Skipped(Exception):
    """This row cannot be measured here; the message says why."""


class OutOfTime(BaseException):
    """The time is over in the middle of a row. No Exception: the compiler would take it for a failure of its own."""


@dataclass(frozen=True)
class Group:
    """Rows that are measured together.

    Attributes:
        keys: what each row is; together with the section this names the row.
        run: budget -> one result per key.
        seconds: what the group is expected to take; it does not start with less left.
    """

    keys: list[Row]
    run: Callable[[Budget], list[Row]]
    seconds: float = 0.0


@dataclass(frozen=True)
class Section:
    """Groups in the order of their importance, and the share of the suite's time that they may take."""

    name: str
    share: float
    groups: Callable[[], list[Group]]


@dataclass
class Budget:
    """Time limits, as times of ``time.monotonic``: of the section that runs, and of the whole suite."""

    end: float
    section_end: float = math.inf

    def left(self) -> float:
        """Seconds left to this section."""
        return min(self.section_end, self.end) - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """True if something that takes about so many seconds may start."""
        return self.left() > max(seconds, 0.0)

    @contextlib.contextmanager
    def stop_at_the_end(self) -> Iterator[None]:
        """Raises :class:`OutOfTime` inside when the suite's time is over: for compilers, whose time nobody knows.

        For the main thread; without effect where there is no SIGALRM.
        """
        if not hasattr(signal, "SIGALRM"):
            yield
            return

        def expire(*_: object) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, max(self.end - time.monotonic(), 0.1))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@dataclass
class Results:
    """What is written to the JSON."""

    path: Path
    environment: Row
    sections: dict[str, Row] = field(default_factory=dict)
    finished: bool = False
    saved: float = 0.0

    def save(self) -> None:
        """Writes the file anew, in one step: a kill leaves the old one or the new one."""
        document = {"environment": self.environment, "sections": self.sections, "finished": self.finished}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(_plain(document), indent=1) + "\n")
        os.replace(part, self.path)
        self.saved = time.monotonic()

    def rows(self, section: str) -> list[Row]:
        return self.sections[section]["rows"]


def run_sections(sections: list[Section], results: Results, budget: Budget) -> None:
    """Runs the sections in turn; what one leaves of its time goes to those after it."""
    start = time.monotonic()
    plans: list[tuple[Section, list[Group]]] = []
    for section in sections:
        groups: list[Group] = []
        problem = attempt(partial(_extend, groups, section.groups))
        rows = [{**key, "status": NOT_REACHED} for group in groups for key in group.keys]
        if problem["status"] != "ok":
            rows.append({"row": "list of measurements", **problem})
        results.sections[section.name] = {"seconds": 0.0, "rows": rows}
        plans.append((section, groups))
    for i, (section, groups) in enumerate(plans):
        begin = time.monotonic()
        shares = sum(other.share for other in sections[i:])
        budget.section_end = begin + (budget.end - begin) * section.share / shares
        first = 0
        for group in groups:
            outcome = _run_group(group, budget)
            rows = results.rows(section.name)
            for j, (key, row) in enumerate(zip(group.keys, outcome, strict=True)):
                rows[first + j] = {**key, "status": "ok", **row}
            first += len(group.keys)
            if not rows[first - 1]["status"].startswith("skipped"):
                print(f"[{time.monotonic() - start:6.1f} s] {section.name}: {_line(rows[first - 1])}", file=sys.stderr)
            results.sections[section.name]["seconds"] = round(time.monotonic() - begin, 2)
            if time.monotonic() - results.saved > _SAVE_EVERY:
                results.save()
        results.save()


def _run_group(group: Group, budget: Budget) -> list[Row]:
    if not budget.allows(group.seconds):
        return [{"status": OUT_OF_TIME} for _ in group.keys]
    outcome: list[Row] = []
    problem = attempt(partial(_extend, outcome, lambda: group.run(budget)))
    return outcome if problem["status"] == "ok" else [problem for _ in group.keys]


def _extend(items: list[Any], make: Callable[[], list[Any]]) -> Row:
    items.extend(make())
    return {}


def attempt(function: Callable[[], Row]) -> Row:
    """The function's result with ``status`` "ok" where it gives none itself, or what kept it from one."""
    try:
        return {"status": "ok", **function()}
    except Skipped as reason:
        return {"status": f"skipped: {reason}"}
    except OutOfTime:
        row = {"status": OUT_OF_TIME, "message": "stopped when the time was over"}
    except torch.OutOfMemoryError as error:
        row = {"status": "out of memory", "message": _short(error)}
    except Exception as error:
        return {"status": "error", "message": _short(error)}
    # Here, not above: the exception's traceback would keep the tensors of every frame that it went through.
    free_memory()
    return row


def free_memory() -> None:
    """Gives back what nothing refers to any more, so that the next measurement starts from the same memory."""
    gc.collect()
    with contextlib.suppress(RuntimeError):  # a device that a failed kernel has left unusable refuses this too
        torch.cuda.empty_cache()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def _line(row: Row) -> str:
    words = [f"{value}" for key, value in row.items() if key not in ("status", "message") and not _is_result(value)]
    return " ".join([*words[:7], row["status"], row.get("message", "")[:200]])


def _is_result(value: Any) -> bool:
    return value is None or isinstance(value, float | dict | list)


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for become text, and long ones are cut to six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
