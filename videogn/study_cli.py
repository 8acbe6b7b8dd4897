"""``videogn study``: a grid of runs from one file, and what comes out of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from videogn.data.files import cannot_write, write_atomically
from videogn.errors import UsageError
from videogn.stopping import REQUESTS, Stopped
from videogn.study.environment import command_line, environment, write_record
from videogn.study.file import read_study
from videogn.study.grid import Study
from videogn.study.outcomes import CellResult, Outcome, cell_results, read_outcome
from videogn.study.rates import choose_rates
from videogn.study.runner import run_all
from videogn.study.runs import Run, deciding_cell, pretraining_runs, rate_runs, result_runs

_DESCRIPTION = """\
Runs a grid of `videogn fit` runs: each value of each axis of the study's file with each seed. What is done is not run
again, what was interrupted goes on; the same command does both. Each run has a folder of its own below FOLDER/cells.
At the end, and when it is interrupted, it writes the runs and cells as CSV, the table as Markdown, the figures as SVG
and PNG, and a page, study.html, into FOLDER/NAME. Further options, such as --data.root /data/k400, are options of
`videogn fit` for every run.
"""


def run(arguments: Sequence[str]) -> int:
    """Runs ``videogn study`` with the arguments after its name; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="videogn study",
        usage="videogn study -c STUDY.yaml [--dry-run] [--jobs N] [--output DIR] [--data.root DIR] [any option of fit]",
        description=_DESCRIPTION,
        epilog="Exit code: 0 all runs are done, 1 some failed or are left, 2 wrong usage.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c",
        "--config",
        required=True,
        action="append",
        metavar="STUDY.yaml",
        help="the study: configs/study/*.yaml",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run, its memory and its time; run nothing"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at once (default 1); each has its share of GPUs"
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="for tables and figures (default: FOLDER/NAME)")
    parser.add_argument("--folder", metavar="FOLDER", help="for all runs (default: the file's, or runs/study)")
    options, rest = parser.parse_known_args(arguments)
    if options.jobs < 1:
        raise UsageError(f"--jobs: expected at least 1, found {options.jobs}")
    if len(options.config) > 1:
        raise UsageError(
            f"-c: expected one study, found {' and '.join(options.config)}; a study names further configurations as "
            "`base`"
        )
    study = read_study(options.config[0], _further(rest), options.folder)
    if options.dry_run:
        from videogn.study.dry_run import dry_run

        outcomes = _known(study)
        print(dry_run(study, [outcome.run for outcome in outcomes], outcomes, options.jobs))
        return 0
    output = Path(options.output or study.folder / study.name)
    _check_place(study.folder)
    _check_place(output)
    try:
        with REQUESTS:
            _run_phases(study, options.jobs)
    except Stopped as stop:
        stop.text = "stopped; what was at work has saved, the same command goes on"
        raise
    finally:
        outcomes = _known(study)
        results = cell_results(study, outcomes)
        if any(result.outcomes for result in results):
            _write(study, results, outcomes, output, command_line(arguments))
    chosen = choose_rates([outcome for outcome in outcomes if outcome.run.purpose == "rate"])
    left = [o for o in outcomes if o.status != "done" and not (o.run.purpose == "rate" and o.run.cell.name in chosen)]
    if left:
        print(
            f"videogn: {len(left)} of {len(outcomes)} runs are not done; the same command goes on with them "
            "and tries those again that failed",
            file=sys.stderr,
        )
    return 1 if left else 0


def _further(rest: Sequence[str]) -> dict[str, Any]:
    """Options of `videogn fit` as the command line gives them: ``--name value`` or ``--name=value``, values as YAML."""
    words, found = list(rest), {}
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name == "--seed_everything":
            raise UsageError("--seed_everything: a study has its seeds in its file; change `seeds` there")
        if not name.startswith("--") or "." not in name or not (equals or words):
            raise UsageError(
                f"{name}: expected an option of `videogn study --help`, or one of `videogn fit` with its value, such "
                "as --data.root /data/k400"
            )
        value = value if equals else words.pop(0)
        try:
            found[name[2:]] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"{name}: expected a value as in YAML, found {value!r:.80}; put it in quotes") from error
    return found


def _check_place(folder: Path) -> None:
    """Refuses a folder that cannot be written before the runs, not after them. Makes nothing."""
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.exists(place))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "no folder" if not there.is_dir() else "no permission to write in it"
        raise UsageError(f"{folder}: expected a folder that can be made or written, found {there}: {why}")


def _known(study: Study) -> list[Outcome]:
    """What all runs of the study have left, as far as its learning rates are chosen."""
    weights = pretraining_runs(study)
    rates = [read_outcome(run) for run in rate_runs(study, weights)]
    results = result_runs(study, weights, choose_rates(rates))
    of_weights = [read_outcome(run) for run in {run.folder: run for run in weights.values()}.values()]
    return [*of_weights, *rates, *(read_outcome(run) for run in results)]


def _run_phases(study: Study, jobs: int) -> None:
    """Weights to start from, then learning rates, then the runs that count.

    A cell whose weights or rate are missing, because a run failed or another process is at it, is left out. A rate with
    which a run failed, as with one that is too high, is not tried again when another has been chosen.
    """

    def say(text: str) -> None:
        print(text, flush=True)

    weights, own = pretraining_runs(study), study.pretraining
    before = run_all(list({run.folder: run for run in weights.values()}.values()), jobs, study.checkpoints, say)
    trained = {outcome.run.folder for outcome in before if outcome.status == "done"}

    def has_weights(run: Run) -> bool:
        return own is None or weights[run.cell.values[own.axis]].folder in trained

    rates = rate_runs(study, weights)
    chosen = choose_rates([read_outcome(run) for run in rates])
    to_try = [run for run in rates if has_weights(run) and run.cell.name not in chosen]
    chosen |= choose_rates(run_all(to_try, jobs, study.checkpoints, say))
    for name, rate in chosen.items():
        say(f"{name}: learning rate {rate:g}")
    run_all(
        [
            run
            for run in result_runs(study, weights, chosen)
            if has_weights(run) and (study.rates is None or deciding_cell(study, run.cell).name in chosen)
        ],
        jobs,
        study.checkpoints,
        say,
    )


def _write(
    study: Study, results: Sequence[CellResult], outcomes: Sequence[Outcome], output: Path, command: str
) -> None:
    from videogn.study.claims import claims_markdown, test_claims
    from videogn.study.figures import write_figures
    from videogn.study.page import write_page
    from videogn.study.table import markdown, write_tables

    made_with = environment(command, [outcome for outcome in outcomes if outcome.status == "done"])
    claims = test_claims(study.claims, results)
    write_tables(study, results, output)
    figures = write_figures(study, results, output)
    write_record(study, made_with, figures, output)
    try:
        if claims:
            write_atomically(str(output / "claims.md"), [claims_markdown(claims), "\n"])
    except OSError as error:
        raise cannot_write(str(output), error) from error
    page = write_page(study, results, claims, figures, output, made_with)
    print(markdown(study, results))
    if claims:
        print(claims_markdown(claims))
    print(page)
