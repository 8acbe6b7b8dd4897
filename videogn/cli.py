"""The ``videogn`` command. Imports no torch itself, so that ``videogn --help`` answers at once."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from videogn.data_cli import add_data_commands
from videogn.errors import UsageError, VideoError
from videogn.weights_cli import add_weights_commands

if TYPE_CHECKING:
    from videogn.inference import Prediction

_TRAINING = {
    "fit": "train, validating after each epoch",
    "validate": "video-level top-1 / top-5 of a checkpoint on the validation split",
    "test": "the same on the test split (the validation split where there is none)",
    "predict": "write predictions.csv for a split or a list of videos",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for a failure, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names that are not UTF-8 come out as they are
    try:
        if arguments and arguments[0] in _TRAINING:
            from videogn.training_cli import run

            run(arguments if argv is not None else None)
            return 0
        if arguments and arguments[0] == "plan":
            from videogn.plan import run as run_plan

            return run_plan(arguments[1:])
        if arguments and arguments[0] == "pretrain":
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

    classify = commands.add_parser("classify", help="classify video files with a checkpoint")
    classify.add_argument("videos", nargs="+", metavar="VIDEO", help="video files")
    classify.add_argument(
        "--checkpoint", required=True, metavar="CKPT", help="checkpoint of `videogn fit`, or exported weights"
    )
    classify.add_argument("--topk", type=int, default=5, help="classes per video (default 5)")
    classify.add_argument("--num-clips", type=int, default=10, help="clips averaged per video (default 10)")
    classify.add_argument("--format", choices=["table", "json"], default="table", help="json: one object per line")
    classify.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    classify.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "auto"],
        default="float32",
        help="auto: bfloat16 where the device has instructions for it (default float32)",
    )
    classify.add_argument("--backend", default="pyav", help="decoder: pyav, decord or torchcodec (default pyav)")
    classify.set_defaults(run=_classify)

    add_data_commands(commands)
    add_weights_commands(commands)
    return parser


def _classify(options: argparse.Namespace) -> int:
    from videogn.inference import for_inference, load, predict_video

    model = for_inference(load(options.checkpoint).to(_device(options.device)), options.precision)
    failures = 0
    for path in options.videos:
        try:
            predictions = predict_video(model, path, options.num_clips, options.topk, backend=options.backend)
        except VideoError as error:
            failures += 1
            print(f"videogn: error: {error}", file=sys.stderr)
        else:
            print(format_predictions(path, predictions, options.format), flush=True)
    return 1 if failures else 0


def format_predictions(path: str, predictions: Sequence[Prediction], style: str) -> str:
    """The text that ``classify`` prints for one video: ``"json"`` is one object on one line, ``"table"`` for people."""
    if style == "json":
        import json
        from dataclasses import asdict

        return json.dumps({"video": path, "predictions": [asdict(p) for p in predictions]}, ensure_ascii=False)
    width = max(len(p.label) for p in predictions)
    rows = [f"  {rank}  {p.label:<{width}}  {p.probability:7.2%}" for rank, p in enumerate(predictions, start=1)]
    return "\n".join([path, *rows])


def _device(name: str) -> str:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device: expected one of {available}, found {name!r} ({reason})") from error
    return name
