"""A checkpoint from anywhere, in this project's terms: what reading one gives, and what goes into a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from videogn.spec import ClipSpec


@dataclass(frozen=True)
class Source:
    """What a checkpoint file holds, under the parameter names of :class:`videogn.i3d.I3DResNet`.

    Attributes:
        path: of the file, for messages.
        format: who wrote it: ``"videogn"``, ``"torchvision"``, ``"timm"``, ``"pytorchvideo"``, ``"slowfast"``,
            ``"mmaction2"``, ``"caffe2"`` or ``"detectron"``.
        tensors: this project's name -> tensor with the values of the file, after what the format demands (a variance is
            a variance, conv1 takes R, G, B). A picture's network has kernels (O, I, H, W), a video's (O, I, T, H, W).
        names: this project's name -> name in the file, for reports.
        ignored: name in the file -> why this project does not need it (momenta, counters of iterations).
        unexplained: names in the file that no rule of the format covers, in the file's order.
        norm: the norm that the weights were trained with, a name of ``videogn.NORMS``.
        norm_kwargs: its arguments, where the file or the format fixes them.
        depth: of the ResNet, 50 or 101.
        variant: where the file fixes it: ``"2d"`` for networks of pictures.
        pixels: mean and std (R, G, B) of pixels in [0, 1] that the weights expect; None where the file does not say and
            its format has no rule.
        clip: the clip specification of a videogn checkpoint.
        class_names: of a videogn checkpoint.
        card: what a videogn file says of itself beside that.
    """

    path: str
    format: str
    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    ignored: Mapping[str, str]
    unexplained: tuple[str, ...]
    norm: str
    norm_kwargs: Mapping[str, Any] | None
    depth: int
    variant: str | None = None
    pixels: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    clip: ClipSpec | None = None
    class_names: tuple[str, ...] | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
