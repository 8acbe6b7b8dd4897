"""mmaction2's recognisers: a ResNet3d (or ResNet) as ``backbone`` and a head with ``fc_cls``.

Names: mmaction/models/backbones/resnet3d.py, whose ConvModule holds a ``conv`` and a ``bn``, and
mmaction/models/heads/i3d_head.py. Pixels: configs/_base_/models/i3d_r50.py, mean (123.675, 116.28, 103.53) and std
(58.395, 57.12, 57.375) of R, G, B in [0, 255], with frames decoded to RGB and ``to_rgb=False``: nothing to reorder.
"""

from __future__ import annotations

import re

from videogn.weights.formats.layout import IMAGENET, Layout, ignore_counters, in_block

_BLOCK = re.compile(r"backbone\.layer([1-4])\.(\d+)\.conv([1-3])\.(conv|bn)\.(\w+)")
_SHORTCUT = re.compile(r"backbone\.layer([1-4])\.(\d+)\.downsample\.(conv|bn)\.(\w+)")
_STEM = re.compile(r"backbone\.conv1\.(conv|bn)\.(\w+)")
_HEAD = re.compile(r"cls_head\.fc_cls\.(weight|bias)")
_KIND = {"conv": "conv", "bn": "norm"}


def rename(name: str) -> str | None:
    """mmaction2's name -> this project's."""
    if match := _BLOCK.fullmatch(name):
        layer, index, number, kind, leaf = match.groups()
        return in_block(int(layer) + 1, index, f"branch2.{_KIND[kind]}_{'abc'[int(number) - 1]}.{leaf}")
    if match := _SHORTCUT.fullmatch(name):
        layer, index, kind, leaf = match.groups()
        return in_block(int(layer) + 1, index, f"branch1_{_KIND[kind]}.{leaf}")
    if match := _STEM.fullmatch(name):
        return f"blocks.0.{_KIND[match[1]]}.{match[2]}"
    if match := _HEAD.fullmatch(name):
        return f"blocks.6.proj.{match[1]}"
    return None


MMACTION2 = Layout(
    name="mmaction2",
    marks=("backbone.conv1.conv.weight", "backbone.layer1.0.conv1.conv.weight"),
    rename=rename,
    reason_to_ignore=ignore_counters,
    pixels=IMAGENET,  # the same numbers, divided by 255
)
