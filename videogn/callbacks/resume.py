"""Checkpoints from which a run goes on as if it had not been interrupted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from videogn.callbacks import generators
from videogn.callbacks.checkpoint_io import CheckpointFiles
from videogn.callbacks.exchange import of_all
from videogn.callbacks.fingerprint import listed
from videogn.callbacks.loop_state import finish_restart, settle
from videogn.callbacks.records import leaves_files, run_folder
from videogn.checkpoint_files import FOLDER
from videogn.errors import UsageError
from videogn.loggers import positions, rewind

KEY = "videogn_resume"
LAST = "last.ckpt"


class ResumePoints(Callback):
    """Writes ``checkpoints/last.ckpt`` into the run's folder, and goes on exactly from such a checkpoint.

    It is written before a batch is used, when everything about the batches before it is done and logged; at the
    beginning of each validation but those within an optimiser step, which is run again as a whole if it is interrupted;
    and at the end of training. Beside what Lightning stores it holds the states of all processes' random generators, of
    the metrics of the running epoch, and how far the loggers were. A run that goes on from it computes, on the same
    hardware with as many threads, the same weights and writes the same metrics, to the bit, with any number of workers.

    Every other checkpoint of the run holds the same, so that a run can go on from its best one, too; the figures that
    are logged at the end of that epoch are then left to the run that wrote it. From one that was written within an
    optimiser step, the batches of that step are done again.

    Has to come before the other callbacks, which might draw random numbers or change weights before it saves.

    Args:
        every_n_steps: optimiser steps between two of these checkpoints; null leaves it to the time.
        every_n_minutes: minutes between them; null leaves it to the steps. Each validation has one in any case.
        keep: how many are kept: the one before last.ckpt is last-1.ckpt.

    Attributes:
        begin: optimiser steps of the checkpoint that this process has found to go on from, if its caller knows; None
            without one. All processes must have found the same.
    """

    def __init__(self, every_n_steps: int | None = None, every_n_minutes: float | None = 10.0, keep: int = 2) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("keep", keep)):
            if value is not None and value < 1:
                raise ValueError(f"resume.{name}: expected at least 1, found {value}")
        if every_n_minutes is not None and not every_n_minutes > 0:
            raise ValueError(f"resume.every_n_minutes: expected more than 0, or null, found {every_n_minutes:g}")
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.keep = keep
        self.begin: int | None = None
        self._stored: dict[str, Any] | None = None  # of the checkpoint that the run goes on from
        self._pending: dict[str, Any] | None = None  # states of generators that are put back with the first batch
        self._validation = False
        self._max_steps = -1
        self._left_out = False
        self._clock = _Clock()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stored = self._pending = None
        every = of_all(self.begin) if stage == "fit" else []
        if len(set(every)) > 1:
            steps = ", ".join("none" if step is None else str(step) for step in every)
            raise UsageError(
                f"--ckpt_path: expected the same checkpoint in all processes, found one after {steps} steps: the runs' "
                "folder (trainer.default_root_dir) has to be on a disk that all machines share"
            )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # which knows no ``keep``
            trainer.strategy.checkpoint_io = CheckpointFiles()

    # -- saving ----------------------------------------------------------------------------------------------------

    def save(self, trainer: Trainer) -> None:
        """Writes ``last.ckpt``, in all processes together; in ``on_train_batch_start``, before the batch is used."""
        if not leaves_files(trainer):
            return
        folder = os.path.join(run_folder(trainer), FOLDER)
        trainer.save_checkpoint(os.path.join(folder, LAST), weights_only=False, storage_options={"keep": self.keep})
        self._clock.saved(trainer.global_step)

    @property
    def saved_step(self) -> int:
        """Optimiser steps that ``last.ckpt`` has; 0 before there is one."""
        return self._clock.step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._put_back(trainer)
        if batch_idx % trainer.accumulate_grad_batches == 0 and self._due(trainer):
            self.save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self._pending is not None:  # this is where the checkpoint is from
            self._put_back(trainer)
            return
        if trainer.fit_loop._should_accumulate():  # within a step, whose gradients no checkpoint holds
            return
        self._validation = True
        try:
            self.save(trainer)
        finally:
            self._validation = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._left_out:
            loop = trainer.fit_loop.epoch_loop
            loop.val_loop._has_run = loop.restarting = self._left_out = False
            loop.max_steps = self._max_steps

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def _due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        if step == self._clock.step:
            return False
        if self.every_n_steps is not None and step % self.every_n_steps == 0:
            return True
        return self.every_n_minutes is not None and self._clock.due(trainer, step, 60 * self.every_n_minutes)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        batches = settle(checkpoint["loops"]["fit_loop"], trainer.accumulate_grad_batches, self._validation)
        metrics = {
            name: {state: _sum(trainer, value) for state, value in metric.metric_state.items()}
            for name, metric in _epoch_metrics(pl_module).items()
        }
        checkpoint[KEY] = {
            "batches": batches,
            "validation": self._validation,
            "order": _order(trainer),
            "generators": of_all(generators.states(trainer.strategy.root_device)),
            "metrics": metrics if batches else None,
            "loggers": positions(trainer.loggers) if trainer.is_global_zero else None,
        }

    # -- going on --------------------------------------------------------------------------------------------------

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        if "current_model_state" in checkpoint and not any(isinstance(c, WeightAveraging) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise UsageError(
                f"--ckpt_path {trainer.ckpt_path}: this run averages its weights, and would go on from the averages. "
                "Add the same callback of WeightAveraging again, for example -c configs/ema.yaml; or start a run from "
                "the averages with --model.init_from."
            )
        stored = checkpoint.get(KEY)
        if stored is None:
            return
        folder = os.path.join(run_folder(trainer), FOLDER)
        with _entries_of(trainer):
            _check_same_order(trainer, stored)
            stored = stored | {"batches": int(stored["batches"]), "validation": bool(stored["validation"])}
            self._stored = self._pending = stored
            if trainer.is_global_zero and Path(str(trainer.ckpt_path)).parent.resolve() == Path(folder).resolve():
                rewind(trainer.loggers, stored["loggers"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._max_steps = trainer.max_steps
        if self._stored is not None and self._stored["validation"] and trainer.max_steps != -1:
            # Of a run that has made all its steps, Lightning would leave out the validation.
            trainer.fit_loop.epoch_loop.max_steps += 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = _Clock(trainer.global_step)
        if self._stored is None:
            _seed_by_rank(trainer)
            return
        self._left_out = finish_restart(trainer, self._stored["batches"], self._stored["validation"])
        if self._left_out and not trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        if self._stored["metrics"] is not None:
            for name, metric in _epoch_metrics(pl_module).items():
                if trainer.is_global_zero:  # the sums of all processes
                    with _entries_of(trainer):
                        for state, value in self._stored["metrics"].get(name, {}).items():
                            metric.metric_state[state].copy_(value)
                metric._update_count = 1
        rank_zero_info(
            f"going on in epoch {trainer.current_epoch}, after {self._stored['batches']} of its "
            f"{trainer.num_training_batches} batches, step {trainer.global_step}"
        )
        self._stored = None

    def _put_back(self, trainer: Trainer) -> None:
        """Gives the generators their states, if that is where the checkpoint is from, and counts steps as before."""
        if self._pending is not None:
            with _entries_of(trainer):
                every = self._pending["generators"]
                if trainer.global_rank < len(every):
                    generators.restore(every[trainer.global_rank], trainer.strategy.root_device)
                else:
                    _seed_by_rank(trainer)
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
            self._pending = None


class _Clock:
    """Whether it is time again, by the clock of process 0. It is asked seldom, as a question stops all processes."""

    def __init__(self, step: int = 0) -> None:
        self.step = step  # optimiser steps at the last checkpoint
        self._time = time.monotonic()
        self._ask = 0

    def saved(self, step: int) -> None:
        self.step, self._time, self._ask = step, time.monotonic(), step + 1

    def due(self, trainer: Trainer, step: int, seconds: float) -> bool:
        if step < self._ask:
            return False
        gone = trainer.strategy.broadcast(time.monotonic() - self._time)
        done = max(1, step - self.step)
        left = (seconds - gone) * done / max(gone, 1e-9)
        # As late as the pace says, but at most twice as far as it was watched.
        self._ask = step + max(1, int(min(left, done)))
        return bool(gone >= seconds)


@contextlib.contextmanager
def _entries_of(trainer: Trainer) -> Iterator[None]:
    """What goes wrong with entries of the checkpoint is told as an error of that file."""
    try:
        yield
    except UsageError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(
            f"{trainer.ckpt_path}: {KEY}: expected entries as this program writes them, found others ({reason:.200}); "
            "the file is damaged, or of another version"
        ) from error


def _seed_by_rank(trainer: Trainer) -> None:
    """Each process drops out features of its own."""
    if trainer.global_rank:
        torch.manual_seed(torch.initial_seed() + trainer.global_rank)


def _check_same_order(trainer: Trainer, stored: dict[str, Any]) -> None:
    """Refuses to go on in the middle of an epoch whose remaining batches would be others."""
    if not stored["batches"]:
        return
    for option, found in _order(trainer).items():
        expected = stored["order"].get(option, found)
        if expected != found:
            raise UsageError(
                f"--ckpt_path {trainer.ckpt_path}: {option}: expected {expected}, as when the checkpoint was "
                f"written in the middle of an epoch, found {found}: the rest of this epoch would be other clips. Use "
                "the same data, seed and batch, or go on from a checkpoint of the end of an epoch (best-....ckpt)."
            )


def _order(trainer: Trainer) -> dict[str, int | str]:
    """What decides which clips a batch has; nothing is known of data from elsewhere."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not all(hasattr(data, name) for name in ("batch_size", "index", "seed")):
        return {}
    videos = data.index("train")
    return {
        "data.batch_size x processes": data.batch_size * trainer.world_size,
        "data.root: videos of the training split": len(videos),
        "data.root: names and labels of these videos (hash)": listed(videos),
        "data.seed": data.seed,
    }


def _epoch_metrics(module: Any) -> dict[str, Any]:
    return dict(getattr(module, "epoch_metrics", {}).items())


def _sum(trainer: Trainer, value: Any) -> torch.Tensor:
    total: torch.Tensor = trainer.strategy.reduce(value.clone(), reduce_op="sum")
    return total.cpu()
