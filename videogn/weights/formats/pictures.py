"""ResNets of pictures: torchvision's names, which timm's ``resnet50``, ``resnet101`` and ``resnet50_gn`` share.

Names: torchvision/models/resnet.py, timm/models/resnet.py. Both have the spatial stride on the 3x3 convolution, as
here.
"""

from __future__ import annotations

import re
from dataclasses import replace

from videogn.weights.formats.layout import IMAGENET, Layout, ignore_counters, in_block

_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(conv|bn)([1-3])\.(\w+)")
_SHORTCUT = re.compile(r"layer([1-4])\.(\d+)\.downsample\.([01])\.(\w+)")
_STEM = re.compile(r"(conv|bn)1\.(\w+)")
_HEAD = re.compile(r"fc\.(weight|bias)")
_KIND = {"conv": "conv", "bn": "norm", "0": "conv", "1": "norm"}


def rename(name: str) -> str | None:
    """torchvision's name -> this project's."""
    if match := _BLOCK.fullmatch(name):
        layer, index, kind, number, leaf = match.groups()
        return in_block(int(layer) + 1, index, f"branch2.{_KIND[kind]}_{'abc'[int(number) - 1]}.{leaf}")
    if match := _SHORTCUT.fullmatch(name):
        layer, index, number, leaf = match.groups()
        return in_block(int(layer) + 1, index, f"branch1_{_KIND[number]}.{leaf}")
    if match := _STEM.fullmatch(name):
        return f"blocks.0.{_KIND[match[1]]}.{match[2]}"
    if match := _HEAD.fullmatch(name):
        return f"blocks.6.proj.{match[1]}"
    return None


TORCHVISION = Layout(
    name="torchvision",
    marks=("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"),
    rename=rename,
    reason_to_ignore=ignore_counters,
    pixels=IMAGENET,
)
# A network with batch norm is the same in both. timm's resnet50_gn keeps the names, so that its group norm is ``bn1``,
# without running statistics; its groups are 32 (timm/layers/norm.py, GroupNorm).
TIMM = replace(TORCHVISION, name="timm")
TIMM_GN = replace(TIMM, norm="gn", norm_kwargs={"num_groups": 32})
