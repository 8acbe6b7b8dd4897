"""What `videogn fit` makes of the cells of the shipped studies, for tests."""

import functools

import torch
import yaml
from test_configs import CONFIGS, ParseOnly

from videogn.study.file import read_study


class OptionsOnly(ParseOnly):
    """The command line up to its options, with which nothing is made."""

    def instantiate_classes(self):
        pass

    def _add_configure_optimizers_method_to_model(self, subcommand):
        pass


@functools.cache
def parser():
    """That of `videogn`: making it takes longer than using it."""
    return OptionsOnly(["fit", "-c", str(CONFIGS / "demo.yaml")]).parser


@functools.cache
def study(name):
    return read_study(CONFIGS / "study" / f"{name}.yaml")


def parse(*paths, options=("--data.root", "/videos")):
    """The options of `videogn fit -c PATH -c PATH`. Weights to start from are not read."""
    return parser().parse_args(["fit", *(word for path in paths for word in ("-c", str(path))), *map(str, options)])


def written(config, folder):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def make(options, device="meta"):
    """Model, data module and callbacks of parsed options; on the meta device a full-size network costs nothing."""
    with torch.device(device):
        return parser().instantiate_classes(options).fit


class Processes:
    """What a module and a data module ask their trainer: the figures of a run on several GPUs."""

    gradient_clip_val = precision_plugin = strategy = None
    global_rank = 0
    accumulate_grad_batches = 1

    def __init__(self, datamodule, world_size, steps):
        self.datamodule, self.world_size, self.estimated_stepping_batches = datamodule, world_size, steps


def begun(folder, cell, *options, gpus=8, steps=400_000, device="meta"):
    """Model, data and trainer of a cell of table8, a setting and a norm, as `videogn fit` sets them up on GPUs."""
    (found,) = study("table8").select(dict(zip(("setting", "norm"), cell, strict=True)))
    made = make(parse(written(found.config, folder), options=["--data.root", folder, *options]), device)
    made.epochs, made.callbacks = made.trainer.max_epochs, made.trainer.callbacks
    made.trainer = Processes(made.data, gpus, steps)
    made.model.trainer = made.data.trainer = made.trainer
    made.model.setup("fit")
    return made
