"""pytorchvideo's ``create_resnet``: the names are this project's (pytorchvideo/models/resnet.py, hub/resnet.py)."""

from __future__ import annotations

from videogn.weights.formats.layout import GREY, PARAMETER, Layout, ignore_counters

PYTORCHVIDEO = Layout(
    name="pytorchvideo",
    marks=("blocks.0.conv.weight", "blocks.1.res_blocks.0.branch2.conv_a.weight"),
    rename=lambda name: name if PARAMETER.fullmatch(name) else None,
    reason_to_ignore=ignore_counters,
    pixels=GREY,
)
