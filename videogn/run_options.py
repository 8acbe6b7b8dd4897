"""What the options of Lightning's trainer mean for the files of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from videogn.errors import UsageError


def folder_of_runs(trainer: Mapping[str, Any]) -> str:
    """The folder in which `--ckpt_path last` looks for runs: that in which a run with these options makes its own.

    Args:
        trainer: the options, parsed and not yet made objects of.

    Raises:
        UsageError: a logger that hides its folder.
    """
    root = str(trainer["default_root_dir"] or os.curdir)
    loggers = trainer["logger"]
    first = (loggers or [None])[0] if isinstance(loggers, list) else loggers
    if first is None or isinstance(first, bool):
        return root
    module, _, name = first["class_path"].rpartition(".")
    kind, options = getattr(import_module(module), name), first.get("init_args") or {}
    folder = options.get("save_dir") or options.get("root_dir")
    if options.get("sub_dir") or not (folder or issubclass(kind, CSVLogger | TensorBoardLogger)):
        raise UsageError(
            f"--ckpt_path last: expected to find this run's folder, but trainer.logger {name} does not say it in "
            "save_dir; name the checkpoint's file instead"
        )
    if not issubclass(kind, CSVLogger | TensorBoardLogger):  # these runs have no folders of their own
        return str(folder)
    version = options.get("version")
    version = f"version_{version}" if isinstance(version, int) else version or ""
    return os.path.join(folder or root, options.get("name") or "", version)


def check_trainer_options(trainer: Mapping[str, Any]) -> None:
    """Refuses what a run cannot do, before anything is computed.

    Args:
        trainer: the options that the Trainer is made of.

    Raises:
        UsageError: with the option to use instead.
    """
    if trainer.get("overfit_batches"):
        count = trainer["overfit_batches"]
        raise UsageError(
            f"--trainer.overfit_batches {count}: takes the samplers' place, by which each video counts once and no "
            "order depends on the processes. To train on few videos, name them in a list (--data.train_list); for "
            f"short epochs use --trainer.limit_train_batches {count}"
        )
    if not trainer.get("fast_dev_run") and not trainer.get("barebones"):
        _check_writable(trainer["default_root_dir"])


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuses or warns of callbacks of Lightning that would spoil what a run goes on from.

    Raises:
        UsageError: a second writer of ``last.ckpt``.
    """
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.save_last:
            raise UsageError(
                "--checkpoint.save_last: last.ckpt is written at every validation anyway, so that the run can go on "
                "exactly (see --resume.every_n_steps and --resume.keep); leave the option out"
            )
        if isinstance(callback, StochasticWeightAveraging):
            rank_zero_warn(
                "StochasticWeightAveraging stores no averages in checkpoints: a run with it that is interrupted does "
                "not go on exactly. EMAWeightAveraging (configs/ema.yaml) does."
            )


def keeps_checkpoints(trainer: Mapping[str, Any]) -> bool:
    """Whether the best weights are to be kept: Lightning refuses a callback for them where it is told not to."""
    return not trainer.get("barebones") and trainer.get("enable_checkpointing") is not False


def without_checkpoints(callbacks: list[Any]) -> list[Any]:
    """The callbacks but those that write checkpoints."""
    return [callback for callback in callbacks if not isinstance(callback, Checkpoint)]


def _check_writable(folder: str | os.PathLike[str]) -> None:
    """Refuses a place for runs that is read-only or a file."""
    there = Path(os.path.abspath(folder))
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"trainer.default_root_dir: expected a folder that can be written, found {there}")
