"""Short names for runs, from what they do not have in common."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from videogn.results import Evaluation, Training
from videogn.spec import ClipSpec

UNKNOWN = "–"
_LONGEST = 60

# How a name says what is in a column of differences; columns that are not here are in no name.
_IN_NAMES = {
    "norm": "{}",
    "norm arguments": "{}",
    "depth": "depth {}",
    "variant": "variant {}",
    "width": "width {}",
    "batch": "batch {}",
    "clip": "{}",
    "clips": "{} clips",
    "crops": "{} crops",
    "split": "{}",
}


def described(evaluation: Evaluation, clip: ClipSpec | None, training: Training | None) -> dict[str, str]:
    """What may set a run apart from others, each as a short text; the same names for all runs.

    ``clip`` is frames x stride in training, ``evaluated`` the same in evaluation, ``batch`` the clips per process and
    forward pass.
    """
    architecture = evaluation.architecture
    given = architecture.get("norm_kwargs")
    arguments = (f"{name}={value}" for name, value in given.items()) if isinstance(given, Mapping) else ()
    own = clip.protocol if clip else None
    return {
        "norm": _text(architecture.get("norm")),
        "norm arguments": _text(", ".join(arguments) or None),
        **{name: _text(architecture.get(name)) for name in ("depth", "variant", "width")},
        "batch": _text(training and training.batch_size),
        "clips per step": _text(training and training.clips_per_step),
        "clip": f"{clip.frames}x{clip.stride}" if clip else UNKNOWN,
        "split": _text(evaluation.split),
        "clips": _text(own and own.clips),
        "crops": _text(own and own.crop),
        "crop size": _text(own and own.side),
        "evaluated": f"{clip.eval_frames}x{clip.eval_stride}" if clip else UNKNOWN,
        "positions": _text(own and own.positions),
        "short side": _text(own and own.short_side),
        "steps": _text(evaluation.global_step),
        "epoch": _text(evaluation.epoch),
        "precision": _text(evaluation.precision or None),
    }


def distinguished(texts: Sequence[Mapping[str, str]], folders: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """A name for each run and what is not the same for all of them.

    Names are the norm and the differences that matter most; of runs that are still called the same, also the last
    parts of their folders, as many as set them apart.
    """
    columns = list(texts[0]) if texts else []
    different = [name for name in columns if len({text[name] for text in texts}) > 1]
    shown = {"norm", *different}
    if len({text["norm"] for text in texts}) == len({(text["norm"], text["norm arguments"]) for text in texts}):
        shown.discard("norm arguments")
    names = [
        ", ".join(form.format(text[n]) for n, form in _IN_NAMES.items() if n in shown and text[n] != UNKNOWN) or "run"
        for text in texts
    ]
    names = _unique([_cut(name) for name in _with_folders(names, folders)])
    return [(name, {key: text[key] for key in different}) for name, text in zip(names, texts, strict=True)]


def _with_folders(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    again = Counter(names)
    same = [i for i, name in enumerate(names) if again[name] > 1]
    parts = [re.split(r"[/\\]+", _text(os.path.normpath(folders[i]))) for i in same]
    of_runs = [part[:-1] if len(part) > 1 and part[-1].startswith("version_") else part for part in parts]
    ends: list[str] = []
    for places in (of_runs, parts):
        for count in range(1, max(map(len, places), default=0) + 1):
            ends = ["/".join(place[-count:]) for place in places]
            if len(set(ends)) == len(ends):
                break
        if len(set(ends)) == len(ends):
            break
    longer = dict(zip(same, ends, strict=True))
    return [_joined(name, longer[i]) if i in longer else name for i, name in enumerate(names)]


def _joined(name: str, folder: str) -> str:
    return folder if folder.startswith(name) else f"{name}, {folder}"


def _unique(names: Sequence[str]) -> list[str]:
    """The same names with numbers behind those that are there already."""
    found: list[str] = []
    for name in names:
        count = 1
        unique = name
        while unique in found:
            count += 1
            unique = f"{name} ({count})"
        found.append(unique)
    return found


def _cut(name: str) -> str:
    """At most :data:`_LONGEST` characters; what is behind says more than what is between."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 + 1 :]}"


def _text(value: object) -> str:
    """On one line."""
    return UNKNOWN if value is None else " ".join(str(value).split())
