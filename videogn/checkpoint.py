"""A network's weights and what is known of it, in the three containers that this project writes.

All hold the same two things, the weights and the *card* of :mod:`videogn.checkpoint_card`: the ``.ckpt`` of a run, a
``.safetensors`` file with the card as JSON in its metadata, and the folder that ``videogn weights export`` writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videogn.checkpoint_card import (
    ARCHITECTURE,
    CARD_LIMIT,
    KEY,
    check_card,
    description,
    parse_card,
    reason,
    require,
    require_same_architecture,
)
from videogn.checkpoint_storage import DamagedFile, check_records, write
from videogn.errors import UsageError

__all__ = [
    "ARCHITECTURE",
    "CARD_FILE",
    "KEY",
    "WEIGHTS_FILE",
    "DamagedFile",
    "ForeignFile",
    "description",
    "holds_run",
    "read",
    "require_same_architecture",
    "sha256",
    "write_weights",
]

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.safetensors"

_PREFIX = "network."  # of the network's parameters among those of the module that a run trains


class ForeignFile(UsageError):
    """A file of another program."""


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a network and what is known of it, to the CPU.

    Args:
        path: a checkpoint of ``videogn fit``, a safetensors file of :func:`write_weights`, or a folder of ``videogn
            weights export``, recognised by content. Of a folder, ``card.json`` and ``weights.safetensors`` are read.

    Returns:
        At least ``"state_dict"``, with names as in the module that is trained (``network.blocks...``), and
        ``"videogn"``, the card of :func:`description`, whose entries are checked. A ``.ckpt`` is loaded with
        ``weights_only=True``, after the checksums of its bytes were compared, and has the state of its run beside
        these.

    Raises:
        DamagedFile: a ``.ckpt`` that torch cannot read, or with bytes that are not those that were written.
        ForeignFile: a file of torch, but not of videogn.
        UsageError: no such file or folder; entries that make no sense; a folder whose card belongs to other weights.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint file")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    # The length of a header in 8 bytes, little endian, then the header; zip files and pickles do not begin with that.
    if start[4:] == b"\0\0\0\0{":
        return _read_safetensors(path)
    check_records(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedFile(
            f"{path}: not a readable checkpoint: expected plain values and tensors as torch.save writes them, found a "
            "file with something else in it; nothing of it was executed"
        ) from error
    except Exception as error:  # torch raises many types, down to KeyError, for bytes that are no checkpoint
        raise DamagedFile(f"{path}: not a readable checkpoint ({reason(error)})") from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint or "state_dict" not in checkpoint:
        found = type(checkpoint).__name__
        if isinstance(checkpoint, dict):
            names = sorted(map(str, checkpoint))
            found = f"{names[:5]}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ForeignFile(
            f"{path}: expected a checkpoint written by videogn (with an entry {KEY!r}), found {found}. "
            "`videogn weights import` reads those of other programs."
        )
    check_card(checkpoint[KEY], path)
    weights = checkpoint["state_dict"]
    tensors = isinstance(weights, dict) and all(isinstance(value, Tensor) for value in weights.values())
    require(tensors, path, "state_dict", "a mapping of tensors", weights)
    return checkpoint


def holds_run(stored: Mapping[str, Any]) -> bool:
    """Whether what :func:`read` gives has, beside weights, the state of a run that can go on."""
    return "loops" in stored and "optimizer_states" in stored


def write_weights(path: str | os.PathLike[str], state_dict: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Writes weights and card as one safetensors file, which appears whole or not at all.

    Args:
        path: of the file; one that is there is replaced.
        state_dict: of an :class:`videogn.i3d.I3DResNet`, on any device and in any memory format.
        card: of :func:`description`, with any further entries that JSON can hold.

    Raises:
        UsageError: the file cannot be written.
        ValueError: a card with values that JSON does not have, such as NaN.
    """
    from safetensors.torch import save

    path = Path(path)
    metadata = {KEY: json.dumps(card, allow_nan=False)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    data = save(tensors, metadata)  # save_file makes files that nobody else may read
    try:
        write(path, lambda file: file.write(data))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(CARD_LIMIT, size - 8):
        raise UsageError(
            f"{path}: not a readable checkpoint (its header claims {header} bytes, the file has {size}; "
            f"at most {CARD_LIMIT} are read)"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {_PREFIX + name: file.get_tensor(name) for name in file.keys()} if KEY in metadata else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: not a readable checkpoint ({reason(error)})") from error
    if KEY not in metadata:
        raise UsageError(
            f"{path}: expected weights written by videogn (with an entry {KEY!r} in the metadata), found those of "
            "another program. `videogn weights import` makes them readable here."
        )
    return {"state_dict": tensors, KEY: parse_card(metadata[KEY], path)}


def _read_folder(folder: Path) -> dict[str, Any]:
    card_path, weights = folder / CARD_FILE, folder / WEIGHTS_FILE
    for path in (card_path, weights):
        if not path.is_file():
            raise UsageError(
                f"{folder}: expected a folder of `videogn weights export`, with {CARD_FILE} and {WEIGHTS_FILE}; "
                f"found no {path.name}. Checkpoints of a run are files in its folder checkpoints."
            )
    try:
        with card_path.open("rb") as file:
            text = file.read(CARD_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{card_path}: cannot be read ({error.strerror or error})") from error
    card = parse_card(text, card_path)
    files = card.get("files")
    entry = files.get(WEIGHTS_FILE) if isinstance(files, dict) else None
    expected = entry.get("sha256") if isinstance(entry, dict) else None
    require(isinstance(expected, str), card_path, f"files.{WEIGHTS_FILE}.sha256", "64 hexadecimal digits", expected)
    found = sha256(weights)
    if found != expected:
        raise UsageError(
            f"{weights}: this is not the file that {CARD_FILE} belongs to: sha256 is {found}, the card has "
            f"{expected!s:.80}. Copy the whole folder again, or export again."
        )
    return {"state_dict": _read_safetensors(weights)["state_dict"], KEY: card}
