"""The states of the global random generators: Python's, NumPy's and torch's, on the CPU and on the device."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def states(device: torch.device) -> dict[str, Any]:
    """As plain values and tensors, which a checkpoint can hold and give back with ``weights_only=True``.

    Args:
        device: on which this process computes.
    """
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  other people's code draws from it
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(stored: dict[str, Any], device: torch.device) -> None:
    """Puts the generators back to what :func:`states` found; that of a device only if there was one of its kind.

    Raises:
        LookupError, TypeError, ValueError, OverflowError, RuntimeError: these are no states.
    """
    version, numbers, gauss = stored["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = stored["numpy"]
    if not 0 <= position <= len(keys):  # NumPy would read its next numbers from whatever memory is there
        raise ValueError(f"expected a position in {len(keys)} numbers, found {position}")
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(stored["torch"])
    if device.type == "cuda" and stored["cuda"] is not None:
        torch.cuda.set_rng_state(stored["cuda"], device)
