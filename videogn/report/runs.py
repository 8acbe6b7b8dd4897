"""The runs of a report, read from their folders. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videogn.results import Evaluation, Training, VideoResult
from videogn.spec import ClipSpec


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


@dataclass(frozen=True)
class Run:
    """One run of a report. Its texts (names, paths, reasons) may hold anything: quotes, HTML, line breaks, lone
    surrogates of names that are not UTF-8.

    Attributes:
        name: short, and of this run alone among those of the report.
        given: the folder as the user named it.
        folder: where its files were found: ``given`` or a version in it.
        evaluation: what was evaluated, and how.
        clip: ``evaluation.clip``, read; None where the file does not say.
        class_names: of the evaluation, or the classes' numbers where it has no names; as many as there are classes.
        results: of all its videos, in data-set order.
        training: what training took; None where it was not found.
        curves: of ``metrics.csv``, by name (``"train/loss"``, ``"val/top1"`` ...); empty where it was not found.
        trained_in: folder that ``training`` and ``curves`` are from: ``folder``, or that of the run that wrote the
            checkpoint which was evaluated.
        norm: of its network, ``"gn"`` for example; ``"?"`` where the file does not say.
        differences: what is not the same for all runs of the report, by name (``"batch"``, ``"frames"`` ...); the same
            names for all runs, ``"–"`` where a run does not say.
    """

    name: str
    given: str
    folder: str
    evaluation: Evaluation
    clip: ClipSpec | None
    class_names: list[str]
    results: list[VideoResult]
    training: Training | None
    curves: dict[str, Curve]
    trained_in: str
    norm: str
    differences: dict[str, str]


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Reads the runs of a report, in the order given.

    Args:
        folders: each ``runs/NAME/version_N``, or ``runs/NAME``, of which the version with the highest number is taken
            that has an evaluation.

    Raises:
        UsageError: no such folder, or none with an evaluation; files that are damaged, do not belong together or are
            of videos without labels; runs of different classes; one folder twice.
    """
    raise NotImplementedError
