"""How much of its time training waits for data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from videogn.data.cores import available_cores
from videogn.data.loader import TimedLoader

LIMIT = 0.1
_WINDOW = 100  # steps after which the share is judged
_ENOUGH = 20  # steps at the end of an epoch
_AT_LEAST = 5  # steps at the end of training


@dataclass
class _Time:
    """Seconds of some steps, and how many of them were spent waiting."""

    steps: int = 0
    total: float = 0.0
    waited: float = 0.0

    def add(self, total: float, waited: float) -> None:
        self.steps += 1
        self.total += total
        self.waited += waited

    @property
    def share(self) -> float:
        return self.waited / self.total


class DataWait(Callback):
    """Log ``train/data_wait``, the share of training's time spent waiting for the next batch; warn above 10 %.

    Each logged value is about the steps since the last one; an epoch without one ends with one. A step lasts from the
    moment its batch is there to the moment the next one is, waiting included; validation and checkpoints in between
    count neither as time nor as waiting. The first batch after the workers' start is not counted, neither is that of a
    run that goes on from a checkpoint, in which the rest of an epoch counts as one. Under several processes each
    measures itself, and the figures are those of process 0.

    Nothing waits for the device. On a CUDA device the host runs ahead until the launch queue is full, or until a value
    is read back, which makes it as slow as the device: waiting is zero as long as the loader is the faster of the two,
    and is the difference between them otherwise.

    The warning comes once, after 100 steps, at the end of an epoch or of training. It needs the loaders of
    :class:`~videogn.data.datamodule.KineticsDataModule`; with others nothing is measured.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loader: Any = None
        self._waited = 0.0  # by the loader, when the step began
        self._start = self._end = 0.0
        self._pause = False  # validation or a checkpoint came after the step
        self._logged_step = self._first_step = trainer.global_step  # a run that goes on may begin within an epoch
        self._logged, self._judged = _Time(), _Time()
        self._warned = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        loader: Any = trainer.train_dataloader
        if not isinstance(loader, TimedLoader):
            return
        now = time.perf_counter()
        if loader is self._loader:
            waited = loader.waited - self._waited
            total = self._end - self._start + waited if self._pause else now - self._start
            self._logged.add(total, waited)
            self._judged.add(total, waited)
            self._judge(trainer, _WINDOW)
        self._loader, self._waited, self._start, self._pause = loader, loader.waited, now, False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end = time.perf_counter()
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0 and step != self._logged_step and self._logged.steps:
            # A tensor on the host: of a number, Lightning makes one on the device, and waits for it.
            pl_module.log("train/data_wait", torch.tensor(self._logged.share), on_step=True, on_epoch=False)
            self._logged, self._logged_step = _Time(), step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._pause = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause = True
        if self._logged.steps and self._logged_step <= self._first_step:
            share = torch.tensor(self._logged.share)
            pl_module.log("train/data_wait", share, on_step=False, on_epoch=True, batch_size=1, rank_zero_only=True)
            self._logged = _Time()
        self._judge(trainer, _ENOUGH)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._judge(trainer, _AT_LEAST)

    def _judge(self, trainer: Trainer, steps: int) -> None:
        """Warns if training waited too long in the last ``steps`` steps or more."""
        if self._judged.steps < steps:
            return
        if self._judged.share > LIMIT and not self._warned:
            self._warned = True
            rank_zero_warn(_advice(self._judged, self._loader.num_workers, _cores(trainer)))
        self._judged = _Time()


def _cores(trainer: Trainer) -> int:
    """Cores per training process."""
    return max(1, available_cores() // trainer.num_devices)


def _advice(found: _Time, workers: int, cores: int) -> str:
    text = (
        f"training waited for data {found.share:.0%} of the time ({found.steps} steps; expected at most {LIMIT:.0%}; "
        "train/data_wait shows it over time). "
    )
    if workers == 0 and cores > 1:
        return text + (
            "With data.num_workers 0 reading and training take turns: leave the option out, or set it to "
            f"{cores - 1} (cores for this process: {cores})."
        )
    if workers < cores - 1:
        return text + f"Raise data.num_workers from {workers} to {cores - 1} (cores for this process: {cores})."
    return text + (
        f"data.num_workers is {workers} with {cores} cores for this process: more would not help. Make the videos "
        "smaller once (`videogn data resize`), put them on a faster disk, or use a machine with more cores."
    )
