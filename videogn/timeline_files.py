"""Scores over time as files: NAME.timeline.csv and NAME.timeline.png for every video."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from videogn.data.files import cannot_write, write_atomically
from videogn.data.progress import ProgressBar
from videogn.errors import UsageError, VideoError
from videogn.module import VideoClassifier
from videogn.results import csv_line
from videogn.spec import ClipSpec
from videogn.timeline import Timeline, timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito, "Color Universal Design" (2008), without yellow, which is too light for a line on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MOST_LINES = len(_COLOURS)
_NAME = 40  # characters of a name; more would leave no room for the lines
_LABELLED = 0.2  # probability that a class must reach for its name to stand at its highest point


def write_timelines(
    model: VideoClassifier,
    clip: ClipSpec,
    paths: Sequence[str],
    folder: str,
    every: float | None,
    topk: int,
    timeout: float,
) -> int:
    """Writes both files of every video into a folder, in place of earlier ones, and prints their names.

    Args:
        model: the network.
        clip: how clips are cut.
        paths: the videos.
        folder: made if it is not there.
        every: seconds from one window to the next, or None.
        topk: classes in the picture.
        timeout: seconds without progress after which a file is given up.

    Returns:
        How many videos failed; each is named on standard error.

    Raises:
        UsageError: two videos whose files would have one name, or a folder that cannot be written.
    """
    targets = _targets(paths, folder)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    failures = 0
    for path, target in targets.items():
        try:
            with ProgressBar(f"windows of {os.path.basename(path)}") as bar:
                line = timeline(
                    model, path, clip, every=every, timeout=timeout, progress=lambda n, of: bar.update(n, total=of)
                )
        except VideoError as error:
            failures += 1
            print(f"videogn: error: {error}", file=sys.stderr, flush=True)
            continue
        names = model.class_names
        assert names is not None
        files = [f"{target}.timeline.csv", f"{target}.timeline.png"]
        try:
            write_atomically(files[0], csv_lines(line, names))
            _write_picture(files[1], line, names, os.path.basename(path), topk)
        except OSError as error:
            raise cannot_write(folder, error) from error
        print("\n".join([path, *(f"  {file}" for file in files)]), flush=True)
    return failures


def csv_lines(line: Timeline, names: Sequence[str]) -> Iterator[str]:
    """A header, and a line per window: its start and end in seconds and the probability of every class."""
    yield csv_line(["start_seconds", "end_seconds", *names])
    windows = line.windows
    for start, end, row in zip(windows.starts.tolist(), windows.ends.tolist(), line.probabilities, strict=True):
        yield csv_line([f"{start:.6f}", f"{end:.6f}", *(f"{probability:.7f}" for probability in row.tolist())])


def best_classes(probabilities: np.ndarray, count: int) -> list[int]:
    """The classes that a picture shows: those that are first in most windows, then those with the highest mean.

    Args:
        probabilities: (W, num_classes).
        count: of classes, at most.
    """
    wins = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return np.lexsort((-probabilities.mean(axis=0), -wins))[:count].tolist()


def _write_picture(path: str, line: Timeline, names: Sequence[str], title: str, topk: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(11, 5.2), layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4))
    windows = line.windows
    axes.set_xlim(0, max(windows.duration, 1e-3))
    _draw_strip(strip, line)
    middles = (windows.starts + windows.ends) / 2
    shown = best_classes(line.probabilities, min(topk, MOST_LINES))
    for rank, number in enumerate(shown):
        scores, name = line.probabilities[:, number], _text(names[number])
        style = {"color": _COLOURS[rank], "linestyle": _DASHES[rank % len(_DASHES)], "linewidth": 2, "label": f"{rank}"}
        if len(middles) > 1:
            axes.plot(middles, scores, **style)
        else:  # from the window's start to its end
            axes.plot([windows.starts[0], windows.ends[0]], [scores[0], scores[0]], **style)
        peak = int(scores.argmax())
        if scores[peak] >= _LABELLED:
            axes.annotate(
                name,
                (middles[peak], scores[peak]),
                (0, 4),
                textcoords="offset points",
                ha="center",
                color=_COLOURS[rank],
                parse_math=False,
            )
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handlelength=3.5)
    for text, number in zip(legend.get_texts(), shown, strict=True):  # as labels, names with "_" would be left out
        text.set_parse_math(False)
        text.set_text(_text(names[number]))
    axes.set_ylim(0, 1.08)
    axes.set_ylabel("probability")
    axes.set_xlabel("time, min:s" if windows.duration >= 60 else "time, s")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: clock(x) if windows.duration >= 60 else f"{x:g}"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_text(title), parse_math=False)
    with warnings.catch_warnings():  # a name in a script that the font lacks: boxes in the picture, not on the terminal
        warnings.filterwarnings("ignore", message="Glyph")
        buffer = io.BytesIO()
        canvas.print_png(buffer)
    _write_bytes(path, buffer.getvalue())


def _draw_strip(axes: Axes, line: Timeline) -> None:
    """Some frames above the moments that they are from."""
    axes.axis("off")
    if not line.pictures:
        return
    width = line.windows.duration / len(line.pictures)
    for i, (_, picture) in enumerate(line.pictures):
        axes.imshow(picture, extent=(i * width, (i + 0.96) * width, 0, 1), aspect="auto")
    axes.set_ylim(0, 1)


def clock(seconds: float) -> str:
    """Minutes and seconds, ``"75:03"`` for an hour and a quarter and 3 s; tenths where they matter."""
    minutes, rest = divmod(round(max(seconds, 0.0), 1), 60)
    return f"{int(minutes)}:{rest:04.1f}".removesuffix(".0")


def _targets(paths: Sequence[str], folder: str) -> dict[str, str]:
    """Where the files of each video go, without their suffix."""
    targets: dict[str, str] = {}
    of: dict[str, str] = {}
    for path in paths:
        target = os.path.join(folder, os.path.splitext(os.path.basename(path))[0])
        if of.setdefault(target, path) != path:
            raise UsageError(
                f"--timeline: expected videos of different names, found {of[target]} and {path}, which would both "
                f"write {target}.timeline.csv. Classify them one after another, each with an --output of its own."
            )
        targets[path] = target
    return targets


def _text(name: str) -> str:
    """A name for a picture: short, on one line, without bytes that are no UTF-8."""
    line = " ".join(name.encode("utf-8", "replace").decode("utf-8").split())
    return line if len(line) <= _NAME else line[: _NAME - 1] + "…"


def _write_bytes(path: str, data: bytes) -> None:
    temporary = os.path.join(os.path.dirname(path), f".videogn-{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
