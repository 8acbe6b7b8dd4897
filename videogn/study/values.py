"""What a study's file may hold: kinds of values, and the axes whose values explain themselves. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from videogn.errors import UsageError
from videogn.study.options import Options

KNOWN_AXES: dict[str, Callable[[Any], Options]] = {
    "norm": lambda value: {"model.norm": _word(value), "model.norm_kwargs": None},
    "batch_size": lambda value: {"data.batch_size": _count(value)},
    "clip": lambda value: dict(zip(("data.clip.frames", "data.clip.stride"), map(int, value.split("x")), strict=True)),
    "num_groups": lambda value: {"model.norm_kwargs": {"num_groups": _count(value)}},
    "channels_per_group": lambda value: {"model.norm_kwargs": {"channels_per_group": _count(value)}},
    "depth": lambda value: {"model.depth": _count(value)},
}
"""Axes that may be given as a list of values; of any other the file says what its values mean."""


def _word(value: Any) -> str:
    if not isinstance(value, str):  # no and on are booleans to YAML
        raise ValueError(value)
    return value


def _count(value: Any) -> int:
    if not is_whole(value) or value < 1:
        raise ValueError(value)
    return int(value)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; YAML's true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def text_of(found: Mapping[str, Any], name: str, path: Any) -> str:
    """The text of this name; empty where there is none."""
    value = found.get(name) or ""
    if not isinstance(value, str):
        raise UsageError(f"{path}: {name}: expected text, found {value!r:.80}")
    return value


def mapping_of(found: Mapping[str, Any], name: str, where: str) -> dict[str, str]:
    """The names and values of a mapping; empty where there is none."""
    value = found.get(name) or {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}.{name}: expected a mapping, found {value!r:.80}")
    return {str(key): str(of) for key, of in value.items()}


def truth(found: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(found, bool):  # "no" in quotes would count as true
        raise UsageError(f"{where}: expected true or false, found {found!r:.80}")
    return found


def check_names(found: Any, names: Sequence[str], where: str) -> None:
    """Refuses what is not a mapping of these names."""
    unknown = [name for name in found if name not in names] if isinstance(found, Mapping) else [found]
    if unknown:
        raise UsageError(f"{where}: expected {', '.join(names)}, found {unknown[0]!r:.80}")
