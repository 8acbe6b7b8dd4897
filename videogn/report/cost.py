"""The report's section on memory and speed."""

from __future__ import annotations

from collections.abc import Callable

from videogn.report.markup import NONE, missing, plural, size, table, text
from videogn.report.numbers import Numbers
from videogn.report.overview import named
from videogn.results import Evaluation, Training


def cost(numbers: Numbers) -> str:
    """Memory and speed of training and evaluation, a column per run."""
    records = [(run.training or Training(), run.evaluation) for run in numbers.runs]
    rows = []
    for label, of in _ROWS:
        shown = [of(training, evaluation) for training, evaluation in records]
        if any(one != NONE for one in shown):
            rows.append([label, *map(text, shown)])
    notes = "".join(
        missing(f"{run.name}: no training.json was found, so nothing is known about its training.")
        for run in numbers.runs
        if run.training is None
    )
    if not rows:
        return missing("No run says how long it took or how much memory it used.") + notes
    head = ["", *(named(i, run) for i, run in enumerate(numbers.runs))]
    caption = "Measured unless it says counted. Figures of different devices do not compare."
    return table(head, rows, caption, identifier="cost") + notes


def _rate(count: float | None, seconds: float | None, unit: str) -> str:
    return f"{count / seconds:,.1f} {unit}/s" if count is not None and seconds else NONE


def _in(count: float | None, unit: float, name: str) -> str:
    return f"{count / unit:,.2f} {name}" if count is not None else NONE


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _device(of: Training | Evaluation) -> str:
    parts = [part for part in (of.device, of.precision) if part]
    return ", ".join([*parts, plural(of.processes, "process")]) if parts else NONE


_ROWS: list[tuple[str, Callable[[Training, Evaluation], str]]] = [
    ("parameters", lambda t, _: _in(t.parameters, 1e6, "M")),
    ("multiply-adds of one training clip", lambda t, _: _in(t.multiply_adds, 1e9, "G")),
    ("kept for backward per clip, counted", lambda t, _: size(t.counted_bytes_per_clip)),
    ("peak memory of a step, counted", lambda t, _: size(t.counted_peak_bytes)),
    ("peak memory in training", lambda t, _: size(t.peak_memory_bytes)),
    ("training speed", lambda t, _: _rate(t.clips, t.train_seconds, "clips")),
    ("training time, with validation", lambda t, _: _duration(t.seconds)),
    ("training device", lambda t, _: _device(t)),
    ("peak memory in evaluation", lambda _, e: size(e.peak_memory_bytes)),
    ("evaluation speed", lambda _, e: _rate(e.seconds_videos, e.seconds, "videos")),
    ("evaluation time", lambda _, e: _duration(e.seconds)),
    ("evaluation device", lambda _, e: _device(e)),
]
