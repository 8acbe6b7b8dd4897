"""The runs of a study: which configuration, in which folder, in which order. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from videogn.study.grid import Cell, Study
from videogn.study.options import Options, digest, merged, option

Purpose = Literal["pretraining", "rate", "result"]


@dataclass(frozen=True)
class Run:
    """One run of `videogn fit`.

    Attributes:
        cell: whose.
        purpose: ``"pretraining"`` gives weights, ``"rate"`` helps to choose a learning rate, ``"result"`` counts.
        seed: ``seed_everything``.
        lr: ``model.recipe.lr``; None where it is not set, or not chosen yet.
        config: the whole configuration but for its folder.
        folder: of this run alone: its name ends in a digest of the configuration, in which the digest of a pre-training
            stands for the place of its weights, so that a study's folder can be moved.
    """

    cell: Cell
    purpose: Purpose
    seed: int
    lr: float | None
    config: Options = field(repr=False)
    folder: Path

    @property
    def text(self) -> str:
        """For people: ``gn, 4, seed 0``."""
        what = {"pretraining": ", pre-training", "rate": f", rate {self.lr:g}" if self.lr else "", "result": ""}
        return f"{self.cell.text()}{what[self.purpose]}, seed {self.seed}"

    @property
    def weights(self) -> Path:
        """What others start from when this run is done."""
        return self.folder / "version_0" / "checkpoints" / "last.ckpt"

    @property
    def digest(self) -> str:
        return self.folder.name.rpartition("-")[2]


def pretraining_runs(study: Study) -> dict[str, Run]:
    """The runs whose weights the cells start from, by the value of their axis; none where the study has none."""
    own = study.pretraining
    if own is None:
        return {}
    found = {}
    for value in study.axes[own.axis]:
        if value not in own.uses:
            cell = study.select({own.axis: value})[0]
            found[value] = _run(study, cell, "pretraining", own.seed, None, own.options, None)
    return {value: found[own.uses.get(value, value)] for value in study.axes[own.axis]}


def rate_runs(study: Study, weights: Mapping[str, Run]) -> list[Run]:
    """The runs that choose learning rates, all rates of a cell one after another."""
    if study.rates is None:
        return []
    own = study.rates
    return _each_once(
        _run(study, cell, "rate", own.seed, lr, own.options, _weights(study, cell, weights))
        for cell in study.cells
        if deciding_cell(study, cell) is cell
        for lr in own.values
    )


def deciding_cell(study: Study, cell: Cell) -> Cell:
    """The cell whose runs choose the learning rate of ``cell``: itself, but for the values that ``rates.at`` sets."""
    at = study.rates.at if study.rates else {}
    return study.select({**cell.values, **at})[0]


def result_runs(study: Study, weights: Mapping[str, Run], rates: Mapping[str, float]) -> list[Run]:
    """The runs that count, seed by seed, so that those of an unfinished study tell something of every cell.

    Args:
        study: which.
        weights: of :func:`pretraining_runs`.
        rates: learning rate by the name of the cell that chose it; cells without one take the configuration's.
    """

    def run(cell: Cell, seed: int) -> Run:
        rate = rates.get(deciding_cell(study, cell).name)
        found = _run(study, cell, "result", seed, rate, {}, _weights(study, cell, weights))
        return replace(found, lr=rate) if study.rates else found

    return _each_once(run(cell, seed) for seed in study.seeds for cell in study.cells)


def _each_once(runs: Iterable[Run]) -> list[Run]:
    """Cells that turn out to be the same have one folder, that of the first."""
    folders: dict[str, Path] = {}
    return [replace(run, folder=folders.setdefault(run.digest, run.folder)) for run in runs]


def _weights(study: Study, cell: Cell, weights: Mapping[str, Run]) -> Run | None:
    return weights[cell.values[study.pretraining.axis]] if study.pretraining else None


def _run(
    study: Study, cell: Cell, purpose: Purpose, seed: int, lr: float | None, options: Options, weights: Run | None
) -> Run:
    on_top: Options = {"seed_everything": seed}
    if lr is not None:
        on_top["model"] = {"recipe": {"lr": lr}}

    def starting_from(place: str | None) -> Options:
        initial = {"model": {"init_from": place}} if place else {}
        return merged(merged(merged(cell.config, initial), options), on_top)

    config = starting_from(str(weights.weights) if weights else None)
    name = f"{cell.name}_seed{seed}" if purpose == "result" else f"{cell.name}_{purpose}_seed{seed}"
    own = digest(starting_from(weights.digest if weights else None))
    folder = study.folder / "cells" / f"{name}-{own}"
    lr = option(config, "model.recipe.lr") if lr is None else lr
    return Run(cell, purpose, seed, lr, config, _existing(folder) or folder)


def _existing(folder: Path) -> Path | None:
    """The folder of the same run under the name that another study gave it: the digest says that it is the same."""
    return next(iter(sorted(folder.parent.glob(f"*-{folder.name.rpartition('-')[2]}"))), None)
