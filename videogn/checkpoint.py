"""What a videogn checkpoint says of itself beside its weights, and whether a network fits it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from videogn.errors import UsageError
from videogn.spec import ClipSpec

KEY = "videogn"
# What decides the network's function or the shapes of its weights. Everything else may differ between runs.
ARCHITECTURE = ("num_classes", "depth", "variant", "width", "norm", "norm_kwargs")


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


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint written by a videogn run, to the CPU, with ``weights_only=True``.

    Raises:
        UsageError: no such file, not a checkpoint, or a checkpoint of another program.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types, down to KeyError, for bytes that are no checkpoint
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint or "state_dict" not in checkpoint:
        raise UsageError(
            f"{path}: expected a checkpoint written by videogn (with an entry {KEY!r}), "
            f"found {sorted(checkpoint) if isinstance(checkpoint, dict) else type(checkpoint).__name__}"
        )
    return checkpoint


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
