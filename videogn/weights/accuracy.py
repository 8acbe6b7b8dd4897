"""What a run's checkpoint holds of the accuracy of its own weights."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

from videogn.checkpoint import KEY


def measured_accuracy(stored: Mapping[str, Any], path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Accuracy on the validation split and how it was measured, as far as the checkpoint says so.

    Args:
        stored: what :func:`videogn.checkpoint.read` gives.
        path: of the checkpoint; a run's own record of its best files goes by their names.

    Returns:
        None where nothing is known of these very weights. ``top1`` and others are shares of ``videos``, each of which
        was judged by the mean over ``clips`` clips with the crops ``crop``; values that are not known are
        left out.
    """
    card = stored[KEY]
    if "accuracy" in card:  # a folder or a file of weights, which is exported again
        known = card["accuracy"]
        return known if isinstance(known, dict) else None
    callbacks = stored.get("callbacks")
    if not isinstance(callbacks, dict):
        return None
    protocol = (card["clip"] or {}).get("protocol", {})
    views = {"split": "val"} | {name: protocol[name] for name in ("clips", "crop") if name in protocol}
    scores = callbacks.get("Scores")
    if isinstance(scores, dict) and scores.get("global_step") == stored.get("global_step"):
        metrics = scores.get("metrics")
        found = {} if not isinstance(metrics, dict) else {str(k).removeprefix("val/"): v for k, v in metrics.items()}
        numbers = {name: value for name, value in found.items() if _is_finite(value)}
        counts: dict[str, Any] = {name: int(numbers[name]) for name in ("videos", "videos_failed") if name in numbers}
        run = {name: scores[name] for name in ("epoch", "global_step", "precision") if name in scores}
        return {**numbers, **counts, **views, **run} if "top1" in numbers else None
    return _by_name(callbacks, path, views)


def _by_name(
    callbacks: Mapping[str, Any], path: str | os.PathLike[str], views: dict[str, Any]
) -> dict[str, Any] | None:
    """The score under which the run's ModelCheckpoint keeps a file of this name among its best."""
    name = os.path.basename(os.fspath(path))
    for state in callbacks.values():
        best = state.get("best_k_models") if isinstance(state, dict) and state.get("monitor") == "val/top1" else None
        for file, score in best.items() if isinstance(best, dict) else ():
            if PureWindowsPath(str(file)).name == name and _is_finite(score):  # knows both separators
                return {"top1": round(float(score), 6), **views}
    return None


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
