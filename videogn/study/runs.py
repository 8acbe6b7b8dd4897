"""The runs of a study: which configuration, in which folder, in which order. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from videogn.study.grid import Cell
from videogn.study.options import Options

Purpose = Literal["pretraining", "rate", "result"]


@dataclass(frozen=True)
class Run:
    """One run of `videogn fit`.

    Attributes:
        cell: whose.
        purpose: ``"pretraining"`` gives weights, ``"rate"`` helps to choose a learning rate, ``"result"`` counts.
        seed: ``seed_everything``.
        lr: ``model.recipe.lr``.
        config: the whole configuration but for its folder.
        folder: of this run alone: its name ends in a digest of the configuration.
    """

    cell: Cell
    purpose: Purpose
    seed: int
    lr: float | None
    config: Options = field(repr=False)
    folder: Path
