"""Files of weights, told apart by their content: safetensors, torch (zip and legacy) and python-2 pickles."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from videogn.checkpoint import KEY
from videogn.errors import UsageError
from videogn.weights.pickles import read_pickle

# Where programs put the weights in a file that holds other things too; the first that is there is taken. A file of timm
# with both has its averaged weights (``_ema``) beside those that were trained.
NESTS = ("state_dict", "model_state", "model", "blobs", "state_dict_ema")
_ZIP = b"PK\x03\x04"
# The pickled number that opens a file of torch.save before version 1.6 (torch/serialization.py, MAGIC_NUMBER).
_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors package


@dataclass(frozen=True)
class Contents:
    """What a file of weights holds.

    Attributes:
        entries: name in the file -> tensor, or whatever else is stored under a name.
        nest: the entry of the file that holds them: ``"state_dict"`` for example; empty where they are on top.
        beside: the file's other entries.
        videogn: the file was written by this project, and :func:`videogn.checkpoint.read` reads it.
    """

    entries: Mapping[str, Any]
    nest: str = ""
    beside: Mapping[str, Any] = field(default_factory=dict)
    videogn: bool = False


def open_weights(path: Path) -> Contents:
    """The contents of a file of weights, or of a folder that ``videogn weights export`` wrote; runs no code from it.

    Raises:
        UsageError: no such file; a file of no known kind, damaged, or with anything but tensors, arrays, plain
            containers, strings and numbers in it; one whose tensors are larger than the file.
    """
    if path.is_dir():
        return Contents({}, videogn=True)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UsageError(f"{path}: cannot read this checkpoint file ({error.strerror or error})") from error
    if start.startswith(_ZIP) or start[2:].startswith(_LEGACY_TORCH):
        return _nested(path, _load_torch(path, size), size)
    if _is_safetensors(start):
        return _load_safetensors(path, size)
    if start[:1] in (b"\x80", b"(", b"c", b"}"):
        return _nested(path, read_pickle(path), size)
    raise UsageError(
        f"{path}: expected a file of weights (safetensors, a file of torch.save, or a pickle of caffe2), "
        f"{_what_it_starts_with(start)}"
    )


def _is_safetensors(start: bytes) -> bool:
    """Eight bytes with the length of a header that is JSON (github.com/huggingface/safetensors, README, "Format")."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def _load_safetensors(path: Path, size: int) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            if KEY in (file.metadata() or {}):
                return Contents({}, videogn=True)
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except Exception as error:  # SafetensorError of many kinds, and what torch raises for odd shapes
        raise UsageError(f"{path}: not a readable safetensors file ({_first_line(error)})") from error
    _check(path, entries, size)
    return Contents(entries)


def _load_torch(path: Path, size: int) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                promised = sum(entry.file_size for entry in archive.infolist())
                program = any(name.endswith("/constants.pkl") for name in archive.namelist())
            if program:
                raise UsageError(
                    f"{path}: a TorchScript program; expected weights alone. If you trust the file: "
                    "torch.save(torch.jit.load(path).state_dict(), 'weights.pth')"
                )
            if promised > size:  # torch compresses nothing
                raise UsageError(
                    f"{path}: a file of {size} bytes that promises {promised}; torch.save does not compress, so this "
                    "file is damaged or made to fill the memory. Save the weights again"
                )
        return torch.load(path, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except Exception as error:  # torch raises many types, down to KeyError, for bytes that are no checkpoint
        raise UsageError(
            f"{path}: torch cannot read this file with weights_only=True ({_first_line(error)}). Files with objects of "
            "other programs in them are refused, because loading those runs code. If you trust the file, open it where "
            "its program is installed and save the tensors alone: torch.save(checkpoint['state_dict'], 'weights.pth')"
        ) from error


def _nested(path: Path, loaded: Any, size: int) -> Contents:
    if not isinstance(loaded, dict):
        raise UsageError(f"{path}: expected names with tensors, found an object of type {type(loaded).__name__}")
    if KEY in loaded and "state_dict" in loaded:
        return Contents({}, videogn=True)
    nest = next((name for name in NESTS if isinstance(loaded.get(name), dict)), "")
    entries = loaded[nest] if nest else loaded
    beside = {name: value for name, value in loaded.items() if name != nest} if nest else {}
    _check(path, entries, size)
    return Contents(entries, nest, beside)


def _check(path: Path, entries: Mapping[str, Any], size: int) -> None:
    """Raises UsageError for anything but names with plain tensors that the file of ``size`` bytes can hold.

    A view with strides of 0 can have more elements than the file has bytes, and copying it would fill the memory.
    """
    if not all(isinstance(name, str) for name in entries):
        raise UsageError(f"{path}: expected names with tensors, found keys that are no strings")
    if not any(isinstance(value, Tensor) for value in entries.values()):
        raise UsageError(f"{path}: expected names with tensors, found {_some(entries) or 'nothing'}")
    for name, tensor in entries.items():
        if not isinstance(tensor, Tensor):
            continue
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise UsageError(f"{path}: {name} is a sparse, quantised or empty (meta) tensor; expected plain values")
        if tensor.numel() * tensor.element_size() > size:
            raise UsageError(f"{path}: {name} of shape {tuple(tensor.shape)} is larger than the file of {size} bytes")


def _what_it_starts_with(start: bytes) -> str:
    if not start:
        return "found an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "found a Git LFS pointer: fetch the file itself with `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "found a web page: the download did not give the file"
    return f"found a file that starts with {start[:8]!r}"


def _first_line(error: Exception) -> str:
    # torch wraps its refusals in advice to load the file without the protection.
    if found := re.search(r"[Uu]nsupported (global: GLOBAL|GLOBAL|class|operand) \S+", str(error)):
        return found[0]
    text = str(error).split("In PyTorch 2.6, we changed")[0]
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)[:300]


def _some(entries: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(entries)[:5])) + (", ..." if len(entries) > 5 else "")
