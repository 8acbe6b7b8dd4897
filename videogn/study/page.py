"""A study as one HTML page that needs nothing else: what it is, figures, table, claims, all runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from videogn.data.files import cannot_write, write_atomically
from videogn.report.markup import NONE, Cell, figure, missing, number, percent, plural, table, text, value
from videogn.report.shell import shell, written
from videogn.study.captions import captions, has_top5
from videogn.study.claims import ClaimResult, claims_rows, explained
from videogn.study.figures import StudyFigure
from videogn.study.grid import Study
from videogn.study.outcomes import CellResult, Outcome
from videogn.study.series import listed, words
from videogn.study.table import accuracies, table_rows

PAGE_FILE = "study.html"

_FACTS = {"run_hours": "hours of all runs", "cores": "CPU cores", "cpu": "CPU"}


def write_page(
    study: Study,
    results: Sequence[CellResult],
    claims: Sequence[ClaimResult],
    figures: Sequence[StudyFigure],
    folder: Path,
    environment: Mapping[str, Any],
) -> Path:
    """Writes ``study.html``, whole or not at all.

    Args:
        study: which.
        results: of its cells.
        claims: tested.
        figures: drawn.
        folder: that is there.
        environment: what the study was made with: command, date, hardware, versions; plain values or lists of them.

    Returns:
        The path of the page.

    Raises:
        UsageError: the page cannot be written.
    """
    path = folder / PAGE_FILE
    try:
        write_atomically(str(path), [render(study, results, claims, figures, environment)])
    except OSError as error:
        raise cannot_write(str(path), error) from error
    return path


def render(
    study: Study,
    results: Sequence[CellResult],
    claims: Sequence[ClaimResult],
    figures: Sequence[StudyFigure],
    environment: Mapping[str, Any],
) -> str:
    """The page: HTML with its style, script and pictures in it. It links nothing but its own sections."""
    sections = [
        ("study", "The study", _about(study, results, environment)),
        ("figures", "Figures", _figures(figures)),
        ("table", "Table", _table(study, results)),
        ("claims", "Claims", _claims(claims)),
        ("runs", "All runs", _runs(study, results)),
    ]
    done = sum(len(result.outcomes) for result in results)
    about = (
        f"{plural(len(study.cells), 'cell')}, {done:,} of {plural(len(study.cells) * len(study.seeds), 'run')} "
        f"finished, written {written()} by videogn {text(version('videogn'))}"
    )
    return shell(study.title, about, sections, ["tables.js"])


def _about(study: Study, results: Sequence[CellResult], environment: Mapping[str, Any]) -> str:
    axes = (f"{words(axis)}: {', '.join(values)}" for axis, values in study.axes.items())
    facts = {
        "grid": "; ".join(axes),
        "seeds": ", ".join(map(str, study.seeds)),
        **{_FACTS.get(name, name): of for name, of in environment.items()},
    }
    rows = [[text(name), _code(of) if name == "command" else text(_said(of))] for name, of in facts.items()]
    said = captions(study, results)
    notes = len(said) - len(study.notes)  # the last; here they are the first, since they say what this is
    head = ["study", text(study.name)]
    return _paragraphs([*said[notes:], *said[:notes]]) + table(head, rows, "What was run, and on what")


def _said(fact: Any) -> str:
    if isinstance(fact, list | tuple):
        return ", ".join(map(str, fact)) or NONE
    return NONE if fact in (None, "") else str(fact)


def _code(of: Any) -> str:
    return f"<code>{text(_said(of))}</code>"


def _paragraphs(paragraphs: Sequence[str]) -> str:
    """Sentences in Markdown, of which backquotes alone mean something."""
    shown = (re.sub("`([^`]+)`", r"<code>\1</code>", text(paragraph)) for paragraph in paragraphs)
    return "".join(f"<p>{paragraph}</p>" for paragraph in shown)


def _figures(figures: Sequence[StudyFigure]) -> str:
    if not figures:
        return missing("No run has left anything to draw.")
    drawn = []
    for one in figures:
        data = table(list(map(text, one.head)), [[text(cell) for cell in row] for row in one.rows], text(one.title))
        drawn.append(figure(one.title, one.caption, one.svg, data))
    return f'<div class="plots wide">{"".join(drawn)}</div>'


def _table(study: Study, results: Sequence[CellResult]) -> str:
    head, rows = table_rows(study, results)
    caption = (
        f"{accuracies(study)} accuracy per video in %: the median of a cell's runs, in brackets the lowest and the "
        "highest."
    )
    return table(list(map(text, head)), [[text(cell) for cell in row] for row in rows], caption)


def _claims(claims: Sequence[ClaimResult]) -> str:
    if not claims:
        return missing("The study's file names no claims.")
    head, rows = claims_rows(claims)
    shown = [_claim(*map(text, row)) for row in rows]
    return table(list(map(text, head)), shown, "What the study tests") + _paragraphs(explained(claims))


def _claim(said: str, compared: str, *numbers: str) -> list[Cell | str]:
    return [said, compared, *(value(of, None) for of in numbers[:-1]), f"<strong>{numbers[-1]}</strong>"]


def _runs(study: Study, results: Sequence[CellResult]) -> str:
    rows = [_run(study, outcome) for result in results for outcome in result.outcomes]
    fewer = [f"{result.cell.text()} ({result.missing})" for result in results if result.missing]
    left = missing(f"Runs that are not finished: {listed(fewer)}.") if fewer else ""
    if not rows:
        return left
    head = ["run", *map(words, study.axes), "seed", "learning rate", "clips seen"]
    head += [f"{title} / %" for title in _scores(study)] + ["loss / nats", "minutes", "folder"]
    caption = "Finished runs: the last validation of each"
    return table(list(map(text, head)), rows, caption, identifier="all-runs", sortable=True, tall=len(rows) > 20) + left


def _run(study: Study, outcome: Outcome) -> list[Cell | str]:
    run = outcome.run
    clips = outcome.training.clips if outcome.training else None
    scores = (outcome.scores.get(name) for name in _scores(study).values())
    loss = outcome.scores.get("loss")
    return [
        text(run.text),
        *(_axis(run.cell.values[axis]) for axis in study.axes),
        value(str(run.seed), run.seed),
        value(NONE if run.lr is None else f"{run.lr:g}", run.lr),
        value(number(clips), clips),
        *(value(percent(score), score) for score in scores),
        value(number(loss, 3), loss),
        value(number(outcome.seconds / 60, 1), outcome.seconds),
        f'<span class="path">{text(run.folder.name)}</span>',
    ]


def _scores(study: Study) -> dict[str, str]:
    """Titles and names of the accuracies."""
    names = {"top-1": "top1", "top-5": "top5", "clip top-1": "clip_top1", "clip top-5": "clip_top5"}
    top5 = any(map(has_top5, study.cells))
    return {title: name for title, name in names.items() if top5 or "5" not in name}


def _axis(of: str) -> Cell | str:
    """Numbers are sorted as numbers."""
    try:
        return value(text(of), float(of))
    except ValueError:
        return text(of)
