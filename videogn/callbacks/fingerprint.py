"""Everything that decides the result of an evaluation, and which videos a run trains on."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from videogn.callbacks.records import VERSIONS, device_name
from videogn.checkpoint import sha256


def what_decides(trainer: Trainer, module: Any, split: str) -> dict[str, Any]:
    """What two evaluations must share for one to go on with the videos of the other: plain values, hashes of long ones.

    The number of processes is no part of it, and neither are the options of loaders that change no pixel. ``split`` is
    ``"val"``, ``"test"`` or ``"predict"``, which says the command, too.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return {
        "split": split,
        "weights": _weights(module),
        "architecture": module.architecture,
        "clip": data.clip.to_dict(),
        "videos": _videos(data.index(split)),
        "class_names": _hash(map(os.fsencode, data.class_names or ())),
        "precision": str(trainer.precision),
        "device": device_name(trainer),
        "backend": data.backend,
        "limits": dataclasses.asdict(data.limits),
        "views in a forward pass": [data.eval_batch_size, module.clips_per_forward],
        "versions": {name: version(name) for name in VERSIONS},
    }


def listed(index: Any) -> str:
    """Hash of the videos' names and labels, in order; of no file, so that the videos may lie elsewhere."""
    numbers = (np.ascontiguousarray(values, dtype="<i8").tobytes() for values in (index.offsets, index.labels))
    return _hash((index.paths, *numbers))[:16]


def _weights(module: Any) -> str:
    """Of the network as it is, or of the file that it will be loaded from when the evaluation starts."""
    if module.initial is not None:
        chosen = dataclasses.asdict(module.initial) | {"path": sha256_of(module.initial.path)}
        return _hash([repr(sorted(chosen.items())).encode()])

    def parts() -> Iterable[bytes]:
        for name, tensor in sorted(module.state_dict().items()):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return _hash(parts())


def sha256_of(path: str) -> str:
    """Of a file, or of the files of a folder."""
    if not os.path.isdir(path):
        return sha256(path)
    files = sorted(entry.path for entry in os.scandir(path) if entry.is_file())
    return _hash(f"{os.path.basename(file)} {sha256(file)}".encode() for file in files)


def _videos(index: Any) -> str:
    """Of each video path, label, size and time of change, and what a manifest says of it."""

    def parts() -> Iterable[bytes]:
        for i in range(len(index)):
            try:
                found = os.stat(index.path(i))
                size, changed = found.st_size, found.st_mtime_ns
            except OSError:  # fails when it is read, too
                size = changed = -1
            told = (index.label(i), size, changed, int(index.num_frames[i]), index.known_error(i))
            yield os.fsencode(index.path(i))
            yield repr(told).encode()

    return _hash(parts())


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))  # so that no two lists run together to the same bytes
        digest.update(part)
    return digest.hexdigest()
