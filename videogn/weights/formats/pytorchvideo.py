"""pytorchvideo's ``create_resnet``: the names are this project's (pytorchvideo/models/resnet.py, hub/resnet.py)."""

from __future__ import annotations

import re

from videogn.weights.formats.layout import GREY, Layout, ignore_counters

_OURS = re.compile(
    r"blocks\.(0\.(conv|norm)"
    r"|[1345]\.res_blocks\.\d+\.(branch1_(conv|norm)|branch2\.(conv|norm)_[abc])"
    r"|6\.proj)\.\w+"
)


def rename(name: str) -> str | None:
    """The name itself, where it is one of an I3D ResNet."""
    return name if _OURS.fullmatch(name) else None


PYTORCHVIDEO = Layout(
    name="pytorchvideo",
    marks=("blocks.0.conv.weight", "blocks.1.res_blocks.0.branch2.conv_a.weight"),
    rename=rename,
    reason_to_ignore=ignore_counters,
    pixels=GREY,
)
