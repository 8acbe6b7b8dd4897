"""The runs of a report, read from their folders. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from videogn.errors import UsageError
from videogn.report.curves import METRICS_FILE, Curve, read_curves
from videogn.report.folders import check_file
from videogn.report.naming import described, distinguished
from videogn.report.records import MAKE, has_evaluation, read_evaluation, read_training
from videogn.report.studies import STUDY_FILE
from videogn.results import EVALUATION_FILE, PREDICTIONS_FILE, TRAINING_FILE, Evaluation, Training, VideoResult
from videogn.spec import ClipSpec

_VERSION = re.compile(r"version_(\d{1,9})")
_NAMED = 5


@dataclass(frozen=True)
class Run:
    """One run of a report. Its texts (names, paths, reasons) may hold anything: quotes, HTML, line breaks, lone
    surrogates of names that are not UTF-8.

    Attributes:
        name: short, and of this run alone among those of the report.
        given: the folder as the user named it.
        folder: where its files were found: ``given`` or a version in it.
        evaluation: what was evaluated, and how.
        clip: ``evaluation.clip``, read; None where the file does not say.
        class_names: of the evaluation, or the classes' numbers where it has no names; as many as there are classes.
        results: of all its videos, in data-set order.
        training: what training took; None where it was not found.
        curves: of ``metrics.csv``, by name (``"train/loss"``, ``"val/top1"`` ...); empty where it was not found.
        trained_in: folder that ``training`` and ``curves`` are from: ``folder``, or that of the run that wrote the
            checkpoint which was evaluated.
        norm: of its network, ``"gn"`` for example; ``"?"`` where the file does not say.
        differences: what is not the same for all runs of the report, by name (``"batch"``, ``"frames"`` ...); the same
            names for all runs, ``"–"`` where a run does not say.
    """

    name: str
    given: str
    folder: str
    evaluation: Evaluation
    clip: ClipSpec | None
    class_names: list[str]
    results: list[VideoResult]
    training: Training | None
    curves: dict[str, Curve]
    trained_in: str
    norm: str
    differences: dict[str, str]


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Reads the runs of a report, in the order given.

    Args:
        folders: each ``runs/NAME/version_N``, or ``runs/NAME``, of which the version with the highest number is taken
            that has an evaluation.

    Raises:
        UsageError: no such folder, or none with an evaluation; files that are damaged, do not belong together or are
            of videos without labels; runs of different classes; one folder twice.
    """
    found: dict[str, tuple[str, str]] = {}
    for given in folders:
        folder = _version(given)
        place = os.path.realpath(folder)
        if place in found:
            raise UsageError(f"{given}: is the same run as {found[place][0]}; name each run once")
        found[place] = (given, folder)
    runs = [_read(given, folder) for given, folder in found.values()]
    for run in runs[1:]:
        if run.class_names != runs[0].class_names:
            raise UsageError(
                f"{run.folder}: {_other_classes(run, runs[0])}; runs of different classes are not compared"
            )
    texts = [described(run.evaluation, run.clip, run.training) for run in runs]
    return [
        dataclasses.replace(run, name=name, differences=differences)
        for run, (name, differences) in zip(runs, distinguished(texts, [run.folder for run in runs]), strict=True)
    ]


def _version(given: str) -> str:
    """The folder with the files of an evaluation: the one given, or its newest version that has them."""
    if not os.path.isdir(given):
        what = "a file" if os.path.exists(given) else "nothing"
        raise UsageError(f"{given}: expected the folder of a run, runs/NAME or runs/NAME/version_N; found {what}")
    if has_evaluation(given):
        return given
    inside = _folders(given)
    numbers = {int(match[1]): name for name in inside if (match := _VERSION.fullmatch(name))}
    for number in sorted(numbers, reverse=True):
        folder = os.path.join(given, numbers[number])
        if has_evaluation(folder):
            return folder
    where = " and in none of its versions" if numbers else ""
    missing = [n for n in (EVALUATION_FILE, PREDICTIONS_FILE) if not os.path.exists(os.path.join(given, n))]
    message = f"{given}: no {' and no '.join(missing)} in it{where}. {MAKE}."
    others = [os.path.join(given, name) for name in inside if _is_run(os.path.join(given, name))]
    if others and not numbers:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        message = f"{given}: is not a run but holds runs; name those to report: {' '.join(others[:_NAMED])}{more}"
    if os.path.isfile(os.path.join(given, STUDY_FILE)):
        message = (
            f"{given}: the folder of a study, whose page is study.html in it. Name runs, such as those below `cells` "
            f"in the study's --folder, and the study as --study {given} to show its figures with them."
        )
    raise UsageError(message)


def _folders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _is_run(folder: str) -> bool:
    try:
        names = _folders(folder)
    except UsageError:
        return False
    return has_evaluation(folder) or any(
        _VERSION.fullmatch(name) and has_evaluation(os.path.join(folder, name)) for name in names
    )


def _read(given: str, folder: str) -> Run:
    _check_files(folder)
    evaluation, clip, class_names, results = read_evaluation(folder)
    trained_in = _trained_in(folder, evaluation)
    _check_files(trained_in)
    norm = evaluation.architecture.get("norm")
    return Run(
        name="",
        given=given,
        folder=folder,
        evaluation=evaluation,
        clip=clip,
        class_names=class_names,
        results=results,
        training=read_training(trained_in),
        curves=read_curves(trained_in),
        trained_in=trained_in,
        norm=norm if isinstance(norm, str) else "?",
        differences={},
    )


def _check_files(folder: str) -> None:
    for name in (EVALUATION_FILE, PREDICTIONS_FILE, TRAINING_FILE, METRICS_FILE):
        check_file(os.path.join(folder, name), "run")


def _trained_in(folder: str, evaluation: Evaluation) -> str:
    """Folder of the run that trained the evaluated weights, where it is among the runs beside ``folder``; else that.

    ``videogn validate`` makes a folder of its own; its checkpoint lies in ``checkpoints`` of the run that wrote it. The
    file that says so may come from anyone, and name any place: none is looked at but the folder that holds ``folder``.
    """
    if evaluation.checkpoint is None or os.path.exists(os.path.join(folder, TRAINING_FILE)):
        return folder
    checkpoints, _ = os.path.split(evaluation.checkpoint)
    parent, name = os.path.split(os.path.abspath(checkpoints))  # without "..", so that what is asked about is opened
    beside = os.path.join(os.path.dirname(os.path.abspath(folder)), "")
    if name != "checkpoints" or "\0" in parent or not parent.startswith(beside):
        return folder
    if any(os.path.isfile(os.path.join(parent, file)) for file in (TRAINING_FILE, METRICS_FILE)):
        return parent
    return folder


def _other_classes(run: Run, first: Run) -> str:
    a, b = first.class_names, run.class_names
    if len(a) != len(b):
        return f"{len(b)} classes, but {len(a)} in {first.folder}"
    i = next(i for i in range(len(a)) if a[i] != b[i])
    order = " (the same names in another order)" if Counter(a) == Counter(b) else ""
    return f"class {i} is {b[i]!r:.80}, but {a[i]!r:.80} in {first.folder}{order}"
