"""``videogn fit | validate | test | predict``: LightningCLI with this project's defaults and checkpoint rules."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from videogn import checkpoint as checkpoint_format
from videogn.callbacks import AverageStatistics, PredictionsWriter, RunSummary
from videogn.data.datamodule import KineticsDataModule
from videogn.errors import UsageError
from videogn.module import VideoClassifier

_USAGE = "videogn {command} [-c CONFIG.yaml ...] [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]"


class VideoCLI(LightningCLI):
    """LightningCLI in which options of the command line beat those of a checkpoint, and never the other way round."""

    def __init__(self, args: Sequence[str] | None) -> None:
        self._arguments = list(args) if args is not None else None
        super().__init__(
            VideoClassifier,
            KineticsDataModule,
            args=self._arguments,
            seed_everything_default=0,
            # Samplers here are exact on their own; Lightning's would pad the evaluation.
            trainer_defaults={"use_distributed_sampler": False, "default_root_dir": "runs"},
            save_config_kwargs={"overwrite": True},
            parser_kwargs={name: {"usage": _USAGE.format(command=name)} for name in self.subcommands()},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {
            name: options
            for name, options in LightningCLI.subcommands().items()
            if name in ("fit", "validate", "test", "predict")
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/top1",
                "checkpoint.mode": "max",
                "checkpoint.save_last": True,
                "checkpoint.filename": "best-epoch{epoch}-top1_{val/top1:.4f}",
                "checkpoint.auto_insert_metric_name": False,
            }
        )

    def _parse_ckpt_path(self) -> None:
        """Take the network from the checkpoint as *defaults*, and parse the command again on top of them.

        LightningCLI applies the checkpoint's values last, so that they silently beat explicit options.
        """
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if not path or not (Path(path).is_file() or os.sep in str(path) or str(path).endswith(".ckpt")):
            return  # "best", "last", "hpc": Lightning's own words, resolved when the run starts
        stored = checkpoint_format.read(path)
        architecture = stored[checkpoint_format.KEY]["architecture"]
        clip = stored[checkpoint_format.KEY]["clip"]
        defaults = {f"model.{name}": architecture[name] for name in checkpoint_format.ARCHITECTURE}
        defaults |= {f"data.clip.{name}": value for name, value in (clip or {}).items()}
        self._parser(subcommand).set_defaults(defaults)
        self.parse_arguments(self.parser, self._arguments)
        asked = self.config[subcommand].model.as_dict()
        checkpoint_format.require_same_architecture(architecture, asked, path)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            raise UsageError(str(error)) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        callbacks = [RunSummary(), AverageStatistics(), PredictionsWriter(), *callbacks]
        if config["logger"] in (None, True):
            tensorboard = TensorBoardLogger(config["default_root_dir"], name=None)
            config["logger"] = [tensorboard, CSVLogger(tensorboard.save_dir, name=None, version=tensorboard.version)]
        if config["logger"] and not config.get("fast_dev_run"):
            callbacks.append(LearningRateMonitor("step"))
        return super()._instantiate_trainer(config, callbacks)


def run(args: Sequence[str] | None) -> None:
    """Parse and run a training command; ``args`` None takes ``sys.argv``, which DDP's launcher starts again."""
    VideoCLI(args)
