"""Runs of the command line for tests, and what they log."""

import csv

from videogn.checkpoint import description, write_weights
from videogn.cli import main
from videogn.module import VideoClassifier


def run(command, config, folder, *options):
    return main([command, "-c", str(config), "--trainer.default_root_dir", str(folder), *options])


def metrics(folder):
    """Last value of every column of a run's metrics.csv."""
    last = {}
    for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines()):
        last |= {name: value for name, value in row.items() if value}
    return last


def write_trained_bn(path):
    """Weights of a narrow network with statistics that frozen_bn takes."""
    trained = VideoClassifier(8, variant="8x8", width=8, norm="bn")
    for name, tensor in trained.network.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    write_weights(path, trained.network.state_dict(), description(trained.architecture, None, None))
