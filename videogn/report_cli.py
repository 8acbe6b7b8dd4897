"""``videogn report``: one HTML page about one or several runs. Imports no torch before the command runs."""

from __future__ import annotations

import argparse
from typing import Any


def add_report_command(commands: Any) -> None:
    """Adds ``report`` to the subparsers of ``videogn``."""
    report = commands.add_parser(
        "report",
        help="one HTML page about one or several evaluated runs",
        description="Writes one self-contained HTML page (no network, no other files) about runs that `videogn "
        "validate`, `test` or `fit` have evaluated: scores with 95 % intervals, runs compared video by video, curves, "
        "calibration, accuracy per class, the confusion matrix, and the most confident mistakes, whose frames it shows "
        "with --videos.",
        epilog="Exit code: 0 the page is written, 2 wrong usage.",
    )
    report.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run, such as runs/gn/version_0; the first is the baseline"
    )
    report.add_argument("-o", "--output", metavar="FILE", help="page to write (default: report.html in the first RUN)")
    report.add_argument(
        "--sheets",
        type=int,
        default=12,
        metavar="N",
        help="videos shown among the most confident mistakes, over all runs (default 12)",
    )
    report.add_argument(
        "--videos",
        action="append",
        default=[],
        metavar="FOLDER",
        help="where the videos of the mistakes may be opened to show their frames, whatever else the files of a run "
        "name; may be given several times (default: none is opened)",
    )
    report.add_argument(
        "--study",
        metavar="FOLDER",
        help="of tables and figures that `videogn study` wrote, such as runs/study/NAME; its figures are shown too",
    )
    report.add_argument("--title", help="of the page (default: the names of the runs)")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from videogn.report.page import write_report

    write_report(
        options.runs,
        options.output,
        sheets=options.sheets,
        title=options.title,
        videos_in=options.videos,
        study=options.study,
    )
    return 0
