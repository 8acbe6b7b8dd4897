"""Runs of the command line for tests, and what they log."""

import csv

from videogn.cli import main


def run(command, config, folder, *options):
    return main([command, "-c", str(config), "--trainer.default_root_dir", str(folder), *options])


def metrics(folder):
    """Last value of every column of a run's metrics.csv."""
    last = {}
    for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines()):
        last |= {name: value for name, value in row.items() if value}
    return last
