"""What a videogn checkpoint says of itself beside its weights, where both are stored, and whether a network fits.

Three containers hold the same two things, the weights and a *card* (plain values: architecture, class names, clip
specification, versions): the ``.ckpt`` of a run, a ``.safetensors`` file with the card as JSON in its metadata, and the
folder that ``videogn weights export`` writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videogn.errors import UsageError
from videogn.spec import ClipSpec, nested

KEY = "videogn"
# What decides the network's function or the shapes of its weights. Everything else may differ between runs.
ARCHITECTURE = ("num_classes", "depth", "variant", "width", "norm", "norm_kwargs")
CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.safetensors"

_PREFIX = "network."  # of the network's parameters among those of the module that a run trains
_CARD_LIMIT = 16 << 20  # bytes of JSON; that of a network with 400 classes has about 10 thousand


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
    """Load a network and what is known of it, to the CPU.

    Args:
        path: a checkpoint of ``videogn fit``, a safetensors file of :func:`write_weights`, or a folder of ``videogn
            weights export``, recognised by content. Of a folder, ``card.json`` and ``weights.safetensors`` are read.

    Returns:
        At least ``"state_dict"``, with names as in the module that is trained (``network.blocks...``), and
        ``"videogn"``, the card of :func:`description`, whose entries are checked. A ``.ckpt`` is loaded with
        ``weights_only=True`` and has the state of its run beside these.

    Raises:
        UsageError: no such file or folder, not a checkpoint, damaged, or of another program; a folder whose card
            belongs to other weights.
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
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types, down to KeyError, for bytes that are no checkpoint
        raise UsageError(f"{path}: not a readable checkpoint ({_reason(error)})") from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint or "state_dict" not in checkpoint:
        found = type(checkpoint).__name__
        if isinstance(checkpoint, dict):
            names = sorted(map(str, checkpoint))
            found = f"{names[:5]}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise UsageError(
            f"{path}: expected a checkpoint written by videogn (with an entry {KEY!r}), found {found}. "
            "`videogn weights import` reads those of other programs."
        )
    _check_card(checkpoint[KEY], path)
    weights = checkpoint["state_dict"]
    tensors = isinstance(weights, dict) and all(isinstance(value, Tensor) for value in weights.values())
    _require(tensors, path, "state_dict", "a mapping of tensors", weights)
    return checkpoint


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(save(tensors, metadata))  # save_file makes files that nobody else may read
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sha256(path: str | os.PathLike[str]) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(_CARD_LIMIT, size - 8):
        raise UsageError(
            f"{path}: not a readable checkpoint (its header claims {header} bytes, the file has {size}; "
            f"at most {_CARD_LIMIT} are read)"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {_PREFIX + name: file.get_tensor(name) for name in file.keys()} if KEY in metadata else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: not a readable checkpoint ({_reason(error)})") from error
    if KEY not in metadata:
        raise UsageError(
            f"{path}: expected weights written by videogn (with an entry {KEY!r} in the metadata), found those of "
            "another program. `videogn weights import` makes them readable here."
        )
    return {"state_dict": tensors, KEY: _parse_card(metadata[KEY], path)}


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
            text = file.read(_CARD_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{card_path}: cannot be read ({error.strerror or error})") from error
    card = _parse_card(text, card_path)
    files = card.get("files")
    entry = files.get(WEIGHTS_FILE) if isinstance(files, dict) else None
    expected = entry.get("sha256") if isinstance(entry, dict) else None
    _require(isinstance(expected, str), card_path, f"files.{WEIGHTS_FILE}.sha256", "64 hexadecimal digits", expected)
    found = sha256(weights)
    if found != expected:
        raise UsageError(
            f"{weights}: this is not the file that {CARD_FILE} belongs to: sha256 is {found}, the card has "
            f"{expected!s:.80}. Copy the whole folder again, or export again."
        )
    return {"state_dict": _read_safetensors(weights)["state_dict"], KEY: card}


def _parse_card(text: str | bytes, source: Path) -> dict[str, Any]:
    if len(text) > _CARD_LIMIT:
        raise UsageError(f"{source}: expected a card of at most {_CARD_LIMIT} bytes, found more")
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source}: the card is not JSON that can be read ({_reason(error)})") from error
    _check_card(card, source)
    return card


def _check_card(card: Any, source: Path) -> None:
    """Refuse a card whose entries do not have the types that this project writes."""
    _require(isinstance(card, dict), source, KEY, "a mapping", card)
    architecture = card.get("architecture")
    _require(isinstance(architecture, dict), source, "architecture", "a mapping", architecture)
    kinds: dict[str, tuple[type, ...]] = {"variant": (str,), "norm": (str,), "norm_kwargs": (dict, type(None))}
    for name in ARCHITECTURE:
        _require(name in architecture, source, f"architecture.{name}", "a value", "none")
        allowed = kinds.get(name, (int,))
        words = " or ".join({dict: "mapping", type(None): "null"}.get(kind, kind.__name__) for kind in allowed)
        _require(type(architecture[name]) in allowed, source, f"architecture.{name}", words, architecture[name])
    names, classes = card.get("class_names"), architecture["num_classes"]
    _require(
        names is None or (isinstance(names, list) and len(names) == classes and all(isinstance(n, str) for n in names)),
        source,
        "class_names",
        f"null, or as many names as architecture.num_classes = {classes}",
        names,
    )
    clip = card.get("clip")
    if clip is not None:
        _require(isinstance(clip, dict), source, "clip", "null or a mapping", clip)
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
            _require(isinstance(found, dict), source, f"{entry}.{name}", "a mapping", found)
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
        _require(fits, source, f"{entry}.{name}", words, found)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e9 < value < 1e9  # no NaN, and no integer that overflows a float


def _require(fits: bool, source: Path, entry: str, expected: str, found: object) -> None:
    if not fits:
        text = found if found == "none" else repr(found)
        raise UsageError(f"{source}: {entry}: expected {expected}, found {text!s:.80}; the file is damaged or no card")


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
