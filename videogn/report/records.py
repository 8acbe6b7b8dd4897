"""The three files of :mod:`videogn.results` as a report needs them: whole, in range, and of one evaluation.

A run's folder may come from anyone. Whatever passes here can be counted and shown without a look at its types.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from videogn.errors import UsageError
from videogn.report.statistics import correct, failed, judged
from videogn.results import (
    EVALUATION_FILE,
    PREDICTIONS_FILE,
    TOPK,
    TRAINING_FILE,
    Evaluation,
    Training,
    VideoResult,
    read_predictions,
    read_record,
)
from videogn.spec import ClipSpec

MAKE = (
    "`videogn validate -c CONFIG --ckpt_path CHECKPOINT` makes them, and `videogn fit` at each validation, in the "
    "run's folder"
)
_MOST_CLASSES = 10_000  # a confusion matrix of them has 100 million entries
_MOST_FRAMES = 100_000
_LARGEST = 2**63
_ONE = 1 + 1e-6  # a mean of softmax outputs may be rounded to more than 1


def has_evaluation(folder: str) -> bool:
    """Whether both files of an evaluation are there."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (EVALUATION_FILE, PREDICTIONS_FILE))


def read_training(folder: str) -> Training | None:
    """What training took; None where the folder does not say.

    Raises:
        UsageError: a damaged file.
    """
    path = os.path.join(folder, TRAINING_FILE)
    if not os.path.isfile(path):
        return None
    training = read_record(path, Training)
    _check_types(path, training)
    return training


def read_evaluation(folder: str) -> tuple[Evaluation, ClipSpec | None, list[str], list[VideoResult]]:
    """The evaluation of a folder, its clip specification, the names of its classes, and what it found.

    Raises:
        UsageError: a file is missing, damaged, not of the other one's evaluation, or of videos without labels.
    """
    path = os.path.join(folder, EVALUATION_FILE)
    evaluation = read_record(path, Evaluation)
    _check_types(path, evaluation)
    names = _class_names(path, evaluation)
    clip = _clip(path, evaluation.clip) if evaluation.clip else None
    predictions = os.path.join(folder, PREDICTIONS_FILE)
    results = read_predictions(predictions, names)
    seen: set[int] = set()
    for result in results:
        if result.id in seen:
            _damaged(predictions, f"video {result.id} is in it twice")
        seen.add(result.id)
        if result.error is None:
            _check(predictions, result, len(names))
    if evaluation.split == "predict" or all(r.label < 0 for r in results):
        what = "lists videos without labels" if results else "lists no video"
        if any(r.label >= 0 for r in results):
            what = "is of `videogn predict`, which compares with no labels"
        raise UsageError(
            f"{predictions}: {what}; expected an evaluation of `videogn validate` or `videogn test` on annotated videos"
        )
    _check_scores(folder, evaluation, results)
    return evaluation, clip, names, results


def _damaged(path: str, reason: str) -> NoReturn:
    raise UsageError(f"{path}: is damaged: {reason}. Evaluate again to write it anew.")


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "dict": (dict,)}


def _check_types(path: str, record: Evaluation | Training) -> None:
    """That every entry has its type, and numbers a size that can be counted with; scores may be nan."""
    for field in dataclasses.fields(record):
        value, kind = getattr(record, field.name), str(field.type)
        if value is None and kind.endswith("None"):
            continue
        if kind.startswith("list"):
            ok = isinstance(value, list) and all(isinstance(v, str) for v in value)
        else:
            expected = _KINDS[kind.split(" ")[0].split("[")[0]]
            ok = isinstance(value, expected) and not isinstance(value, bool)
            ok = ok and (not isinstance(value, int | float) or 0 <= value < _LARGEST)
        if ok and kind == "dict[str, float]":
            ok = all(isinstance(v, int | float) and not abs(v) >= _LARGEST for v in value.values())
        if ok and kind == "dict[str, str]":
            ok = all(isinstance(v, str) for v in value.values())
        if not ok:
            _damaged(path, f"{field.name}: expected {kind}, found {_short(value)}")


def _class_names(path: str, evaluation: Evaluation) -> list[str]:
    names, count = evaluation.class_names, evaluation.architecture.get("num_classes")
    if names is None:
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST_CLASSES:
            _damaged(path, f"architecture.num_classes: expected 1 to {_MOST_CLASSES}, found {_short(count)}")
        return [str(i) for i in range(count)]
    if not names or len(set(names)) < len(names) or "" in names:
        _damaged(path, "class_names: expected names that are not empty, each once")
    if len(names) > _MOST_CLASSES:
        raise UsageError(f"{path}: {len(names)} classes; a report shows at most {_MOST_CLASSES}")
    if count is not None and count != len(names):
        _damaged(path, f"{len(names)} class names, but architecture.num_classes is {_short(count)}")
    return names


def _clip(path: str, values: dict[str, Any]) -> ClipSpec:
    try:
        clip = ClipSpec.from_dict(values)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        _damaged(path, f"clip: {error!s:.300}")
    own = clip.protocol
    of_clips = [clip.frames, clip.stride, clip.train_crop, *clip.train_short_side]
    of_views = [own.clips, own.short_side, own.side, clip.eval_frames, clip.eval_stride]
    for number in of_clips + of_views:
        if not isinstance(number, int) or number > _MOST_FRAMES:
            _damaged(path, f"clip: expected whole numbers up to {_MOST_FRAMES}, found {_short(number)}")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (*clip.mean, *clip.std)):
        _damaged(path, f"clip: mean, std: expected numbers, found {_short((clip.mean, clip.std))}")
    return clip


def _check(path: str, result: VideoResult, num_classes: int) -> None:
    if not (_in_range(result, num_classes) and _label_fits(result, num_classes)):
        _damaged(path, f"the row of video {result.id} ({_short(result.path)}) holds impossible values")


def _in_range(result: VideoResult, num_classes: int) -> bool:
    best, p = result.classes, result.probabilities
    numbers = (*result.view_top1, *result.subset_top1, *result.view_label_ranks)
    return (
        len(best) == len(set(best)) == min(TOPK, num_classes)
        and all(0 <= value <= _ONE for value in p)
        and all(ahead >= behind for ahead, behind in itertools.pairwise(p))
        and all(0 <= number < num_classes for number in numbers)
    )


def _label_fits(result: VideoResult, num_classes: int) -> bool:
    """What is said of the label fits the label and the best classes."""
    label, rank, own = result.label, result.label_rank, result.label_probability
    if label < 0:
        return rank is None and own is None and not result.view_label_ranks
    if rank is None or own is None or not (0 <= rank < num_classes and 0 <= own <= _ONE):
        return False
    best = result.classes
    placed = best[rank] == label if rank < len(best) else label not in best
    return placed and len(result.view_label_ranks) == len(result.view_top1)


def _check_scores(folder: str, evaluation: Evaluation, results: Sequence[VideoResult]) -> None:
    """That both files are of one evaluation: one that was killed between them leaves the older one's scores."""
    right = correct(judged(results))
    found = {
        "videos": float(len(results)),
        "failed": float(len(failed(results))),
        "top1": float(right.mean()) if len(right) else math.nan,
    }
    for name, value in found.items():
        stated = evaluation.scores.get(name, math.nan)
        if abs(stated - value) > 1e-9 or math.isnan(stated) != math.isnan(value):
            raise UsageError(
                f"{folder}: {EVALUATION_FILE} and {PREDICTIONS_FILE} are not of one evaluation: {name} is {stated:g} "
                f"in the first and {value:g} in the second. Evaluate again to write both."
            )


def _short(value: object) -> str:
    return f"{value!r:.100}"
