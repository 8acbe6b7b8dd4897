"""``videogn report``: several runs as one HTML page that needs nothing else, and their scores as text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version

from videogn.data.files import cannot_write, write_atomically
from videogn.errors import UsageError
from videogn.report import classes, cost, overview, plots, videos
from videogn.report.markup import percent, plain, plural, size, text
from videogn.report.numbers import Numbers, compute
from videogn.report.runs import read_runs
from videogn.report.shell import shell, written
from videogn.report.statistics import Interval
from videogn.report.studies import StudyFigures, read_figures, study_figures

DEFAULT_NAME = "report.html"


def write_report(
    runs: Sequence[str],
    output: str | None = None,
    *,
    sheets: int = 12,
    title: str | None = None,
    videos_in: Sequence[str] = (),
    study: str | None = None,
) -> str:
    """Writes the page about some runs, whole or not at all, and prints its path and the scores.

    Args:
        runs: folders of runs; the first is what the others are compared with in the table of classes.
        output: file to write; None is ``report.html`` in the folder of the first run.
        sheets: videos shown among the most confident mistakes.
        title: of the page; None names the runs.
        videos_in: folders in which videos may be opened. The files of a run, which may come from anyone, name videos
            anywhere; without a folder none is opened, and no frames are shown.
        study: output folder of a study, whose figures the page shows too.

    Returns:
        The path of the page.

    Raises:
        UsageError: folders that are not evaluated runs, a number of sheets below 0, a folder of videos that is
            none, a folder of a study without figures, or an output that cannot be written.
    """
    if sheets < 0:
        raise UsageError(f"--sheets: expected 0 or more, found {sheets}")
    for folder in videos_in:
        if not os.path.isdir(folder):
            raise UsageError(
                f"--videos: expected the folder of the videos that were evaluated, found no folder {folder}"
            )
    _check_output(output)
    figures = read_figures(study) if study is not None else None
    found = read_runs(runs)
    path = output or os.path.join(found[0].folder, DEFAULT_NAME)
    if not os.access(os.path.dirname(path) or ".", os.W_OK):
        raise UsageError(f"{plain(path)}: expected a folder that can be written; name another place with --output")
    for run in found:
        if os.path.realpath(run.folder) != os.path.realpath(run.given):
            newest = f"{os.path.basename(run.folder)} is its newest version with an evaluation"
            print(f"{plain(run.given)}: {newest}; name others as runs of their own")
    numbers = compute(found)
    title = title or " · ".join(numbers.names)
    page = render(numbers, sheets=sheets, title=title, videos_in=videos_in, study=figures)
    try:
        write_atomically(path, [page])
    except OSError as error:
        raise cannot_write(path, error) from error
    print(headlines_text(numbers))
    if sheets and not videos_in:
        print("the mistakes are shown without frames; --videos FOLDER says where their videos may be opened")
    print(f"{plain(path)} ({size(len(page))})")
    return path


def _check_output(output: str | None) -> None:
    """Before minutes of work, not after them."""
    if output is None:
        return
    folder, name = os.path.split(output)
    folder = folder or "."
    if os.path.isdir(output) or not name:
        raise UsageError(f"--output: expected a file such as {os.path.join(output, DEFAULT_NAME)}, found a folder")
    if not name.lower().endswith((".html", ".htm")):  # a slip must not replace a run's own files
        raise UsageError(f"--output: expected a name that ends in .html, found {output}")
    if not os.path.isdir(folder):
        raise UsageError(f"--output: {output}: expected a file in a folder that exists, found no folder {folder}")


def render(
    numbers: Numbers,
    *,
    sheets: int,
    title: str,
    videos_in: Sequence[str] = (),
    study: StudyFigures | None = None,
) -> str:
    """The page: HTML with its style, script, data and pictures in it."""
    sections = [
        ("runs", "Runs", overview.what_runs(numbers)),
        ("scores", "Scores", overview.headlines(numbers)),
        ("compared", "Runs compared video by video", overview.paired(numbers)),
        ("curves", "Training curves", plots.training_curves(numbers)),
        *([("features", "Feature percentiles", features)] if (features := plots.feature_percentiles(numbers)) else []),
        ("clips-section", "Accuracy against number of clips", plots.clips(numbers)),
        ("calibration", "Calibration", plots.calibration(numbers)),
        ("per-class", "Accuracy per class", classes.per_class(numbers)),
        ("confused", "Most confused pairs", classes.confused_pairs(numbers)),
        ("confusion", "Confusion matrix", classes.matrix(numbers)),
        ("mistakes", "Most confident mistakes", videos.mistakes(numbers, sheets, videos_in)),
        ("failed", "Failed videos", videos.failed(numbers)),
        ("memory", "Memory and speed", cost.cost(numbers)),
        *([("study", "Study", study_figures(study))] if study else []),
    ]
    about = (
        f"{plural(len(numbers.scored), 'run')}, {plural(len(numbers.runs[0].class_names), 'class')}, written\n"
        f"{written()} by videogn {text(version('videogn'))}"
    )
    return shell(title, about, sections, ("tables.js", "matrix.js"), " and the confusion matrix is not drawn")


def headlines_text(numbers: Numbers) -> str:
    """The scores as a table of plain text."""
    head = ["run", "top-1", "95 %", "top-5", "95 %", "clip top-1", "loss", "ECE", "videos", "failed"]
    rows = [head]
    for scored in numbers.scored:
        own = scored.headline
        rows.append(
            [
                plain(scored.run.name),
                percent(own.top1.value),
                _between(own.top1),
                percent(own.top5.value),
                _between(own.top5),
                percent(own.clip_top1.value),
                f"{own.loss.value:.3f}",
                percent(scored.calibration.ece),
                f"{own.videos:,}",
                f"{own.failed:,}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    for compared in numbers.comparisons:
        a, b = (numbers.names[i] for i in (compared.a, compared.b))
        top1 = compared.top1
        difference, low, high = (percent(share, 2, sign=True) for share in (top1.difference, top1.low, top1.high))
        lines.append(
            f"{plain(a)} minus {plain(b)}: {difference} points ({low} to {high}), McNemar p = {top1.p_value:.3g}, "
            f"Holm {compared.holm:.3g}, {plural(top1.videos, 'video')}"
        )
    return "\n".join(lines).replace("\N{MINUS SIGN}", "-")  # which not every terminal can show


def _between(of: Interval) -> str:
    return f"{percent(of.low)}-{percent(of.high)}"
