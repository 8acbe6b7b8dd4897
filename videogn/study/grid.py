"""What a study is: the cells of a grid over a base configuration, seeds, claims. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videogn.study.claims import Claim
from videogn.study.options import Options, option


@dataclass(frozen=True)
class Cell:
    """One place of the grid.

    Attributes:
        values: the name of its value on each axis, in the order of the axes: ``{"norm": "gn", "batch_size": "4"}``.
        config: the configuration of `videogn fit`, without a seed.
    """

    values: dict[str, str]
    config: Options = field(repr=False)

    @property
    def name(self) -> str:
        """Fit for a file: ``gn_4``."""
        return "_".join(map(file_word, self.values.values()))

    def text(self) -> str:
        """For people: ``gn, 4``."""
        return ", ".join(self.values.values())


@dataclass(frozen=True)
class Rates:
    """Learning rates of which the best is taken for each cell, on a seed that is not among the study's.

    Attributes:
        values: of ``model.recipe.lr``.
        seed: of the runs that choose.
        at: values of axes at which alone rates are chosen; the other cells take those of the cell that has these
            values and is otherwise theirs, scaled by the linear rule where the recipe has ``lr_clips``.
        options: of the runs that choose alone, such as other videos.
    """

    values: tuple[float, ...]
    seed: int
    at: dict[str, str] = field(default_factory=dict)
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Pretraining:
    """Runs whose last weights the cells start from, one for each value of an axis.

    Attributes:
        axis: whose values have weights each.
        options: of these runs, on top of the base configuration.
        uses: value -> another value whose weights it takes, as ``frozen_bn`` takes those of ``bn``.
        seed: of these runs.
    """

    axis: str
    options: Options
    uses: dict[str, str]
    seed: int = 0


@dataclass(frozen=True)
class Reported:
    """A published result.

    Attributes:
        values: its value on each axis; one that the study has not is shown without a result of the study's own.
        top1: in %, per video (or per picture, if the source says so).
        top5: in %; None where none was published.
        source: publication and table, and the data if they are not Kinetics-400.
    """

    values: dict[str, str]
    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True)
class Study:
    """A study's file, read and checked.

    Attributes:
        name: of the file, without its ending.
        title: one line.
        cells: all places of the grid, the last axis fastest.
        axes: names of the values of each axis, in order.
        seeds: of each cell's runs.
        rates: None takes the configuration's learning rate.
        pretraining: None starts as the configuration says.
        claims: what the study tests.
        reported: published results to stand beside the study's own.
        x: the axis that the figures have as theirs.
        lines: the axis whose values are the figures' lines; the same as ``x`` if there is no other.
        folder: of all studies' runs; a run that two studies share is run once.
        checkpoints: False removes a run's checkpoints when it is finished.
        notes: paragraphs for the page and the table: what the study is, and what it is not.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    axes: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    rates: Rates | None
    pretraining: Pretraining | None
    claims: tuple[Claim, ...]
    reported: tuple[Reported, ...]
    x: str
    lines: str
    folder: Path
    checkpoints: bool
    notes: tuple[str, ...]

    def select(self, where: Mapping[str, str]) -> list[Cell]:
        """The cells that have these values; all of them for an empty mapping."""
        return [cell for cell in self.cells if all(cell.values[axis] == value for axis, value in where.items())]


def file_word(value: str) -> str:
    """The name of a value, fit for a file; without ``_``, which joins several."""
    word = "".join(c if c.isalnum() or c in ".-" else "-" for c in value)
    return word.strip("-").replace("--", "-")


def clips_per_step(config: Mapping[str, Any]) -> int:
    """Clips per optimiser step of one process, as far as the configuration says."""
    own = option(config, "model.recipe.clips_per_step")
    return int(
        own or (option(config, "data.batch_size") or 8) * (option(config, "trainer.accumulate_grad_batches") or 1)
    )
