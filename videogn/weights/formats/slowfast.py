"""SlowFast's ``ResNet`` (``I3D_8x8_R50`` and its kin), as torch files.

Names: slowfast/models/{stem,resnet,head}_helper.py. Pixels: slowfast/config/defaults.py, DATA.MEAN 0.45 and DATA.STD
0.225 of R, G, B in [0, 1]; the configurations of Charades and Something-Something set DATA.REVERSE_INPUT_CHANNEL, which
reverses the channels after the normalisation (slowfast/datasets/utils.py, pack_pathway_output). A file of its training
loop carries its configuration as text under ``cfg``, and that decides; a file without one is taken to be RGB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from videogn.weights.containers import Contents
from videogn.weights.formats.layout import GREY, Layout, ignore_counters, in_block

# In multigrid training a norm holds ``bn`` (the statistics for evaluation) and ``split_bn`` (those of the splits);
# slowfast/utils/checkpoint.py, sub_to_normal_bn, keeps the first alone.
_BLOCK = re.compile(r"s([2-5])\.pathway0_res(\d+)\.branch2\.([abc])(_bn)?(?:\.bn)?\.(\w+)")
_SHORTCUT = re.compile(r"s([2-5])\.pathway0_res(\d+)\.branch1(_bn)?(?:\.bn)?\.(\w+)")
_STEM = re.compile(r"s1\.pathway0_stem\.(conv|bn)(?:\.bn)?\.(\w+)")
_HEAD = re.compile(r"head\.projection\.(weight|bias)")
_LONGEST_CONFIGURATION = 1_000_000  # characters; SlowFast's have some thousand


def rename(name: str) -> str | None:
    """SlowFast's name -> this project's."""
    if match := _BLOCK.fullmatch(name):
        stage, index, letter, bn, leaf = match.groups()
        return in_block(stage, index, f"branch2.{'norm' if bn else 'conv'}_{letter}.{leaf}")
    if match := _SHORTCUT.fullmatch(name):
        stage, index, bn, leaf = match.groups()
        return in_block(stage, index, f"branch1_{'norm' if bn else 'conv'}.{leaf}")
    if match := _STEM.fullmatch(name):
        return f"blocks.0.{'norm' if match[1] == 'bn' else 'conv'}.{match[2]}"
    if match := _HEAD.fullmatch(name):
        return f"blocks.6.proj.{match[1]}"
    return None


def reason_to_ignore(name: str) -> str | None:
    """The reason for counters and for the statistics of single splits."""
    if ".split_bn." in name:
        return "statistics of single splits of the batch; those of all splits are beside it"
    return ignore_counters(name)


def settings(contents: Contents) -> Mapping[str, Any]:
    """``pixels`` and ``bgr`` from the configuration in the file, if it has one.

    Raises:
        ValueError: a configuration that cannot be read, or a network with the spatial stride on the 1x1 convolution.
    """
    text = contents.beside.get("cfg")
    if not isinstance(text, str) or len(text) > _LONGEST_CONFIGURATION:
        return {}
    try:
        configuration = yaml.safe_load(text)
        data, resnet = configuration["DATA"], configuration["RESNET"]
        mean, std = (tuple(float(v) for v in data[key]) for key in ("MEAN", "STD"))
        bgr = bool(data.get("REVERSE_INPUT_CHANNEL", False))
        stride_on_1x1 = bool(resnet.get("STRIDE_1X1", False))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"its configuration ('cfg') cannot be read ({type(error).__name__}: {error})") from error
    if stride_on_1x1:
        raise ValueError(
            "RESNET.STRIDE_1X1 is True in its configuration: the spatial stride is on the 1x1 convolution. Here it is "
            "on the 3x3 convolution; the weights would load and the network would be another one"
        )
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            f"expected three values each for DATA.MEAN and DATA.STD in its configuration, found {mean}, {std}"
        )
    return {"pixels": (mean, std), "bgr": bgr}


SLOWFAST = Layout(
    name="slowfast",
    marks=("s1.pathway0_stem.conv.weight", "s2.pathway0_res0.branch2.a.weight"),
    rename=rename,
    reason_to_ignore=reason_to_ignore,
    pixels=GREY,
    settings=settings,
)
