"""What a reader of a study's table has to know: seeds, learning rates, samples seen, sources. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from videogn.study.grid import Cell, Study
from videogn.study.options import option
from videogn.study.outcomes import CellResult
from videogn.study.runs import deciding_cell
from videogn.study.series import words

_OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}


def captions(study: Study, results: Sequence[CellResult]) -> list[str]:
    """Paragraphs beneath the table, in Markdown; the study's notes are the last."""
    how = [_seeds(study), _learning_rates(study, results), *_weights(study), _samples(results)]
    return [*how, *_top5(study), *_sources(study), *study.notes]


def has_top5(cell: Cell) -> bool:
    """Whether top-5 says anything: among five classes or fewer it is always right."""
    classes = option(cell.config, "model.num_classes")
    return not isinstance(classes, int) or classes > 5


def _top5(study: Study) -> list[str]:
    without = [cell.text() for cell in study.cells if not has_top5(cell)]
    if not without:
        return []
    where = "Here" if len(without) == len(study.cells) else "; ".join(without)
    return [f"{where}: the table has no top-5, which is 100 % with five classes or fewer."]


def sources(study: Study) -> dict[str, int]:
    """The sources of the published results -> their numbers, from 1 on, in the order of the study's file."""
    return {source: i for i, source in enumerate(dict.fromkeys(row.source for row in study.reported), start=1)}


def _seeds(study: Study) -> str:
    if len(study.seeds) == 1:
        return f"Here: one run of each cell (seed {study.seeds[0]}), without a spread. A dash: no result."
    seeds = ", ".join(map(str, study.seeds))
    return (
        f"Here: the median over {len(study.seeds)} seeds ({seeds}) of each cell, in brackets the lowest and the highest"
        " of them; a cell that lacks runs says how many it has. A dash: no result."
    )


def _learning_rates(study: Study, results: Sequence[CellResult]) -> str:
    rates = {tuple(result.cell.values.items()): result.lr for result in results}
    rules: dict[str, list[str]] = {}
    for cell in study.cells:
        lr, deciding = rates.get(tuple(cell.values.items())), deciding_cell(study, cell)
        if cell is not deciding and _rule(cell, lr) == _rule(deciding, lr):
            continue
        open_yet = study.rates is not None and lr not in study.rates.values
        rules.setdefault("not yet" if open_yet else _rule(cell, lr), []).append(cell.text())
    used = "; ".join(rule if len(rules) == 1 else f"{rule} ({'; '.join(cells)})" for rule, cells in rules.items())
    own = study.rates
    if own is None:
        every = " in every cell" if len(rules) == 1 and len(study.cells) > 1 else ""
        return f"Learning rate: {used}{every}."
    values = ", ".join(f"{value:g}" for value in own.values)
    among = "which is among those of the table" if own.seed in study.seeds else "which is not among those of the table"
    of = "for each cell"
    if own.at:
        at = ", ".join(f"{words(axis)} {value}" for axis, value in own.at.items())
        of = f"for each cell with {at}, whose rates the other cells share,"
    every = " in every cell" if len(rules) == 1 else ""
    return (
        f"Learning rate: {of} the best of {len(own.values)} ({values}) by top-1 on seed {own.seed}, {among}; the same "
        f"effort for every cell. Chosen: {used}{every}."
    )


def _rule(cell: Cell, lr: float | None) -> str:
    name = str(option(cell.config, "model.recipe.optimizer", "sgd"))
    lr_clips = option(cell.config, "model.recipe.lr_clips")
    lr = option(cell.config, "model.recipe.lr") if lr is None else lr
    rate = "the default" if lr is None else f"{float(lr):g}"
    linear = f" × clips per step / {lr_clips} (linear rule)" if lr_clips else ""
    return f"{rate}{linear} with {_OPTIMIZERS.get(name, name)}"


def _weights(study: Study) -> list[str]:
    own = study.pretraining
    if own is None:
        return []
    takers: dict[str, list[str]] = {}
    for value, other in own.uses.items():
        takers.setdefault(other, []).append(value)
    others = "; ".join(f"{', '.join(values)}, which take those of {other}" for other, values in takers.items())
    but, their = (f" but {others}", "their") if others else ("", "its")
    return [
        f"Weights: one pre-training (seed {own.seed}) for each {words(own.axis)}{but}; all {their} runs start from "
        "there. Spread and tests are over what comes after it: another pre-training may shift results. Its clips are "
        "not among those seen."
    ]


def _samples(results: Sequence[CellResult]) -> str:
    runs = [
        (outcome.training.clips if outcome.training else None, result.cell.text())
        for result in results
        for outcome in result.outcomes
    ]
    known = [(clips, cell) for clips, cell in runs if clips]
    if not known:
        return "Training clips seen: not recorded."
    (low, fewest), (high, most) = min(known), max(known)
    unknown = f" {len(runs) - len(known)} of {len(runs)} runs have not recorded it." if len(known) < len(runs) else ""
    if low == high:
        return f"Training clips seen: {low:,} in every run.{unknown}"
    apart = 100 * (high - low) / high
    return (
        f"Training clips seen differ by {apart:.2g} %: from {low:,} ({fewest}) to {high:,} ({most}) in a run.{unknown}"
    )


def _sources(study: Study) -> list[str]:
    numbers = sources(study)
    if not numbers:
        return []
    listed = "; ".join(f"[{number}] {text}" if len(numbers) > 1 else text for text, number in numbers.items())
    return [f"Reported: {listed}."]
