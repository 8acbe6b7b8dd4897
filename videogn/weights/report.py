"""What became of every tensor of a file and of every tensor of the network it went into."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_SHOWN = 3  # kinds of names per line of the short report

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Taken:
    """A tensor of the network that the file has.

    Attributes:
        name: in the network.
        source: in the file.
        shape: in the network.
        source_shape: in the file.
    """

    name: str
    source: str
    shape: Shape
    source_shape: Shape


@dataclass(frozen=True)
class Report:
    """What :func:`videogn.weights.transfer` did.

    Attributes:
        source: the file, its format and the network in it, in words.
        network: the network that took the weights, in words.
        loaded: tensors that were copied as they are.
        inflated: kernels of a picture's network that got a time axis.
        inflation: how.
        skipped: name in the file -> (shape, or None where it was not kept, and why the network did not take it).
        missing: name in the network -> (shape, why it kept its initial values).
        notes: what else a user should know.
    """

    source: str
    network: str
    loaded: tuple[Taken, ...]
    inflated: tuple[Taken, ...]
    inflation: str
    skipped: Mapping[str, tuple[Shape | None, str]]
    missing: Mapping[str, tuple[Shape, str]]
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Counts and reasons, as plain values for the card of a file."""
        return {
            "source": self.source,
            "loaded": len(self.loaded),
            "inflated": len(self.inflated),
            "inflation": self.inflation if self.inflated else None,
            "skipped": {reason: len(names) for reason, names in _by_reason(self.skipped).items()},
            "missing": {reason: len(names) for reason, names in _by_reason(self.missing).items()},
            "notes": list(self.notes),
        }

    def text(self, every_tensor: bool = False) -> str:
        """For people: grouped, numbers in names as ``*``; or one line for every tensor."""
        lines = [f"weights: {self.source}", f"     to: {self.network}"]
        lines += _taken("loaded", self.loaded, every_tensor)
        lines += _taken(f"inflated ({self.inflation})", self.inflated, every_tensor)
        for title, left in (("skipped", self.skipped), ("missing", self.missing)):
            for reason, names in _by_reason(left).items():
                lines.append(f"  {title} {len(names)}: {reason}")
                if every_tensor:
                    lines += [f"    {name}{_shape(left[name][0])}" for name in names]
                else:
                    lines.append(f"    {grouped((name, _shape(left[name][0])) for name in names)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def grouped(names: Iterable[tuple[str, str]]) -> str:
    """Names with what to print behind them, in a line: one for each kind, numbers in names as ``*``, with its count."""
    kinds: dict[str, list[str]] = {}
    for name, behind in names:
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(f"{name}{behind}")
    parts = [full[0] if len(full) == 1 else f"{kind} x {len(full)}" for kind, full in kinds.items()]
    more = f", and {len(parts) - _SHOWN} more kinds" if len(parts) > _SHOWN else ""
    return ", ".join(parts[:_SHOWN]) + more


def _taken(title: str, taken: tuple[Taken, ...], every_tensor: bool) -> list[str]:
    if not taken:
        return []
    values = sum(math.prod(each.source_shape) for each in taken)
    lines = [f"  {title} {len(taken)}: {values:,} values"]
    if every_tensor:
        return lines + [f"    {t.source}{_shape(t.source_shape)} -> {t.name}{_shape(t.shape)}" for t in taken]
    changed = {f"{_kernel(t.source_shape)} -> {_kernel(t.shape)}" for t in taken if t.source_shape != t.shape}
    return [f"{lines[0]}, kernels {', '.join(sorted(changed))}"] if changed else lines


def _by_reason(left: Mapping[str, tuple[Any, str]]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, (_, reason) in left.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _shape(shape: Shape | None) -> str:
    return "" if shape is None else f" {tuple(shape)}"


def _kernel(shape: Shape) -> str:
    return "x".join(map(str, shape[2:]))
