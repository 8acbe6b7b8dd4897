"""What a run logged while it trained, from ``metrics.csv``."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videogn.errors import UsageError

METRICS_FILE = "metrics.csv"
_AXES = ("step", "epoch")
_PERCENTILE = re.compile(r"features/p(\d{1,3})")
_MOST_STEPS = 2**53  # exact as a float


@dataclass(frozen=True)
class Curve:
    """A column of ``metrics.csv``: the numbers that were logged under one name.

    Attributes:
        steps: (n,) int64, optimiser steps, rising, each once; of a step that was logged more than once (a run that was
            continued from an earlier checkpoint), what came last.
        epochs: (n,) float64, nan where the file does not say.
        values: (n,) float64, nan where the logged number was not finite.
    """

    steps: NDArray[np.int64]
    epochs: NDArray[np.float64]
    values: NDArray[np.float64]


def read_curves(folder: str) -> dict[str, Curve]:
    """The columns of a run's ``metrics.csv``, by name; none where it has no such file.

    Cells that hold no number are left out, such as the last one of a run that was killed while it wrote.

    Raises:
        UsageError: the file cannot be read, or has no column ``step``.
    """
    path = os.path.join(folder, METRICS_FILE)
    found: dict[str, dict[int, tuple[float, float]]] = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or ()
            if names and "step" not in names:
                raise UsageError(f"{path}: expected a column named step, found {', '.join(names):.200}")
            for row in rows:
                step = _number(row, "step")
                if step is None or not 0 <= step <= _MOST_STEPS:
                    continue
                epoch = _number(row, "epoch")
                for name in names:
                    if name not in _AXES and (value := _number(row, name)) is not None:
                        found.setdefault(name, {})[int(step)] = (
                            math.nan if epoch is None or math.isinf(epoch) else epoch,
                            value if math.isfinite(value) else math.nan,
                        )
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except csv.Error as error:
        raise UsageError(f"{path}: is not a table of comma-separated values ({error})") from error
    return {name: _curve(points) for name, points in found.items()}


def percentiles(curves: Mapping[str, Curve]) -> dict[int, Curve]:
    """The curves that :class:`~videogn.callbacks.FeaturePercentiles` logged, by percentile, from the highest down."""
    found = {int(match[1]): curves[name] for name in curves if (match := _PERCENTILE.fullmatch(name))}
    return {p: found[p] for p in sorted(found, reverse=True) if np.isfinite(found[p].values).any()}


def _curve(points: Mapping[int, tuple[float, float]]) -> Curve:
    steps = sorted(points)
    both = np.array([points[step] for step in steps], dtype=np.float64)
    return Curve(np.array(steps, dtype=np.int64), both[:, 0], both[:, 1])


def _number(row: Mapping[str, str | None], name: str) -> float | None:
    try:
        return float(row.get(name) or "")
    except (ValueError, TypeError):  # a row of more cells than columns has a list
        return None
