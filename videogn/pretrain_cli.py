"""``videogn pretrain fit | validate``: trains the network on pictures, for weights to start from on videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from videogn.data.datamodule_images import ImageDataModule
from videogn.errors import UsageError
from videogn.training_cli import VideoCLI, hide_remarks

_COMMANDS = ("fit", "validate")
_USAGE = (
    "videogn pretrain {command} [-c CONFIG.yaml ...] --data.root FOLDER [--model.OPTION VALUE] [--data.OPTION VALUE] "
    "[--trainer.OPTION VALUE]"
)
_DESCRIPTION = """\
Trains the network on pictures: with temporal kernels, strides and pools of 1 (variant 2d) it is torchvision's ResNet.
FOLDER holds train/ and val/ with one folder of pictures per class, as ImageNet does. A checkpoint of this command is
where training on videos starts: videogn fit --model.init_from CKPT inflates its kernels.
"""


class PretrainCLI(VideoCLI):
    """The command line of ``videogn fit`` with pictures for data."""

    data_class = ImageDataModule

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser, by the name that it has among the commands of ``videogn``."""
        return super().init_parser(**{"prog": "videogn pretrain", "description": _DESCRIPTION, **kwargs})

    def usage(self, command: str) -> str:
        """The first line of the help, and of what is printed above an error."""
        return _USAGE.format(command=command)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: options for name, options in VideoCLI.subcommands().items() if name in _COMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"model.variant": "2d", "model.num_classes": 1000, "model.dropout": 0.0})

    def before_instantiate_classes(self) -> None:
        variant = self.config[self.subcommand].model.variant
        if variant != "2d":
            raise UsageError(
                f"--model.variant: expected 2d, because a picture has one frame, found {variant!r}. Pre-train with 2d, "
                "and start from its checkpoint on videos: videogn fit --model.variant "
                f"{variant} --model.init_from CKPT"
            )


def run(arguments: Sequence[str]) -> None:
    """Parse and run ``videogn pretrain`` with the arguments after its name."""
    hide_remarks()
    PretrainCLI(arguments)
