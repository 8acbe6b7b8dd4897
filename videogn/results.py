"""What a run leaves in its folder for people and for ``videogn report``: plain files. Imports no torch.

- ``predictions.csv``: one row per video of the last evaluation, in data-set order.
- ``evaluation.json``: what was evaluated, how, its scores, its time and memory (:class:`Evaluation`).
- ``training.json``: what training took (:class:`Training`).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from videogn.data.files import write_atomically
from videogn.errors import UsageError

PREDICTIONS_FILE = "predictions.csv"
EVALUATION_FILE = "evaluation.json"
TRAINING_FILE = "training.json"
TOPK = 5
OK = "ok"

_RANKED = [f"{what}_{i}" for i in range(1, TOPK + 1) for what in ("class", "probability")]
_COLUMNS = ["id", "path", "label", "status", *_RANKED, "label_rank", "label_probability"]
_LISTS = ["view_top1", "view_label_ranks", "subset_top1"]
_FORMAT = 1


@dataclass(frozen=True)
class VideoResult:
    """What an evaluation found for one video. Classes are numbers in [0, num_classes).

    Attributes:
        id: the video's number in the data set.
        path: of the file.
        label: its class; -1 if unknown.
        error: why the file gave no frames, or None; then everything below is empty.
        classes: the best classes, at most five, by the mean of the views' probabilities.
        probabilities: theirs, falling.
        label_rank: how many classes are ahead of the label; None if unknown.
        label_probability: the label's; None if unknown.
        view_top1: best class of each view; the crops of a clip one after another, clips in the order of the video.
        view_label_ranks: how many classes are ahead of the label in each view; empty if unknown.
        subset_top1: entry k - 1 is the best class by the mean over k of the K clips, with all their crops: clips
            ``round(i * (K - 1) / (k - 1))`` for i in 0 ... k - 1, halves up; ``(K - 1) // 2``, the middle, for k = 1.
    """

    id: int
    path: str
    label: int
    error: str | None = None
    classes: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    label_rank: int | None = None
    label_probability: float | None = None
    view_top1: tuple[int, ...] = ()
    view_label_ranks: tuple[int, ...] = ()
    subset_top1: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VideoResult:
        """The inverse of ``dataclasses.asdict``, also after a way through JSON."""
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**given)


@dataclass(frozen=True)
class Evaluation:
    """What was evaluated, and how. Plain values.

    Attributes:
        split: ``"val"``, ``"test"`` or ``"predict"``.
        scores: top1, top5, clip_top1, clip_top5, loss, videos, failed, expected; empty for ``"predict"``.
        clip: the clip specification with its protocol, as ``ClipSpec.to_dict`` gives it.
        architecture: num_classes, depth, variant, width, norm, norm_kwargs.
        class_names: in the order of the class numbers; None if unknown.
        global_step: optimiser steps that the weights have seen; None if unknown.
        epoch: likewise.
        checkpoint: path of the weights; None for those of the running training.
        seconds: wall time of this evaluation, without set-up; of the part after an interruption only.
        seconds_videos: how many videos were evaluated in that time.
        peak_memory_bytes: of the CUDA device if one was used, else of the main process.
        device: for example ``"cpu"`` or ``"NVIDIA H100"``.
        precision: of the Trainer, for example ``"bf16-mixed"``.
        processes: how many shared the videos.
        versions: of videogn, torch, lightning, av.
        date: when it ended, ISO 8601, UTC.
    """

    split: str
    scores: dict[str, float] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    architecture: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] | None = None
    global_step: int | None = None
    epoch: int | None = None
    checkpoint: str | None = None
    seconds: float | None = None
    seconds_videos: int | None = None
    peak_memory_bytes: int | None = None
    device: str = ""
    precision: str = ""
    processes: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""


@dataclass(frozen=True)
class Training:
    """What training took. Plain values.

    Attributes:
        parameters: of the network.
        multiply_adds: of one training clip.
        counted_bytes_per_clip: what the backward pass keeps per clip, counted; None if it could not be.
        counted_peak_bytes: of a whole step, counted; None on a CPU.
        peak_memory_bytes: measured; of the CUDA device if one was used, else of the main process.
        seconds: wall time of the training epochs, validation included; of a run that went on from a checkpoint, up to
            the checkpoint and since.
        train_seconds: the part of it between the first and the last batch of each epoch, without validation.
        clips: training clips seen in that time, over all processes.
        batch_size: clips per process and forward pass: the batch of a batch norm.
        clips_per_step: clips per optimiser step.
        device: for example ``"cpu"`` or ``"NVIDIA H100"``.
        precision: of the Trainer.
        processes: how many trained together.
        versions: of videogn, torch, lightning, av.
        date: when it ended, ISO 8601, UTC.
    """

    parameters: int | None = None
    multiply_adds: int | None = None
    counted_bytes_per_clip: int | None = None
    counted_peak_bytes: int | None = None
    peak_memory_bytes: int | None = None
    seconds: float | None = None
    train_seconds: float | None = None
    clips: int | None = None
    batch_size: int | None = None
    clips_per_step: int | None = None
    device: str = ""
    precision: str = ""
    processes: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""


def write_predictions(path: str, results: Iterable[VideoResult], class_names: Sequence[str]) -> None:
    """Writes ``predictions.csv``, whole or not at all; classes by name."""

    def lines() -> Iterable[str]:
        yield csv_line([*_COLUMNS, *_LISTS])
        for r in results:
            ranked: list[Any] = []
            for i in range(TOPK):
                known = i < len(r.classes)
                ranked += [class_names[r.classes[i]], f"{r.probabilities[i]:.9g}"] if known else ["", ""]
            label = class_names[r.label] if r.label >= 0 else ""
            own = "" if r.label_probability is None else f"{r.label_probability:.9g}"
            rank = "" if r.label_rank is None else r.label_rank
            lists = [" ".join(map(str, getattr(r, name))) for name in _LISTS]
            yield csv_line([r.id, r.path, label, r.error or OK, *ranked, rank, own, *lists])

    write_atomically(path, lines())


def read_predictions(path: str, class_names: Sequence[str]) -> list[VideoResult]:
    """The inverse of :func:`write_predictions`, probabilities to nine digits.

    Raises:
        UsageError: no such file, or one that this project did not write, or with other classes.
    """
    number = {name: i for i, name in enumerate(class_names)}
    results = []
    line = 0
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            if (found := list(rows.fieldnames or ())) != [*_COLUMNS, *_LISTS]:
                raise UsageError(
                    f"{path}: expected the columns {', '.join([*_COLUMNS, *_LISTS])}; found {found!s:.200}"
                )
            for line, row in enumerate(rows, start=2):  # noqa: B007  named in the error below
                classes = tuple(number[row[f"class_{i}"]] for i in range(1, TOPK + 1) if row[f"class_{i}"])
                results.append(
                    VideoResult(
                        id=int(row["id"]),
                        path=row["path"],
                        label=number[row["label"]] if row["label"] else -1,
                        error=None if row["status"] == OK else row["status"],
                        classes=classes,
                        probabilities=tuple(float(row[f"probability_{i + 1}"]) for i in range(len(classes))),
                        label_rank=int(row["label_rank"]) if row["label_rank"] else None,
                        label_probability=float(row["label_probability"]) if row["label_probability"] else None,
                        **{name: tuple(map(int, row[name].split())) for name in _LISTS},
                    )
                )
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: row {line} is not one of predictions.csv of this run's classes ({error})") from error
    return results


_Record = TypeVar("_Record", Evaluation, Training)


def write_record(path: str, record: Evaluation | Training) -> None:
    """Writes ``evaluation.json`` or ``training.json``, whole or not at all."""
    write_atomically(path, [json.dumps({"format": _FORMAT, **dataclasses.asdict(record)}, indent=1), "\n"])


def read_record(path: str, kind: type[_Record]) -> _Record:
    """The inverse of :func:`write_record`; entries that this version does not know are left out.

    Raises:
        UsageError: no such file, no JSON, or another format.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON ({error})") from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise UsageError(f"{path}: expected a record of format {_FORMAT}, found another file or a newer one")
    known = {f.name for f in dataclasses.fields(kind)}
    try:
        return kind(**{name: value for name, value in values.items() if name in known})
    except TypeError as error:
        raise UsageError(f"{path}: {error}") from error


def csv_line(values: Sequence[Any]) -> str:
    """A row of a CSV file, with its end."""
    out = io.StringIO()
    # What is quoted depends on the end of a line: without \r in it, a name with one would break its row.
    csv.writer(out, lineterminator="\r\n").writerow(values)
    return out.getvalue().removesuffix("\r\n") + "\n"
