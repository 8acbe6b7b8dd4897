"""Studies with made-up results: what tables, figures and pages are made of, without a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videogn.report.curves import Curve
from videogn.results import Training
from videogn.study.grid import Cell, Reported, Study
from videogn.study.outcomes import CellResult, Outcome
from videogn.study.runs import Run


def make_study(axes: Mapping[str, Sequence[str]], seeds: Sequence[int] = (0, 1, 2, 3, 4), **fields: Any) -> Study:
    """A study of these axes: the first has the lines, the last is ``x``."""
    cells = tuple(Cell(dict(zip(axes, values, strict=True)), {}) for values in itertools.product(*axes.values()))
    given: dict[str, Any] = {
        "name": "made",
        "title": "Made-up results",
        "cells": cells,
        "axes": {axis: tuple(values) for axis, values in axes.items()},
        "seeds": tuple(seeds),
        "rates": None,
        "pretraining": None,
        "claims": (),
        "reported": (),
        "x": list(axes)[-1],
        "lines": next(iter(axes)),
        "folder": Path("runs/study"),
        "checkpoints": False,
        "notes": (),
    }
    return Study(**{**given, **fields})


def make_outcome(cell: Cell, seed: int, error: float, *, epochs: int = 6, features: Sequence[int] = ()) -> Outcome:
    """A finished run of ``error`` per video in %; of its clips in validation, 2 more after the last epoch."""
    rng = np.random.default_rng(seed + 100 * round(error))
    steps = 40 * np.arange(1, epochs + 1) - 1
    falling = (88 - error) * np.exp(-4.5 * np.arange(1, epochs + 1) / epochs)
    falling[-1] = 0
    noise = np.where(np.arange(epochs) < epochs - 1, rng.normal(0, 1.2, epochs), 0)
    val = 1 - np.minimum(error + 2 + falling + noise, 100) / 100
    train = 1 - np.clip(0.6 * error + 1.05 * falling + noise, 0, 100) / 100
    curves = {
        name: Curve(steps, np.arange(epochs, dtype=float), values)
        for name, values in (("train/top1", train), ("val/clip_top1", val))
    }
    often = np.arange(9, 40 * epochs, 10)
    for p in features:
        values = (p - 50) / 25 * (1 + np.log1p(often / 30)) + rng.normal(0, 0.1, len(often))
        curves[f"features/p{p:02d}"] = Curve(often, often // 40 * 1.0, values)
    top1 = 1 - error / 100
    scores = {"top1": top1, "top5": min(1.0, top1 + 0.1), "clip_top1": top1 - 0.02, "clip_top5": 0.99, "loss": 0.9}
    folder = Path("runs/study/cells") / f"{cell.name}_seed{seed}-1a2b3c4d"
    run = Run(cell, "result", seed, 0.003, {}, folder)
    training = Training(clips=2400, seconds=95.0, device="cpu", versions={"torch": "2.15.0"})
    return Outcome(run, "done", scores, curves, training, 100.0 + seed)


def make_results(
    study: Study, error: Callable[[Mapping[str, str], int], float | None], **options: Any
) -> list[CellResult]:
    """Results of all cells; a run whose ``error(values, seed)`` is None is missing."""
    results = []
    for cell in study.cells:
        errors = [(seed, error(cell.values, seed)) for seed in study.seeds]
        outcomes = tuple(make_outcome(cell, seed, e, **options) for seed, e in errors if e is not None)
        results.append(CellResult(cell, 0.003, outcomes, len(study.seeds) - len(outcomes)))
    return results


def batch_study(**fields: Any) -> Study:
    return make_study({"norm": ["bn", "brn", "gn"], "batch_size": ["8", "4", "2", "1"]}, **fields)


def batch_error(values: Mapping[str, str], seed: int) -> float:
    """BN's error grows as the batch shrinks, GN's does not."""
    rise = {"bn": 9.0, "brn": 4.5, "gn": 0.3}[values["norm"]]
    rng = np.random.default_rng([seed, ["bn", "brn", "gn"].index(values["norm"]), int(values["batch_size"])])
    return float(15 + rise * (3 - np.log2(int(values["batch_size"]))) + rng.normal(0, 1.5))


REPORTED = [
    Reported({"norm": norm, "setting": setting}, top1, top5, "Group Normalization, Table 8, Kinetics-400")
    for norm, setting, top1, top5 in (
        ("bn", "32x2, 8", 73.3, 90.7),
        ("gn", "32x2, 8", 73.0, 90.6),
        ("bn", "32x2, 4", 72.1, 90.0),
        ("gn", "32x2, 4", 72.8, 90.6),
        ("bn", "64x1, 4", 73.3, 90.8),
        ("gn", "64x1, 4", 74.5, 91.7),
    )
]
NORMS = ["bn", "gn", "ln", "in", "brn", "frozen_bn", "sub_bn", "gn_ws", "bn, precise", "sync"]


def table8_study(**fields: Any) -> Study:
    axes = {"norm": NORMS, "setting": ["32x2, 8", "32x2, 4", "64x1, 4"]}
    return make_study(axes, **{"reported": tuple(REPORTED), **fields})


def table8_error(values: Mapping[str, str], seed: int) -> float:
    rng = np.random.default_rng([seed, NORMS.index(values["norm"]), len(values["setting"])])
    return float(24 + NORMS.index(values["norm"]) * 1.3 + rng.normal(0, 0.8))
