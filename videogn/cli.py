"""The ``videogn`` command. Imports no torch itself, so that ``videogn --help`` answers at once."""

from __future__ import annotations

import argparse
import codecs
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from videogn.classify_cli import add_classify_command
from videogn.data_cli import add_data_commands
from videogn.errors import UsageError, VideoError
from videogn.launching import join_launcher
from videogn.report_cli import add_report_command
from videogn.stopping import REQUESTS, Stopped
from videogn.weights_cli import add_weights_commands

_TRAINING = {
    "fit": "train, validating after each epoch",
    "validate": "video-level top-1 / top-5 of a checkpoint on the validation split",
    "test": "the same on the test split (the validation split where there is none)",
    "predict": "write predictions.csv for a split or a list of videos",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for a failure, 2 for wrong usage.

    Raises:
        Stopped: a ``SystemExit`` with a code of :data:`videogn.stopping.CODES`: SIGTERM or SIGUSR1 ended a run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names that are not UTF-8 come out as they are; what an older terminal cannot show, by its number.
        utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    try:
        if arguments and arguments[0] in _TRAINING:
            with REQUESTS:
                join_launcher()
                os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or C++ prints where a connection ended
                from videogn.training_cli import run

                run(arguments if argv is not None else None)
            return 0
        if arguments and arguments[0] == "plan":
            from videogn.plan import run as run_plan

            return run_plan(arguments[1:])
        if arguments and arguments[0] == "study":
            from videogn.study_cli import run as run_study

            return run_study(arguments[1:])
        if arguments and arguments[0] == "pretrain":
            with REQUESTS:
                join_launcher()
                os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
                from videogn.pretrain_cli import run as run_pretrain

                run_pretrain(arguments[1:])
            return 0
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except (UsageError, VideoError, FloatingPointError) as error:
        # An error of a loader's worker carries the worker's traceback in its text; its own words are the last part.
        text = str(error).rpartition(f"{type(error).__name__}: ")[2]
        print(f"videogn: error: {text}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except Stopped as stop:
        if argv is None:  # srun, for example, ends the other processes of a job when the first one has ended
            REQUESTS.overlook()
        if stop.text:
            print(f"videogn: {stop.text}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("videogn: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videogn",
        description="Video classification in which the normalisation layer is the variable.",
        epilog="`videogn COMMAND --help` explains a command. Start: videogn fit -c configs/demo.yaml",
    )
    parser.add_argument("--version", action="version", version=f"videogn {version('videogn')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, text in _TRAINING.items():
        commands.add_parser(name, help=text)

    commands.add_parser(
        "pretrain", help="train the network on pictures, or validate it: weights for `fit` to start from"
    )
    commands.add_parser("plan", help="count parameters, multiply-adds and memory: the batch that fits in a GPU")
    commands.add_parser("study", help="run a grid of runs from one file: table, figures, claims")
    add_classify_command(commands)
    add_report_command(commands)
    add_data_commands(commands)
    add_weights_commands(commands)
    return parser
