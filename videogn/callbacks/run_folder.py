"""A folder for each run, and a run for each folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from videogn.callbacks.records import leaves_files, run_folder
from videogn.data.files import lock_folder
from videogn.loggers import EventFiles, MetricsTable

_LOCK_SECONDS = 20.0  # for a run that was killed to end with all its processes


class RunFolder(Callback):
    """Keeps the run's folder for this run alone.

    Of two runs that go on from the same checkpoint, the second one waits for a while, and then ends. Where the file
    system has no locks, as some network ones, they are not kept apart.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not leaves_files(trainer):
            return
        folder = run_folder(trainer)
        if stage == "fit" and trainer.is_global_zero and self._descriptor is None:
            os.makedirs(folder, exist_ok=True)
            self._descriptor = lock_folder(folder, "another run", _LOCK_SECONDS)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "")


def make_new_folder(loggers: Sequence[Logger]) -> None:
    """Makes the folder that this project's loggers share, with the next version that is free.

    Runs that start at the same moment, as those of a job array do, see the same version to be free: the first to make
    its folder has it. To be called before the loggers are told anything; does nothing in processes but the first.
    """
    own: list[Any] = [logger for logger in loggers if isinstance(logger, MetricsTable | EventFiles)]
    while own and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        with contextlib.suppress(FileExistsError):
            os.makedirs(own[0].log_dir)
            return
        version = int(own[0].version) + 1
        for logger in own:
            logger._version = version
