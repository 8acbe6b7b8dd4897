"""The card of a checkpoint: what it says of itself beside its weights, and whether a network fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from videogn.errors import UsageError
from videogn.spec import ClipSpec, nested

KEY = "videogn"
# What decides the network's function or the shapes of its weights. Everything else may differ between runs.
ARCHITECTURE = ("num_classes", "depth", "variant", "width", "norm", "norm_kwargs")
CARD_LIMIT = 16 << 20  # bytes of JSON; that of a network with 400 classes has about 10 thousand


def description(
    architecture: Mapping[str, Any], class_names: tuple[str, ...] | None, clip: ClipSpec | None
) -> dict[str, Any]:
    """The entry a checkpoint carries under ``"videogn"``: plain values, loadable with ``weights_only=True``."""
    return {
        "architecture": dict(architecture),
        "class_names": list(class_names) if class_names is not None else None,
        "clip": clip.to_dict() if clip is not None else None,
        "versions": {name: version(name) for name in ("videogn", "torch", "torchvision", "lightning", "pytorchvideo")},
    }


def require_same_architecture(stored: Mapping[str, Any], asked: Mapping[str, Any], source: object) -> None:
    """Refuse to put a checkpoint's weights into another network, even where the parameter names would fit.

    Args:
        stored: the checkpoint's architecture.
        asked: the architecture of the network that should take the weights.
        source: what the message calls the checkpoint.

    Raises:
        UsageError: naming each difference.
    """
    different = [
        f"model.{name}: the checkpoint has {stored.get(name)!r}, the command asks for {asked.get(name)!r}"
        for name in ARCHITECTURE
        if (stored.get(name) or None) != (asked.get(name) or None)
    ]
    if different:
        raise UsageError(
            f"{source}: this checkpoint is of another network.\n  "
            + "\n  ".join(different)
            + "\nLeave these options out to take the checkpoint's, or choose a checkpoint that fits."
        )


def parse_card(text: str | bytes, source: Path) -> dict[str, Any]:
    if len(text) > CARD_LIMIT:
        raise UsageError(f"{source}: expected a card of at most {CARD_LIMIT} bytes, found more")
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source}: the card is not JSON that can be read ({reason(error)})") from error
    check_card(card, source)
    return card


def check_card(card: Any, source: Path) -> None:
    """Refuse a card whose entries do not have the types that this project writes."""
    require(isinstance(card, dict), source, KEY, "a mapping", card)
    architecture = card.get("architecture")
    require(isinstance(architecture, dict), source, "architecture", "a mapping", architecture)
    kinds: dict[str, tuple[type, ...]] = {"variant": (str,), "norm": (str,), "norm_kwargs": (dict, type(None))}
    for name in ARCHITECTURE:
        require(name in architecture, source, f"architecture.{name}", "a value", "none")
        allowed = kinds.get(name, (int,))
        words = " or ".join({dict: "mapping", type(None): "null"}.get(kind, kind.__name__) for kind in allowed)
        require(type(architecture[name]) in allowed, source, f"architecture.{name}", words, architecture[name])
    names, classes = card.get("class_names"), architecture["num_classes"]
    require(
        names is None or (isinstance(names, list) and len(names) == classes and all(isinstance(n, str) for n in names)),
        source,
        "class_names",
        f"null, or as many names as architecture.num_classes = {classes}",
        names,
    )
    clip = card.get("clip")
    if clip is not None:
        require(isinstance(clip, dict), source, "clip", "null or a mapping", clip)
        card["clip"] = clip = nested(clip)
        _check_types(clip, ClipSpec().to_dict(), source, "clip")
        try:
            ClipSpec.from_dict(clip)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{source}: {error}") from error


def _check_types(values: Any, usual_values: Mapping[str, Any], source: Path, entry: str) -> None:
    for name, usual in usual_values.items():
        found = values.get(name, usual)
        if isinstance(usual, dict):
            require(isinstance(found, dict), source, f"{entry}.{name}", "a mapping", found)
            _check_types(found, usual, source, f"{entry}.{name}")
            continue
        if name == "preset":
            fits, words = found is None or type(found) is str, "null or str"
        elif usual is None:
            fits, words = found is None or type(found) is int, "null or int"
        elif isinstance(usual, list):
            fits = isinstance(found, list | tuple) and len(found) == len(usual)
            fits, words = fits and all(_is_number(value) for value in found), f"{len(usual)} numbers"
        elif isinstance(usual, float):
            fits, words = _is_number(found), "a number"
        else:
            fits, words = type(found) is type(usual), type(usual).__name__
        require(fits, source, f"{entry}.{name}", words, found)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e9 < value < 1e9  # no NaN, and no integer that overflows a float


def require(fits: bool, source: Path, entry: str, expected: str, found: object) -> None:
    if not fits:
        text = found if found == "none" else repr(found)
        raise UsageError(f"{source}: {entry}: expected {expected}, found {text!s:.80}; the file is damaged or no card")


def reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
