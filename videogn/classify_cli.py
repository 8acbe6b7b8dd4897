"""``videogn classify``: files, folders and lists in, one answer per video out. Imports no torch before it runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from typing import IO, TYPE_CHECKING, Any, get_args

from videogn.data.annotations import split_line
from videogn.data.layouts import VIDEO_SUFFIXES, every_video
from videogn.errors import UsageError, VideoError
from videogn.spec import Preset, Protocol

if TYPE_CHECKING:
    from videogn.inference import Prediction
    from videogn.module import VideoClassifier
    from videogn.spec import ClipSpec

_BROKEN_PIPE = 141  # what a shell reports of a command that SIGPIPE ended

_DESCRIPTION = """Classifies videos; labels, preprocessing and which clips are averaged come from the checkpoint. Files
are read by processes of their own while the network computes those before them. Answers come out in the order of the
files. A file that cannot be read, or that crashes the decoder or makes it hang, costs no other file."""
_EPILOG = """Exit code: 0 all videos are classified, 1 some failed, 2 wrong usage, 130 interrupted."""


def add_classify_command(commands: Any) -> None:
    """Adds ``classify`` to the subparsers of ``videogn``."""
    parser = commands.add_parser(
        "classify", help="classify video files with a checkpoint", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument(
        "videos", nargs="*", metavar="PATH", help=f"video files, or folders with {', '.join(VIDEO_SUFFIXES)} below them"
    )
    parser.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="text file with a path per line, from the current folder on; a label behind it is not read; - is standard "
        "input; may be repeated",
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="CKPT", help="checkpoint of `videogn fit`, or exported weights"
    )
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes per video (default 5)")
    parser.add_argument(
        "--format",
        choices=["table", "json"],
        default="table",
        help='json: one object per line, {"video", "predictions"} or {"video", "error"}',
    )
    parser.add_argument(
        "--protocol", choices=get_args(Preset), help="which clips and crops are averaged (default: the checkpoint's)"
    )
    parser.add_argument("--num-clips", type=int, metavar="K", help="clips averaged per video (default: the protocol's)")
    timeline = parser.add_argument_group(
        "scores over time",
        "A window as long as a clip slides over each video, which is decoded once, piece by piece. NAME.timeline.csv "
        "has the window's start and end in seconds and the probability of every class; NAME.timeline.png shows the "
        "--topk classes that matter. Files of an earlier run are replaced.",
    )
    timeline.add_argument("--timeline", action="store_true", help="write scores over time")
    timeline.add_argument(
        "--every", type=float, metavar="SECONDS", help="from one window to the next (default: half a window)"
    )
    timeline.add_argument("--output", metavar="DIR", help="folder of these files (default: the current one)")
    how = parser.add_argument_group("how it is computed")
    how.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    how.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "auto"],
        default="float32",
        help="auto: bfloat16 where the device has instructions for it (default float32)",
    )
    how.add_argument("--backend", default="pyav", help="decoder: pyav, decord or torchcodec (default pyav)")
    how.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="videos that are read, or wait for the network, at a time (default: one per core, and two)",
    )
    how.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds without progress after which a file is given up as one that hangs (default 60)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    _check_options(options)
    paths = list(dict.fromkeys(given := list(_given_paths(options.videos, options.list))))
    if not paths:
        raise UsageError("expected video files, folders or --list, found no path")
    if len(paths) < len(given):
        _say(f"videogn: {len(given) - len(paths)} of {len(given)} paths are there again: each is classified once")
    model, clip = _model(options)
    try:
        if options.timeline:
            from videogn.timeline_files import write_timelines

            output = options.output or os.curdir
            failures = write_timelines(model, clip, paths, output, options.every, options.topk, options.timeout)
        else:
            failures = _classify(options, model, clip, paths)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        return _BROKEN_PIPE
    if failures and len(paths) > 1:
        _say(f"videogn: {failures:,} of {len(paths):,} videos failed")
    return 1 if failures else 0


def _check_options(options: argparse.Namespace) -> None:
    for option in ("topk", "num_clips", "workers"):
        value = getattr(options, option)
        if value is not None and value < 1:
            raise UsageError(f"--{option.replace('_', '-')}: expected at least 1, found {value}")
    for option in ("timeout", "every"):
        value = getattr(options, option)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{option}: expected more than 0 seconds, found {value:g}")
    if options.timeline:
        if options.num_clips is not None:
            raise UsageError("--num-clips: every window of --timeline is one clip; leave it out")
        if options.format == "json":
            raise UsageError("--format json: --timeline writes csv files; leave it out")
        if options.backend != "pyav":
            raise UsageError(f"--backend: --timeline reads with pyav alone, found {options.backend!r}")
        if options.workers is not None:
            raise UsageError("--workers: --timeline reads one video at a time; leave it out")
    else:
        for option in ("every", "output"):
            if getattr(options, option) is not None:
                raise UsageError(f"--{option} goes with --timeline, which is not there")


def _model(options: argparse.Namespace) -> tuple[VideoClassifier, ClipSpec]:
    from videogn.inference import clip_of, for_inference, load
    from videogn.lanes import keep_freed_memory

    keep_freed_memory()
    model = for_inference(load(options.checkpoint).to(_device(options.device)), options.precision)
    clip = clip_of(model)
    if options.protocol is not None:
        clip = dataclasses.replace(clip, protocol=Protocol(options.protocol))
    if options.num_clips is not None:
        clip = clip.with_protocol(clips=options.num_clips)
    return model, clip


def _classify(options: argparse.Namespace, model: VideoClassifier, clip: ClipSpec, paths: Sequence[str]) -> int:
    """Prints the answers; returns how many videos failed."""
    from videogn.classify import classify_videos
    from videogn.data.progress import ProgressBar
    from videogn.inference import ranking

    failures = 0
    answers = classify_videos(
        model, paths, clip, backend=options.backend, workers=options.workers, timeout=options.timeout
    )
    if len(paths) > 1:
        _say(f"{len(paths):,} videos x {clip.views_text()}")
    # Answers on a terminal are progress themselves, and a bar would stand in their way.
    shown = len(paths) > 1 and not sys.stdout.isatty()
    with ProgressBar("classifying", len(paths)) if shown else nullcontext() as bar, closing(answers):
        for done, (path, outcome) in enumerate(answers, 1):
            if isinstance(outcome, VideoError):
                failures += 1
                (bar.message if bar else _say)(f"videogn: error: {outcome}")
                if options.format == "json":
                    print(_json({"video": path, "error": outcome.reason}), flush=True)
            else:
                predictions = ranking(model, outcome, options.topk)
                print(format_predictions(path, predictions, options.format), flush=True)
            if bar:
                bar.update(done, f"{failures:,} failed" if failures else "")
    return failures


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _given_paths(arguments: Sequence[str], lists: Sequence[str]) -> Iterator[str]:
    """Every video of the command line, in its order: folders are looked through, lists are read."""
    for path in arguments:
        yield from _below(path)
    for name in lists:
        try:
            where: str | int = sys.stdin.fileno() if name == "-" else name
            with open(where, encoding="utf-8-sig", errors="surrogateescape", closefd=name != "-") as file:
                yield from _listed(file)
        except OSError as error:
            raise UsageError(f"--list: {name}: cannot be read ({error.strerror or error})") from error


def _listed(lines: IO[str]) -> Iterator[str]:
    for line in lines:
        text = line.rstrip("\r\n")
        if not text.strip() or text.startswith("#"):
            continue
        yield from _below(text if os.path.lexists(text) else split_line(text.strip())[0] or text)


def _below(path: str) -> Iterable[str]:
    if not os.path.isdir(path):
        return [path]
    try:
        found = [os.path.join(path, name) for name in every_video(path)]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not found:
        raise UsageError(f"{path}: expected videos ({', '.join(VIDEO_SUFFIXES)}) in it or below it, found none")
    return found


def format_predictions(path: str, predictions: Sequence[Prediction], style: str) -> str:
    """The text that ``classify`` prints for one video: ``"json"`` is one object on one line, ``"table"`` for people."""
    if style == "json":
        return _json({"video": path, "predictions": [dataclasses.asdict(p) for p in predictions]})
    labels = [" ".join(p.label.split()) for p in predictions]  # on one line each
    width = max(map(len, labels))
    rows = [
        f"  {rank}  {label:<{width}}  {p.probability:7.2%}"
        for rank, (label, p) in enumerate(zip(labels, predictions, strict=True), start=1)
    ]
    return "\n".join([path, *rows])


def _json(values: dict[str, Any]) -> str:
    """One line of JSON; bytes of a path that are no UTF-8 as escapes, of which ``os.fsencode`` makes the path again."""
    text = json.dumps(values, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(values)
    return text


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
