"""``videogn fit | validate | test | predict``: LightningCLI with this project's defaults and checkpoint rules."""

from __future__ import annotations

import inspect
import logging
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from videogn import checkpoint as checkpoint_format
from videogn.callbacks import (
    AverageStatistics,
    BadVideos,
    CheckpointFiles,
    DataWait,
    FailTogether,
    NonFinite,
    OwnFiles,
    PredictionsWriter,
    ResumePoints,
    RunFolder,
    RunSummary,
    Scores,
    StopSignals,
    TrainingRecord,
    WatchFirst,
    end_children,
    make_new_folder,
)
from videogn.callbacks.records import leaves_files
from videogn.checkpoint_files import find_last
from videogn.checkpoint_files import read as read_checkpoint
from videogn.checkpoint_storage import lost_folder
from videogn.data.datamodule import KineticsDataModule
from videogn.errors import UsageError
from videogn.launching import check_processes
from videogn.loggers import EventFiles, MetricsTable
from videogn.module import VideoClassifier
from videogn.run_options import (
    check_callbacks,
    check_trainer_options,
    folder_of_runs,
    keeps_checkpoints,
    without_checkpoints,
)
from videogn.spec import Protocol
from videogn.stopping import Stopped
from videogn.video_parser import VideoParser
from videogn.weights import read_source

log = logging.getLogger(__name__)

# Lightning's remarks on what this command does on purpose.
_NOISE = (
    "LightningCLI's args parameter is intended to run from within Python",
    "Checkpoint directory .* exists and is not empty",  # of a run that goes on
    "It is recommended to use `self.log",  # the metric has exchanged its states itself, counting each video once
    "The dirpath has changed from",  # a resumed run writes into a folder of its own
    r"Found \d+ module\(s\) in eval mode",  # stages that are frozen
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
_END_SECONDS = 30.0  # for the processes that Lightning has started to end when this one does; and when it fails:
_FAILED_SECONDS = 5.0
_USAGE = "videogn {command} [-c CONFIG.yaml ...] [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]"


class VideoCLI(LightningCLI):
    """LightningCLI in which options of the command line beat those of a checkpoint, and never the other way round."""

    data_class: type[KineticsDataModule] = KineticsDataModule

    def __init__(self, args: Sequence[str] | None) -> None:
        self._arguments = list(args) if args is not None else None
        self._resumed: Path | None = None  # the checkpoint that `--ckpt_path last` stands for
        self._begin: int | None = None  # optimiser steps of the checkpoint
        super().__init__(
            VideoClassifier,
            self.data_class,
            args=self._arguments,
            seed_everything_default=0,
            # Samplers here are exact on their own; Lightning's would pad the evaluation.
            trainer_defaults={"use_distributed_sampler": False, "default_root_dir": "runs"},
            save_config_kwargs={"overwrite": True},
            parser_class=VideoParser,
            parser_kwargs={
                # An abbreviation that is taken silently is a misspelling that is taken silently.
                "allow_abbrev": False,
                **{name: {"usage": self.usage(name), "allow_abbrev": False} for name in self.subcommands()},
            },
        )

    def usage(self, command: str) -> str:
        """The first line of the help, and of what is printed above an error."""
        return _USAGE.format(command=command)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {
            name: options
            for name, options in LightningCLI.subcommands().items()
            if name in ("fit", "validate", "test", "predict")
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ResumePoints, "resume")
        parser.add_lightning_class_args(NonFinite, "non_finite")
        parser.add_lightning_class_args(BadVideos, "bad_videos")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/top1",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best-epoch{epoch}-top1_{val/top1:.4f}",
                "checkpoint.auto_insert_metric_name": False,
                # A checkpoint that is written again after an interruption is the same one.
                "checkpoint.enable_version_counter": False,
                **{f"data.clip.protocol.{name}": None for name in self._from_preset()},
            }
        )

    def _from_preset(self) -> list[str]:
        """Fields of the default protocol that are its preset's: left open, so that another preset can fill them."""
        protocol = self._default_protocol()
        preset = Protocol(protocol.preset)
        return [name for name in vars(preset) if getattr(protocol, name) == getattr(preset, name) and name != "preset"]

    def _default_protocol(self) -> Protocol:
        protocol: Protocol = inspect.signature(self.data_class).parameters["clip"].default.protocol
        return protocol

    def _parse_ckpt_path(self) -> None:
        """Take the network from the checkpoint as *defaults*, and parse the command again on top of them.

        LightningCLI applies the checkpoint's values last, so that they silently beat explicit options.
        """
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if subcommand and self.config[subcommand].get("weights_only") is False:
            raise UsageError(
                "--weights_only false: a checkpoint could then run code; those of this program load without. Leave the "
                "option out."
            )
        if subcommand == "fit" and path == "last":
            folder = folder_of_runs(self.config[subcommand].trainer.as_dict())
            self._resumed = find_last(folder, rank_zero_only(log.warning))
            path = self._resumed and str(self._resumed)
            if path is None:
                rank_zero_info("--ckpt_path last: there is no checkpoint yet; the run starts")
        if not path or not (Path(path).exists() or os.sep in str(path) or str(path).endswith(".ckpt")):
            if path:
                expected = "last, or the checkpoint of a run" if subcommand == "fit" else "a file or folder of weights"
                raise UsageError(f"--ckpt_path {path}: expected {expected}, found none of this name")
            if subcommand not in (None, "fit") and self.config[subcommand].model.init_from is None:
                rank_zero_info("no --ckpt_path and no --model.init_from: it is random weights that are evaluated")
            self._parse_init_from(subcommand)
            return
        stored = read_checkpoint(path)
        self._begin = stored.get("global_step")
        if subcommand == "fit" and not checkpoint_format.holds_run(stored):
            raise UsageError(
                f"--ckpt_path {path}: these are weights without the state of a run that could go on; to start from "
                f"them, use --model.init_from {path}"
            )
        architecture = stored[checkpoint_format.KEY]["architecture"]
        clip = stored[checkpoint_format.KEY]["clip"]
        defaults = {f"model.{name}": architecture[name] for name in checkpoint_format.ARCHITECTURE}
        stored_clip = dict(clip or {})
        protocol = stored_clip.pop("protocol", {})
        defaults |= {f"data.clip.{name}": value for name, value in stored_clip.items()}
        asked_preset = self.config[subcommand].data.clip.protocol.preset
        if asked_preset == self._default_protocol().preset:  # one that is asked for replaces all of it
            defaults |= {f"data.clip.protocol.{name}": value for name, value in protocol.items()}
        self._parser(subcommand).set_defaults(defaults)
        self.parse_arguments(self.parser, self._arguments)
        asked = self.config[subcommand].model.as_dict()
        checkpoint_format.require_same_architecture(architecture, asked, path)

    def _parse_init_from(self, subcommand: str) -> None:
        """Take mean and std of the pixels from the file of weights as defaults; conflicts are refused at the start."""
        model = self.config[subcommand].model
        if model.init_from is None:
            if model.freeze_stages:
                raise UsageError(
                    f"--model.freeze_stages {model.freeze_stages}: the stages would keep random weights; set "
                    "--model.init_from to the weights that they should keep"
                )
            for name in ("convert_norm", "init_ignore"):
                if model[name]:
                    raise UsageError(
                        f"--model.{name}: says how a file of weights is taken, but there is none; set "
                        "--model.init_from, or leave the option out"
                    )
            return
        pixels = read_source(model.init_from).pixels
        if pixels is not None:
            mean, std = map(list, pixels)
            self._parser(subcommand).set_defaults({"data.clip.mean": mean, "data.clip.std": std})
            self.parse_arguments(self.parser, self._arguments)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except MisconfigurationException as error:
            accelerator = self.config[self.subcommand].trainer.accelerator
            if accelerator in ("gpu", "cuda", "mps", "tpu"):
                raise UsageError(
                    f"--trainer.accelerator: asked for {accelerator!r}, but this machine has none that torch can use "
                    f"({error}). Leave the option out to take what there is, or set it to cpu."
                ) from error
            raise UsageError(str(error)) from error
        except ValueError as error:
            raise UsageError(str(error)) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        config["default_root_dir"] = config["default_root_dir"] or os.curdir  # as null is for Lightning
        check_trainer_options(config)
        check_callbacks([*callbacks, *(config["callbacks"] or [])])
        if not keeps_checkpoints(config):
            callbacks = without_checkpoints(callbacks)
        points = [callback for callback in callbacks if isinstance(callback, ResumePoints)]
        for callback in points:
            callback.begin = self._begin
        together = FailTogether()
        # Before all others: see there.
        first = [WatchFirst(together), RunFolder(), *points, *map(StopSignals, points)]
        config["callbacks"] = [*first, *(config["callbacks"] or [])]
        callbacks = [callback for callback in callbacks if callback not in points]
        summary = RunSummary()
        records = [PredictionsWriter(), TrainingRecord(summary)]
        callbacks = [OwnFiles(), summary, DataWait(), AverageStatistics(), *records, Scores(), *callbacks]
        if config["logger"] is True or (config["logger"] is None and not config.get("barebones")):
            table = MetricsTable(config["default_root_dir"], self._resumed_version())
            config["logger"] = [EventFiles(table.save_dir, table.version), table]
        if config["logger"] and not config.get("fast_dev_run"):
            callbacks.append(LearningRateMonitor("step"))
        callbacks.append(together)
        trainer = super()._instantiate_trainer(config, callbacks)
        trainer.strategy.checkpoint_io = CheckpointFiles()
        return trainer

    def _resumed_version(self) -> int | None:
        """The number of the run's folder that `--ckpt_path last` goes on in."""
        number = re.fullmatch(r"version_(\d+)", self._resumed.parents[1].name) if self._resumed else None
        return int(number[1]) if number else None

    def before_fit(self) -> None:
        """A hook of LightningCLI: the last words on what Trainer.fit is called with."""
        if self.config_init.fit.ckpt_path == "last":
            self.config_init.fit.ckpt_path = self._resumed and str(self._resumed)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs the command. Of a disk that is full, Lightning, which writes most files, does not say what to do."""
        patience = _FAILED_SECONDS
        check_processes(self.trainer.strategy.launcher)
        try:
            if self._resumed_version() is None and leaves_files(self.trainer):
                make_new_folder(self.trainer.loggers)
            super()._run_subcommand(subcommand)
            patience = _END_SECONDS
        except Stopped:
            patience = _END_SECONDS
            raise
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # after which Lightning exits as after a failure
                raise KeyboardInterrupt from stop
            raise
        except MisconfigurationException as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            told = lost_folder(error, self.trainer.default_root_dir)
            if told is None:
                raise
            raise told from error
        finally:
            end_children(self.trainer, patience)


def hide_remarks() -> None:
    """No warnings of what these commands do on purpose."""
    for text in _NOISE:
        warnings.filterwarnings("ignore", message=text)


def run(args: Sequence[str] | None) -> None:
    """Parse and run a training command; ``args`` None takes ``sys.argv``, which DDP's launcher starts again."""
    hide_remarks()
    VideoCLI(args)
