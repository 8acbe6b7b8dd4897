"""Blobs of caffe2: non-local's and SlowFast's ``.pkl`` (batch norm) and Detectron's ``R-50-GN.pkl``, ``R-101-GN.pkl``.

Names: lib/models/resnet_video_org.py and resnet_helper.py of video-nonlocal-net, slowfast/utils/c2_model_loading.py,
detectron/modeling/ResNet.py and detector.py (ConvGN).

``riv`` is the running variance, not its inverse, whatever it stands for: lib/utils/bn_helper.py of video-nonlocal-net
writes the variance into it and says so, and SlowFast's conversion takes it as ``running_var`` unchanged.

Pixels of non-local: lib/core/config.py, MODEL.MEAN 114.75 and MODEL.STD 57.375 of R, G, B in [0, 255]; MODEL.USE_BGR
is off, and no published script sets it. Its networks for pictures, from which it inflates, may have been trained on
B, G, R (a comment in process_data/convert_models/convert_to_finetune.py says so); non-local gives them R, G, B all the
same. So does this project, and leaves their mean and std open.

Detectron's GN weights: group norm of 32 groups (projects/GN/README.md), B, G, R in [0, 255], less PIXEL_MEANS =
(102.9801, 115.9465, 122.7717), not divided (detectron/core/config.py, utils/blob.py). Their networks have the spatial
stride on the 3x3 convolution (RESNETS.STRIDE_1X1 is False in configs/04_2018_gn_baselines), as here; its other weights
(``R-50.pkl``, with batch norm folded into an affine layer) have it on the 1x1 and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from videogn.weights.containers import Contents
from videogn.weights.formats.layout import GREY, Layout, in_block

_BLOCK = re.compile(r"res([2-5])_(\d+)_branch2([abc])_(.+)")
_SHORTCUT = re.compile(r"res([2-5])_(\d+)_branch1_(.+)")
_LEAF = {
    "w": ("conv", "weight"),
    "bn_s": ("norm", "weight"),
    "bn_b": ("norm", "bias"),
    "bn_rm": ("norm", "running_mean"),
    "bn_riv": ("norm", "running_var"),
    "gn_s": ("norm", "weight"),
    "gn_b": ("norm", "bias"),
}
_ENDS = {
    "conv1_w": "blocks.0.conv.weight",
    **{f"res_conv1_{leaf}": f"blocks.0.norm.{ours}" for leaf, (_, ours) in _LEAF.items() if leaf.startswith("bn")},
    **{f"conv1_{leaf}": f"blocks.0.norm.{ours}" for leaf, (_, ours) in _LEAF.items() if leaf.startswith("gn")},
    "pred_w": "blocks.6.proj.weight",
    "pred_b": "blocks.6.proj.bias",
}
_PROGRESS = {"lr": "learning rate", "model_iter": "number of the iteration", "epoch": "number of the epoch"}


def rename(name: str) -> str | None:
    """caffe2's name of a blob -> this project's."""
    if match := _BLOCK.fullmatch(name):
        stage, index, letter, end = match.groups()
        kind, leaf = _LEAF.get(end, (None, None))
        return in_block(stage, index, f"branch2.{kind}_{letter}.{leaf}") if kind else None
    if match := _SHORTCUT.fullmatch(name):
        stage, index, end = match.groups()
        kind, leaf = _LEAF.get(end, (None, None))
        return in_block(stage, index, f"branch1_{kind}.{leaf}") if kind else None
    return _ENDS.get(name)


def reason_to_ignore(name: str) -> str | None:
    """The reason for what belongs to a run of the optimiser."""
    if name.endswith("_momentum"):
        return "momentum of the optimiser that wrote the file"
    return f"{_PROGRESS[name]} of the run that wrote the file" if name in _PROGRESS else None


def settings(contents: Contents) -> Mapping[str, Any]:
    """``pixels`` of weights for pictures, which nothing fixes.

    Raises:
        ValueError: batch norms without statistics.
    """
    if "res_conv1_bn_rm" not in contents.entries:
        raise ValueError(
            "its batch norms are folded into affine layers (no res_conv1_bn_rm), as in Detectron's R-50.pkl and in "
            "non-local's 'affine' models; expected weights with running statistics"
        )
    return {"pixels": None} if getattr(contents.entries["conv1_w"], "ndim", 5) == 4 else {}


CAFFE2 = Layout(
    name="caffe2",
    marks=("conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w"),
    rename=rename,
    reason_to_ignore=reason_to_ignore,
    pixels=GREY,
    settings=settings,
)
DETECTRON = Layout(
    name="detectron",
    marks=("conv1_w", "conv1_gn_s", "res2_0_branch2a_w"),
    rename=rename,
    reason_to_ignore=reason_to_ignore,
    pixels=((122.7717 / 255, 115.9465 / 255, 102.9801 / 255), (1 / 255, 1 / 255, 1 / 255)),
    norm="gn",
    norm_kwargs={"num_groups": 32},
    bgr=True,
)
