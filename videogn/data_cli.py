"""``videogn data ...``: the commands that make, check and resize data sets. Imports no torch before a command runs."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from videogn.data.layouts import Layout

_TIMEOUT = "seconds without progress after which a file is given up as one that hangs (default 60)"
_MAX_SECONDS = "seconds that one file may take in all (default 3600)"
_WORKERS = "files at a time (default: the cores that this process may use)"


def add_data_commands(commands: Any) -> None:
    """Adds ``data`` and its commands to the subparsers of ``videogn``."""
    data = commands.add_parser("data", help="make, check and resize data sets").add_subparsers(
        title="data commands", required=True, metavar="DATA-COMMAND"
    )
    _add_check(data)
    _add_resize(data)
    demo = data.add_parser("demo", help="write the generated motion videos")
    demo.add_argument("root", metavar="ROOT", help="folder to create, with train/CLASS and val/CLASS inside")
    demo.add_argument("--train-per-class", type=int, help="training videos per class")
    demo.add_argument("--val-per-class", type=int, help="validation videos per class")
    demo.add_argument("--seed", type=int, help="of the generator")
    demo.add_argument("--classes", nargs="+", metavar="CLASS", help="motions to write (default: all eight)")
    demo.set_defaults(run=_demo)


def _add_check(data: Any) -> None:
    check = data.add_parser(
        "check",
        help="decode every video once; what is missing or bad",
        description="Decodes every video that the splits list (all videos below ROOT where there are no splits) in "
        "child processes, and writes a manifest: status, reason, frames, fps, size and duration of each file. Training "
        "reads it, leaves bad files out and need not decode a file to count its frames. Can be interrupted: the same "
        "command goes on, and decodes only files that are new or changed.",
        epilog="Exit code: 0 all files are good, 1 some are missing or bad, 2 wrong usage, 130 interrupted.",
    )
    check.add_argument("root", metavar="ROOT", help="folder of the data set")
    check.add_argument("--manifest", metavar="CSV", help="manifest to write (default ROOT/videogn_manifest.csv)")
    check.add_argument("--layout", choices=[*get_args(Layout)], default="auto", help="as in training")
    check.add_argument("--fold", type=int, default=1, help="of UCF101 or HMDB51, as in training (default 1)")
    for split in ("train", "val", "test"):
        check.add_argument(f"--{split}-list", metavar="FILE", help=f"list of the {split} split, as in training")
    check.add_argument("--path-prefix", metavar="FOLDER", help="folder that listed paths start from, as in training")
    check.add_argument("--class-names", metavar="NAMES", help="kinetics400 or a text file, as in training")
    check.add_argument(
        "--recheck",
        choices=["bad", "all"],
        help="decode the bad files, or all, again; begins anew each time, where a deleted manifest can be gone on with",
    )
    _add_limits(check)
    check.set_defaults(run=_check)


def _add_resize(data: Any) -> None:
    resize = data.add_parser(
        "resize",
        help="copy a data set with smaller videos, which decode faster",
        description="Re-encodes every video below ROOT into TARGET as H.264 mp4 with a given short side, frame by "
        "frame with the same presentation times, turned upright and without sound (which training never decodes). "
        "Videos are never enlarged; H.264 mp4 files that are small enough are copied byte for byte. Lists and tables "
        "(*.csv, *.txt in ROOT and ROOT/annotations) are copied and name the new files. Each file is decoded again "
        "before it gets its name. Can be interrupted: the same command goes on; files that failed are tried again.",
        epilog="Exit code: 0 all files are done, 1 some failed, 2 wrong usage, 130 interrupted.",
    )
    resize.add_argument("root", metavar="ROOT", help="folder of the data set; nothing in it is changed")
    resize.add_argument("target", metavar="TARGET", help="folder to create, or to go on with; outside of ROOT")
    resize.add_argument("--short-side", type=int, default=256, help="pixels, even (default 256)")
    resize.add_argument("--crf", type=int, default=20, help="x264's quality, 0 to 51, lower is better (default 20)")
    resize.add_argument("--gop", type=int, default=32, help="most frames from one key frame to the next (default 32)")
    _add_limits(resize)
    resize.set_defaults(run=_resize)


def _add_limits(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, help=_WORKERS)
    command.add_argument("--timeout", type=float, default=60.0, metavar="S", help=_TIMEOUT)
    command.add_argument("--max-seconds", type=float, default=3600.0, metavar="S", help=_MAX_SECONDS)
    command.add_argument("--max-pixels", type=int, help="pixels per frame, more is bad (default 37748736: 8192x4608)")
    command.add_argument("--max-frames", type=int, help="frames per video, more is bad (default 1000000)")


def _limits(options: argparse.Namespace) -> Any:
    from videogn.data.decode.opening import Limits
    from videogn.errors import UsageError

    given = {name: getattr(options, name) for name in ("max_pixels", "max_frames")}
    for name, value in given.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')}: expected at least 1, found {value}")
    return Limits(**{name: value for name, value in given.items() if value is not None})


def _check(options: argparse.Namespace) -> int:
    from videogn.data.check import check_data

    return check_data(
        options.root,
        manifest=options.manifest,
        layout=options.layout,
        fold=options.fold,
        lists={split: getattr(options, f"{split}_list") for split in ("train", "val", "test")},
        path_prefix=options.path_prefix,
        class_names=options.class_names,
        workers=options.workers,
        timeout=options.timeout,
        max_seconds=options.max_seconds,
        limits=_limits(options),
        recheck=options.recheck,
    )


def _resize(options: argparse.Namespace) -> int:
    from videogn.data.encode import Encoding
    from videogn.data.resize import resize_data

    return resize_data(
        options.root,
        options.target,
        Encoding(options.short_side, options.crf, options.gop),
        workers=options.workers,
        timeout=options.timeout,
        max_seconds=options.max_seconds,
        limits=_limits(options),
    )


def _demo(options: argparse.Namespace) -> int:
    from videogn.data.demo import DemoSpec, generate_demo
    from videogn.data.progress import ProgressBar
    from videogn.errors import UsageError

    names = ("train_per_class", "val_per_class", "seed", "classes")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    try:
        spec = DemoSpec(**given)
    except ValueError as error:
        raise UsageError(str(error)) from error
    with ProgressBar("writing demo videos") as bar:
        generate_demo(options.root, spec, lambda done, total: bar.update(done, total=total))
    print(f"demo videos are in {options.root}")
    return 0
