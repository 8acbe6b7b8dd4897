"""What is said and kept of a step that was not finite: the text of the message, and ``non_finite.csv``."""

from __future__ import annotations

import csv
import logging
import os
from dataclasses import dataclass

from videogn.data.files import write_atomically
from videogn.results import csv_line

log = logging.getLogger(__name__)

FILE = "non_finite.csv"
_COLUMNS = ("step", "epoch", "batch", "process", "what", "path")
_OTHER_PRECISION = {
    "16-mixed": "try trainer.precision bf16-mixed, whose numbers go further, or 32-true",
    "16-true": "train in 16-mixed, bf16-mixed or 32-true instead of trainer.precision 16-true",
    "bf16-mixed": "try trainer.precision 32-true",
    "bf16-true": "try trainer.precision bf16-mixed or 32-true",
}


@dataclass(frozen=True)
class Suspect:
    """A batch with something that is not finite.

    Attributes:
        process: that had it.
        batch: its number in the epoch.
        what: ``"loss nan"`` and the like, or ``"gradient"``; empty for a batch that is not known to have anything.
        paths: of the files that its clips are from.
    """

    process: int
    batch: int
    what: str
    paths: list[str]


@dataclass(frozen=True)
class Found:
    """What one process has found in a step.

    Attributes:
        batches: all of the step.
        gradients: names of the parameters whose gradients are not finite, from the loss backwards.
        broken: names of weights and statistics that were not finite before the step.
        parameters: how many there are.
    """

    batches: list[Suspect]
    gradients: list[str]
    broken: list[str]
    parameters: int


def suspects(found: list[Found]) -> list[Suspect]:
    """The batches with something that is not finite; all of the step where that is known of none."""
    every = [batch for each in found for batch in each.batches]
    return [batch for batch in every if batch.what] or [Suspect(b.process, b.batch, "gradient", b.paths) for b in every]


def describe(step: int, epoch: int, found: list[Found]) -> str:
    """What was not finite, where, and which videos' clips were in it."""
    batches = suspects(found)
    text = f"step {step} (epoch {epoch}): not finite: {', '.join(dict.fromkeys(batch.what for batch in batches))}"
    if names := found[0].gradients:
        text += f"; gradients of {len(names)} of {found[0].parameters} parameters, {names[0]} nearest to the loss"
    lines = [f"{text}. The clips were of"]
    for batch in batches:
        process = f"process {batch.process}, " if len(found) > 1 else ""
        lines.append(f"  {process}batch {batch.batch}: {', '.join(batch.paths)}")
    return "\n".join(lines)


def describe_broken(step: int, epoch: int, broken: list[str]) -> str:
    """The message for weights that no batch could have been trained with."""
    others = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
    return (
        f"step {step} (epoch {epoch}): weights or statistics of the network were not finite before this step: "
        f"{broken[0]}{others}. The batch is not the cause, and no other would do better. Go on from a checkpoint from "
        "before that, with a lower model.recipe.lr; or, if training began like this, look at the file of weights that "
        "it began with."
    )


def fixes(precision: str) -> str:
    """What may help, for a ``trainer.precision``."""
    words = ["lower model.recipe.lr or lengthen model.recipe.warmup", "clip gradients (trainer.gradient_clip_val)"]
    words += [_OTHER_PRECISION[precision]] if precision in _OTHER_PRECISION else []
    return f"{'; '.join(words)}; look at these videos if they come again."


def add_rows(path: str, step: int, epoch: int, batches: list[Suspect]) -> None:
    """Appends a row for each video to the file. A disk that is full is no reason to end training."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            if file.tell() == 0:
                file.write(csv_line(_COLUMNS))
            for b in batches:
                file.writelines(csv_line([step, epoch, b.batch, b.process, b.what, video]) for video in b.paths)
    except OSError as error:
        log.warning("%s: cannot be written (%s)", path, error.strerror or error)


def forget_rows(path: str, step: int) -> None:
    """Drops the rows of a step and those after it, which a run that goes on from an earlier one takes again."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.reader(file))
        kept = [row for row in rows[1:] if row and row[0].isdecimal() and int(row[0]) < step]
        if len(kept) < len(rows) - 1:
            write_atomically(path, map(csv_line, [_COLUMNS, *kept]))
    except FileNotFoundError:
        pass
    except (OSError, csv.Error) as error:
        log.warning("%s: cannot be written anew (%s)", path, error)
