"""``videogn weights import``: a file of another program as one of this project."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videogn import checkpoint
from videogn.errors import UsageError
from videogn.i3d import Variant, i3d_resnet
from videogn.spec import ClipSpec, Protocol
from videogn.weights.inflate import Inflation
from videogn.weights.report import Report
from videogn.weights.source import Source
from videogn.weights.transfer import HEAD, transfer

# What the variants are made for: frames and stride of 32x2 and 8x8, and one picture as torchvision evaluates it.
_CLIPS: dict[str, ClipSpec] = {
    "32x2": ClipSpec(frames=32, stride=2),
    "8x8": ClipSpec(frames=8, stride=8),
    "2d": ClipSpec(frames=1, stride=1, protocol=Protocol("1clip", crop="center", crop_size=224)),
}


def import_weights(
    source: Source,
    output: str | os.PathLike[str],
    *,
    variant: Variant | None = None,
    norm: str | None = None,
    inflation: Inflation = "mean",
    convert_norm: bool = False,
    ignore: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
    frames: int | None = None,
    stride: int | None = None,
) -> Report:
    """Write a source as a file of this project: the weights of an I3D, and a card that says all that is known of them.

    The card's clip specification has the mean and std that the weights expect, so that a picture gives the same
    features as in the program that the file is from.

    Args:
        source: what :func:`videogn.weights.read_source` gives.
        output: safetensors file to write.
        variant: of the network; by default that of a video's network if the file fixes it, else 32x2.
        norm: of the network, by default the file's.
        inflation: how a picture's kernels get their time axis.
        convert_norm: take the weights without their norms.
        ignore: patterns of names in the file that are left out.
        class_names: of the classifier, by default the file's.
        frames: per clip, by default those of the variant, or of the file where it is of the same variant.
        stride: frames of the video from one of a clip to the next, likewise.

    Raises:
        UsageError: weights that do not fit, see :func:`videogn.weights.transfer`; a file without a classifier; another
            number of class names than classes; the file cannot be written.
    """
    stem, head = source.tensors.get("blocks.0.conv.weight"), source.tensors.get(HEAD[0])
    if stem is None or head is None:
        missing = "first convolution" if stem is None else "classifier"
        raise UsageError(
            f"{source.path} ({source.format}): the file has no {missing}. To train from a file without a classifier, "
            "give it to `videogn fit` as it is: --model.init_from"
        )
    names = source.class_names if class_names is None else tuple(class_names)
    if names is not None and len(names) != len(head):
        raise UsageError(f"--class-names: expected {len(head)} names, one per class of the file, found {len(names)}")
    variant = variant or ("32x2" if source.variant in (None, "2d") else source.variant)  # type: ignore[assignment]
    norm = norm or source.norm
    architecture: dict[str, Any] = {
        "num_classes": len(head),
        "depth": source.depth,
        "variant": variant,
        "width": len(stem),
        "norm": norm,
        "norm_kwargs": dict(source.norm_kwargs) if source.norm_kwargs and norm == source.norm else None,
    }
    try:
        network = i3d_resnet(**architecture)
    except ValueError as error:
        raise UsageError(f"{source.path}: {error}") from error
    report = transfer(
        network, architecture, source, inflation=inflation, convert_norm=convert_norm, class_names=names, ignore=ignore
    )
    clip = source.clip if source.clip is not None and source.variant == variant else _CLIPS[str(variant)]
    if names is None:
        note = "no class names: `videogn classify` and `weights export` need them; import with --class-names"
        report = dataclasses.replace(report, notes=(*report.notes, note))
    changes: dict[str, Any] = {"frames": frames, "stride": stride}
    if source.pixels is not None:
        changes["mean"], changes["std"] = source.pixels
    else:
        note = f"the file does not say which pixels it expects; mean {clip.mean} and std {clip.std} are recorded"
        report = dataclasses.replace(report, notes=(*report.notes, note))
    try:
        clip = dataclasses.replace(clip, **{name: value for name, value in changes.items() if value is not None})
    except ValueError as error:
        raise UsageError(str(error)) from error
    card = checkpoint.description(architecture, names, clip)
    card["source"] = {"format": source.format, "file": Path(source.path).name, "sha256": _sha256(source.path)}
    card["import"] = report.summary()
    checkpoint.write_weights(output, network.state_dict(), card)
    return report


def _sha256(path: str) -> str | None:
    return checkpoint.sha256(path) if Path(path).is_file() else None
