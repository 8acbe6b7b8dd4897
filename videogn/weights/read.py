"""Any file of weights -> :class:`videogn.weights.source.Source`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from videogn import checkpoint
from videogn.errors import UsageError
from videogn.spec import ClipSpec
from videogn.weights.containers import Contents, open_weights
from videogn.weights.formats import LAYOUTS, TIMM_GN, Layout
from videogn.weights.formats.layout import COUNTER, PARAMETER
from videogn.weights.source import Source

FORMATS = (checkpoint.KEY, *(layout.name for layout in LAYOUTS))

_CONV1 = "blocks.0.conv.weight"
_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101}
# What wrappers put before every name: DistributedDataParallel, torch.compile, and modules that hold the network.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def read_source(path: str | os.PathLike[str], format: str = "auto") -> Source:
    """Read weights that this project or another program wrote, under this project's names.

    Args:
        path: of a file, or of a folder of ``videogn weights export``. Its name does not matter.
        format: who wrote it, one of :data:`FORMATS`, or ``"auto"``, which recognises it by the names in it. A
            batch-norm ResNet of timm has torchvision's names and counts as torchvision's: they are the same network.

    Returns:
        The weights; tensors keep the number type of the file. Names that no rule of the format covers, such as those
        of non-local blocks, are in ``unexplained``. A network of this project with ``variant="2d"`` gives kernels
        (O, I, H, W), as other programs' networks of pictures do.

    Raises:
        UsageError: an unknown format; a file that cannot be read, that is not of the format (or, for ``"auto"``, of
            none), that would have to run code, or that is not of a ResNet-50 or -101 with bottlenecks.
    """
    if format not in ("auto", *FORMATS):
        raise UsageError(f"format {format!r}: expected auto or one of {', '.join(FORMATS)}")
    if not os.fspath(path):
        raise UsageError("expected the path of a file of weights, found ''")
    path = Path(path)
    contents = open_weights(path)
    if contents.videogn or format == checkpoint.KEY:
        if format not in ("auto", checkpoint.KEY):
            raise UsageError(
                f"{path}: expected a file of {format}, found one written by videogn; leave the format at auto"
            )
        return _read_ours(path)
    names = _without_wrappers(contents.entries)
    unwrapped = Contents(dict(zip(names, contents.entries.values(), strict=True)), contents.nest, contents.beside)
    layout = _layout(path, unwrapped, format)
    try:
        settings = {"pixels": layout.pixels, "bgr": layout.bgr, **layout.settings(unwrapped)}
    except ValueError as error:
        raise UsageError(f"{path}: a file of {layout.name}, and {error}") from error

    tensors: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    ignored: dict[str, str] = {}
    unexplained = []
    for name, (stored, value) in zip(names, contents.entries.items(), strict=True):
        reason, ours = layout.reason_to_ignore(name), layout.rename(name)
        if reason is not None:
            ignored[stored] = reason
        elif ours is None or not PARAMETER.fullmatch(ours):
            unexplained.append(stored)
        elif ours in tensors:
            raise UsageError(f"{path}: {origin[ours]} and {stored} are both {ours}; expected one of them")
        else:
            tensors[ours] = _values(path, stored, ours, value)
            origin[ours] = stored
    depth = _depth(path, tensors)
    if settings["bgr"]:
        tensors[_CONV1] = _reversed_channels(path, origin[_CONV1], tensors[_CONV1])
    return Source(
        path=str(path),
        format=layout.name,
        tensors=tensors,
        names=origin,
        ignored=ignored,
        unexplained=tuple(unexplained),
        norm=layout.norm,
        norm_kwargs=layout.norm_kwargs,
        depth=depth,
        variant="2d" if tensors[_CONV1].dim() == 4 else None,
        pixels=settings["pixels"],
    )


def _read_ours(path: Path) -> Source:
    stored = checkpoint.read(path)
    card = stored[checkpoint.KEY]
    architecture = card["architecture"]
    tensors, origin, ignored, unexplained = {}, {}, {}, []
    picture = architecture["variant"] == "2d"
    for name, tensor in stored["state_dict"].items():
        if name.endswith(".num_batches_tracked"):
            ignored[name] = COUNTER
        elif name.startswith("network.blocks."):
            ours = name.removeprefix("network.")
            tensors[ours] = tensor.squeeze(2) if picture and tensor.dim() == 5 else tensor
            origin[ours] = name
        else:
            unexplained.append(name)
    clip = ClipSpec.from_dict(card["clip"]) if card["clip"] is not None else None
    names = card["class_names"]
    return Source(
        path=str(path),
        format=checkpoint.KEY,
        tensors=tensors,
        names=origin,
        ignored=ignored,
        unexplained=tuple(unexplained),
        norm=architecture["norm"],
        norm_kwargs=architecture["norm_kwargs"],
        depth=architecture["depth"],
        variant=architecture["variant"],
        pixels=(clip.mean, clip.std) if clip is not None else None,
        clip=clip,
        class_names=tuple(names) if names is not None else None,
        card=card,
    )


def _without_wrappers(entries: Mapping[str, Any]) -> list[str]:
    """The names without the prefixes that wrappers put before each of them."""
    names = list(entries)
    while True:
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in names)), None)
        if prefix is None:
            return names
        names = [name.removeprefix(prefix) for name in names]


def _layout(path: Path, contents: Contents, format: str) -> Layout:
    found = next((layout for layout in LAYOUTS if _fits(layout, contents)), None)
    layout = found if format == "auto" else next(layout for layout in LAYOUTS if layout.name == format)
    if layout is None:
        raise UsageError(
            f"{path}: the names in this file are of no known format; expected those of a ResNet of one of "
            f"{', '.join(FORMATS)}; found {_some(contents.entries)}"
        )
    if not _fits(layout, contents):
        absent = [mark for mark in layout.marks if mark not in contents.entries]
        hint = f"; they are those of {found.name}" if found else ""
        raise UsageError(
            f"{path}: not a file of {layout.name}: expected {', '.join(absent)} among its names, found "
            f"{_some(contents.entries)}{hint}"
        )
    renamed = {layout.rename(name) for name in contents.entries}
    if layout.norm != "bn" or "blocks.0.norm.running_var" in renamed or layout.name == "caffe2":
        return layout
    if layout.name == "timm" or (format == "auto" and layout.name == "torchvision"):
        return TIMM_GN
    raise UsageError(
        f"{path}: a file of {layout.name} whose norms have no running statistics. Its published networks have batch "
        "norm; which other norm this one has (and its groups), the file does not say"
        + ("; timm's resnet50_gn has these names: format timm" if layout.name == "torchvision" else "")
    )


def _fits(layout: Layout, contents: Contents) -> bool:
    return all(mark in contents.entries for mark in layout.marks)


def _values(path: Path, stored: str, ours: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = f"one of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(f"{path}: {stored}: expected a tensor of floating-point numbers, found {found}")
    # Heads and affine pairs that are stored for a convolution have trailing dimensions of 1.
    if not ours.startswith("blocks.") or ".conv" in ours or "_conv" in ours:
        return value
    wanted = 2 if ours == "blocks.6.proj.weight" else 1
    return value.flatten(wanted - 1) if value.shape[wanted:].numel() == 1 and value.dim() > wanted else value


def _depth(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """50 or 101, by the number of blocks in each stage."""
    blocks = {match.groups() for name in tensors if (match := re.match(r"blocks\.([1345])\.res_blocks\.(\d+)\.", name))}
    counts = tuple(sum(stage == s for s, _ in blocks) for stage in "1345")
    if counts in _DEPTHS and "blocks.1.res_blocks.0.branch2.conv_c.weight" in tensors and _CONV1 in tensors:
        return _DEPTHS[counts]
    blocks_are = "" if "blocks.1.res_blocks.0.branch2.conv_c.weight" in tensors else " of two convolutions each"
    raise UsageError(
        f"{path}: expected a ResNet-50 or -101, with (3, 4, 6, 3) or (3, 4, 23, 3) bottlenecks, found {counts} blocks"
        + blocks_are
    )


def _reversed_channels(path: Path, stored: str, weight: Tensor) -> Tensor:
    if weight.dim() < 4 or weight.shape[1] != 3:
        raise UsageError(f"{path}: {stored}: expected (O, 3, ...) for B, G, R, found shape {tuple(weight.shape)}")
    return weight.flip(1)


def _some(names: Mapping[str, Any]) -> str:
    return ", ".join(list(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
