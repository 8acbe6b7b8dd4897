"""The file of a study: axes of named options over a base configuration, seeds, and what is made of them.

Imports no torch.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videogn.errors import UsageError
from videogn.study.claims import Claim
from videogn.study.grid import Cell, Pretraining, Rates, Reported, Study, clips_per_step, file_word
from videogn.study.options import Options, digest, merged, nested, option, read_yaml
from videogn.study.values import KNOWN_AXES, check_names, is_number, is_whole, mapping_of, text_of, truth

_INTEGERS = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.check_val_every_n_epoch", "trainer.accumulate_grad_batches",
    "data.batch_size", "model.recipe.clips_per_step",
)  # fmt: skip

_LONGEST = 60  # of one name; a folder of several, with what else it says, has at most 255 on most disks
_FIELDS = (
    "title", "base", "options", "axes", "seeds", "learning_rates", "pretraining", "claims", "reported", "figure",
    "folder", "checkpoints", "notes",
)  # fmt: skip


def read_study(
    path: str | os.PathLike[str], extra: Options | None = None, folder: str | os.PathLike[str] | None = None
) -> Study:
    """Reads the file of a study.

    Args:
        path: YAML; files that it names are looked for beside it.
        extra: options for every run, on top of the file's.
        folder: of the runs, instead of the file's.

    Raises:
        UsageError: no such file, a name that it does not know, an axis without values, or a grid whose runs would not
            see the same number of samples at comparable learning rates.
    """
    found = read_yaml(path)
    here = Path(path).parent
    unknown = [name for name in found if name not in _FIELDS]
    if unknown:
        raise UsageError(f"{path}: {unknown[0]}: expected one of {', '.join(_FIELDS)}")
    base = _with_configs({"config": found.get("base") or []}, here, f"{path}: base")
    base = merged(base, _options(found, "options", here, path))
    axes = _axes(found.get("axes"), here, path)
    on_top = nested(extra or {})
    cells, without = [], []
    for chosen in itertools.product(*(values.items() for values in axes.values())):
        config = base
        for _, (_, options) in sorted(zip(axes, chosen, strict=True), key=lambda one: one[0] != "norm"):
            config = merged(config, options)  # a norm first: its own options, or none, are what other axes add to
        values = dict(zip(axes, (name for name, _ in chosen), strict=True))
        without.append(config)
        cells.append(Cell(values, merged(config, on_top)))
    if len({digest(cell.config) for cell in cells}) < len({digest(config) for config in without}):
        raise UsageError(
            f"{', '.join(f'--{name}' for name in extra or {})}: expected options that no axis of {path} sets, or cells "
            "that differ would be the same; change the axes there"
        )
    names = {axis: tuple(values) for axis, values in axes.items()}
    study = Study(
        name=Path(path).stem,
        title=text_of(found, "title", path) or Path(path).stem,
        cells=tuple(cells),
        axes=names,
        seeds=_seeds(found.get("seeds", [0]), path),
        rates=_rates(found.get("learning_rates"), names, here, path),
        pretraining=_pretraining(found.get("pretraining"), names, here, path),
        claims=tuple(_claim(claim, names, path) for claim in _list(found, "claims", path)),
        reported=tuple(_reported(row, names, path) for row in _list(found, "reported", path)),
        **_figure(found.get("figure") or {}, names, path),
        folder=Path(folder or text_of(found, "folder", path) or "runs/study"),
        checkpoints=truth(found.get("checkpoints", True), f"{path}: checkpoints"),
        notes=tuple(map(str, _list(found, "notes", path))),
    )
    _check_comparable(study, path)
    return study


def _axes(found: Any, here: Path, path: Any) -> dict[str, dict[str, Options]]:
    if not isinstance(found, Mapping) or not found:
        raise UsageError(f"{path}: axes: expected at least one axis with its values, found {found!r:.80}")
    axes: dict[str, dict[str, Options]] = {}
    for axis, values in found.items():
        where = f"{path}: axes.{axis}"
        if not isinstance(axis, str):
            raise UsageError(f"{where}: expected a name, found a value of type {type(axis).__name__}; put it in quotes")
        if not values or not isinstance(values, list | Mapping):
            raise UsageError(f"{where}: expected a list of values, or a mapping of names to options; found {values!r}")
        if isinstance(values, Mapping):
            named = {str(name): _with_configs(of or {}, here, f"{where}.{name}") for name, of in values.items()}
            if len(named) < len(values):
                raise UsageError(f"{where}: expected each name once, found {', '.join(map(str, values))}")
            axes[axis] = named
            continue
        if axis not in KNOWN_AXES:
            raise UsageError(
                f"{where}: expected a mapping of names to options, since only {', '.join(KNOWN_AXES)} may be lists"
            )
        try:
            axes[axis] = {str(value): nested(KNOWN_AXES[axis](value)) for value in values}
        except (ValueError, AttributeError) as error:
            kinds = {"clip": "frames x stride such as 32x2", "norm": "names"}
            raise UsageError(
                f"{where}: expected {kinds.get(axis, 'positive whole numbers')}, found {values}"
            ) from error
        if len(axes[axis]) < len(values):
            raise UsageError(f"{where}: expected each value once, found {values}")
    for axis, named in axes.items():
        _check_words(list(named), f"{path}: axes.{axis}")
    return axes


def _check_words(names: Sequence[str], where: str) -> None:
    """Refuses names whose folders, figures and learning rates would be the same."""
    words: dict[str, str] = {}
    for name in names:
        word = file_word(name)
        other = words.setdefault(word.casefold(), name)
        if not word or len(word.encode()) > _LONGEST or not name.isprintable():
            expected = f"names of letters or digits, one line of at most {_LONGEST} bytes"
            raise UsageError(f"{where}: expected {expected}; found {name!r:.80}")
        if other != name:
            raise UsageError(
                f"{where}: expected names that differ in letters or digits, which folders and figures are named by; "
                f"found {other!r} and {name!r}"
            )


def _with_configs(options: Any, here: Path, where: str) -> Options:
    """Options whose ``config`` names files that they stand on."""
    if not isinstance(options, Mapping):
        raise UsageError(f"{where}: expected options by name, found {options!r:.80}")
    files = options.get("config") or []
    files = [files] if isinstance(files, str) else files
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise UsageError(f"{where}: expected names of configuration files, found {files!r:.80}")
    out: Options = {}
    for name in files:
        out = merged(out, read_yaml(here / name))
    return merged(out, nested({name: value for name, value in options.items() if name != "config"}))


def _options(found: Mapping[str, Any], name: str, here: Path, path: Any) -> Options:
    return _with_configs(found.get(name) or {}, here, f"{path}: {name}")


def _list(found: Mapping[str, Any], name: str, path: Any) -> list[Any]:
    value = found.get(name) or []
    if not isinstance(value, list):
        raise UsageError(f"{path}: {name}: expected a list, found {value!r:.80}")
    return value


def _seeds(found: Any, path: Any) -> tuple[int, ...]:
    whole = isinstance(found, list) and all(is_whole(seed) and seed >= 0 for seed in found)
    if not whole or not found or len(set(found)) < len(found):
        raise UsageError(f"{path}: seeds: expected different whole numbers such as [0, 1, 2], found {found!r:.80}")
    return tuple(found)


def _rates(found: Any, axes: Mapping[str, Sequence[str]], here: Path, path: Any) -> Rates | None:
    if found is None:
        return None
    where = f"{path}: learning_rates"
    check_names(found, ("values", "seed", "at", "options"), where)
    values = found.get("values")
    numbers = isinstance(values, list) and all(is_number(value) and value > 0 for value in values)
    if not isinstance(values, list) or not numbers or len(set(values)) < max(2, len(values)):
        raise UsageError(
            f"{where}.values: expected two or more different rates such as 1.0e-3 (1e-3 is text to YAML), found "
            f"{values!r}"
        )
    if not is_whole(found.get("seed")) or found["seed"] < 0:
        raise UsageError(f"{where}.seed: expected a whole number, found {found.get('seed')!r}")
    at = mapping_of(found, "at", where)
    for axis, value in at.items():
        if value not in axes.get(axis, ()):
            raise UsageError(f"{where}.at: expected values of the axes {', '.join(axes)}, found {axis}: {value}")
    return Rates(tuple(sorted(map(float, values))), found["seed"], at, _options(found, "options", here, where))


def _pretraining(found: Any, axes: Mapping[str, Sequence[str]], here: Path, path: Any) -> Pretraining | None:
    if found is None:
        return None
    where = f"{path}: pretraining"
    check_names(found, ("axis", "options", "uses", "seed"), where)
    axis, uses, seed = found.get("axis"), mapping_of(found, "uses", where), found.get("seed", 0)
    if not isinstance(axis, str) or axis not in axes:
        raise UsageError(f"{where}.axis: expected one of {', '.join(axes)}, found {axis!r}")
    for value in [*uses, *uses.values()]:
        if value not in axes[axis]:
            raise UsageError(f"{where}.uses: expected values of {axis} ({', '.join(axes[axis])}), found {value!r}")
    for value, other in uses.items():
        if other in uses:
            raise UsageError(f"{where}.uses: expected {other}, whose weights {value} takes, to have weights of its own")
    if not is_whole(seed) or seed < 0:
        raise UsageError(f"{where}.seed: expected a whole number, found {seed!r}")
    return Pretraining(axis, _options(found, "options", here, where), uses, seed)


def _claim(found: Any, axes: Mapping[str, Sequence[str]], path: Any) -> Claim:
    where = f"{path}: claims"
    check_names(found, ("text", "of", "against", "expect", "margin"), where)
    text, expect, margin = found.get("text"), found.get("expect", "above"), found.get("margin")
    fits = expect in ("above", "below") and margin is None
    if not (fits or (expect == "within" and is_number(margin) and margin > 0)) or not text or not isinstance(text, str):
        raise UsageError(
            f"{where}: expected text, and expect: above, below, or within with a margin in points; found {found!r:.200}"
        )
    sides = []
    for name in ("of", "against"):
        side = found.get(name) or []
        cells = side if isinstance(side, list) else [side]
        for cell in cells:
            full = isinstance(cell, Mapping) and set(cell) == set(axes)
            if not full or any(str(value) not in axes[axis] for axis, value in cell.items()):
                raise UsageError(
                    f"{where}: {name}: expected a value of each axis ({', '.join(axes)}), found {cell!r:.200}"
                )
        if len(cells) > 2 or (name == "of" and not cells):
            raise UsageError(f"{where}: {name}: expected a cell, or two for the rise between them, found {len(cells)}")
        sides.append(tuple({axis: str(value) for axis, value in cell.items()} for cell in cells))
    return Claim(text, sides[0], sides[1], expect, margin)


def _reported(found: Any, axes: Mapping[str, Sequence[str]], path: Any) -> Reported:
    where = f"{path}: reported"
    check_names(found, ("values", "top1", "top5", "source"), where)
    values = found.get("values")
    if not isinstance(values, Mapping) or set(values) != set(axes) or "top1" not in found or "source" not in found:
        raise UsageError(
            f"{where}: expected values of each axis ({', '.join(axes)}), top1 in % and a source, found {found!r:.200}"
        )
    top1, top5 = found["top1"], found.get("top5")
    for name, score in (("top1", top1), ("top5", top5)):
        if not (name == "top5" and score is None) and not (is_number(score) and 0 <= score <= 100):
            raise UsageError(f"{where}: {name}: expected a number in %, found {score!r:.80}")
    five = None if top5 is None else float(top5)
    return Reported({k: str(values[k]) for k in axes}, float(top1), five, str(found["source"]))


def _figure(found: Any, axes: Mapping[str, Sequence[str]], path: Any) -> dict[str, str]:
    check_names(found, ("x", "lines"), f"{path}: figure")
    out = {"x": found.get("x", list(axes)[-1]), "lines": found.get("lines", next(iter(axes)))}
    for name, axis in out.items():
        if not isinstance(axis, str) or axis not in axes:
            raise UsageError(f"{path}: figure.{name}: expected one of {', '.join(axes)}, found {axis!r}")
    return out


def _check_comparable(study: Study, path: Any) -> None:
    """Refuses batch sizes that would see different numbers of samples, or rates that no rule makes comparable."""
    for cell in study.cells:
        for group in ("model", "data", "trainer", "model.recipe"):
            if not isinstance(option(cell.config, group) or {}, Mapping):
                raise UsageError(f"{path}: {group}: expected options by name, found {option(cell.config, group)!r:.80}")
        for name in _INTEGERS:
            if not is_whole(option(cell.config, name) or 0):
                raise UsageError(
                    f"{path}: {name}: expected a whole number, found {option(cell.config, name)!r:.80} in {cell.text()}"
                )
        epochs, every = (
            option(cell.config, "trainer.max_epochs"),
            option(cell.config, "trainer.check_val_every_n_epoch"),
        )
        if epochs and every and epochs % every:
            raise UsageError(
                f"{path}: trainer.check_val_every_n_epoch: expected a divisor of trainer.max_epochs, {epochs}, since a "
                f"study compares the last validations of its runs; found {every} in {cell.text()}"
            )
    sizes = sorted({clips_per_step(cell.config) for cell in study.cells})
    if len(sizes) < 2:
        return
    for name in ("trainer.max_steps", "trainer.limit_train_batches"):  # of the latter, a share is a float
        if any(is_whole(value := option(cell.config, name)) and value > 0 for cell in study.cells):
            raise UsageError(
                f"{path}: {name}: the runs have {sizes} clips per step and would see different numbers of samples; set "
                "trainer.max_epochs instead"
            )
    for cell in study.cells:
        recipe = option(cell.config, "model.recipe") or {}
        if recipe.get("optimizer", "sgd") == "sgd" and not recipe.get("lr_clips"):
            raise UsageError(
                f"{path}: model.recipe.lr_clips: expected the clips per step that model.recipe.lr is for, since the "
                f"runs have {sizes} and SGD's rate goes with them (linear rule); found none"
            )
