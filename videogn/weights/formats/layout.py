"""What a program's file of weights looks like: the description that each module of this room gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from videogn.weights.containers import Contents

Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]

# Mean and std of R, G, B in [0, 1]: torchvision's ImageNet statistics, and the grey ones of SlowFast and non-local.
IMAGENET: Pixels = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY: Pixels = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))

# The parameters and statistics of an I3DResNet.
_NORM = "(weight|bias|running_mean|running_var)"
PARAMETER = re.compile(
    rf"blocks\.0\.(conv\.weight|norm\.{_NORM})"
    r"|blocks\.[1345]\.res_blocks\.\d+\."
    rf"(branch1_conv\.weight|branch1_norm\.{_NORM}|branch2\.conv_[abc]\.weight|branch2\.norm_[abc]\.{_NORM})"
    r"|blocks\.6\.proj\.(weight|bias)"
)

COUNTER = "counts the batches of the run that wrote the file"


@dataclass(frozen=True)
class Layout:
    """How one program names the weights of a ResNet.

    Attributes:
        name: of the format, as in ``--from``.
        marks: names that every file of the format has, and by which it is recognised.
        rename: name in the file -> this project's name, or None where no rule covers it. What comes out need not be a
            :data:`PARAMETER`; then the network has no place for it.
        reason_to_ignore: name in the file -> why it is not needed, or None where it is.
        pixels: mean and std of R, G, B in [0, 1] that the format's published weights expect.
        norm: that of its networks: ``"bn"`` or ``"gn"``.
        norm_kwargs: its arguments where the format fixes them.
        bgr: the first convolution takes B, G, R.
        settings: what a file says beside its weights that changes ``pixels`` and ``bgr``; it raises ValueError where
            the file is of a network that this project does not have.
    """

    name: str
    marks: tuple[str, ...]
    rename: Callable[[str], str | None]
    reason_to_ignore: Callable[[str], str | None]
    pixels: Pixels | None
    norm: str = "bn"
    norm_kwargs: Mapping[str, Any] | None = None
    bgr: bool = False
    settings: Callable[[Contents], Mapping[str, Any]] = field(default=lambda contents: {})


def in_block(stage: int | str, index: int | str, part: str) -> str:
    """This project's name of a part of a residual block: ``stage`` 2 to 5 for res2 to res5, ``index`` from 0.

    ``part`` is for example ``branch2.conv_a.weight`` or ``branch1_norm.bias``.
    """
    # blocks.2 is the pool behind res2.
    block = {2: 1, 3: 3, 4: 4, 5: 5}[int(stage)]
    return f"blocks.{block}.res_blocks.{index}.{part}"


def ignore_counters(name: str) -> str | None:
    """The reason for ``num_batches_tracked`` of torch's batch norms."""
    return COUNTER if name.endswith(".num_batches_tracked") else None
