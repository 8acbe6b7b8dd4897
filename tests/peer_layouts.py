"""Files of weights as other programs write them, from this project's weights: the way back of what the package reads.

The names are written out from the programs' sources, which each function cites; no rule is shared with the package.
Weights go in under the names of ``I3DResNet`` (``random_weights`` makes some) and come out under the program's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videogn import i3d_resnet
from videogn.weights import Source

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Suffix of this project's norms -> what non-local calls it (lib/models/model_builder_video.py; caffe2's SpatialBN).
CAFFE2_BN = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}

Names = Callable[[int, int, str], tuple[str, str]]


def random_weights(depth: int = 50, variant: str = "8x8", norm: str = "bn", width: int = 4, classes: int = 7) -> dict:
    """Weights of an ``I3DResNet``, no two values alike, with running statistics away from their start.

    Without ``num_batches_tracked``; kernels of ``variant="2d"`` are (O, I, H, W). ``norm`` is ``"bn"`` or ``"gn"``.
    """
    with torch.device("meta"):
        shapes = i3d_resnet(classes, depth=depth, variant=variant, norm="bn", width=width).state_dict()
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, like in shapes.items():
        if name.endswith("num_batches_tracked") or (norm == "gn" and ".running_" in name):
            continue
        shape = like.shape[:2] + like.shape[3:] if variant == "2d" and like.dim() == 5 else like.shape
        values = torch.randn(shape, generator=generator)
        weights[name] = values.abs() + 0.5 if name.endswith("running_var") else values
    return weights


def convolutions(depth: int) -> Iterator[tuple[str, str, int, int, str]]:
    """This project's convolution and norm of every place in a residual block, and the place.

    Places are (2 to 5 for res2 to res5, index of the block, ``"a"``, ``"b"``, ``"c"`` or ``"shortcut"``).
    """
    for stage, block, count in zip((2, 3, 4, 5), (1, 3, 4, 5), BLOCKS[depth], strict=True):
        for i in range(count):
            at = f"blocks.{block}.res_blocks.{i}"
            for letter in "abc":
                yield f"{at}.branch2.conv_{letter}", f"{at}.branch2.norm_{letter}", stage, i, letter
            if i == 0:
                yield f"{at}.branch1_conv", f"{at}.branch1_norm", stage, i, "shortcut"


def _torch(weights: Mapping[str, Tensor], depth: int, stem: tuple[str, str], head: str, names: Names) -> dict:
    """A state dict: stem, every place of the blocks, classifier; counters where norms have statistics."""
    out: dict[str, Tensor] = {}
    places = [("blocks.0.conv", "blocks.0.norm", *stem)]
    places += [(conv, norm, *names(stage, i, at)) for conv, norm, stage, i, at in convolutions(depth)]
    for conv, norm, their_conv, their_norm in places:
        out[f"{their_conv}.weight"] = weights[f"{conv}.weight"]
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if f"{norm}.{leaf}" in weights:
                out[f"{their_norm}.{leaf}"] = weights[f"{norm}.{leaf}"]
        if f"{norm}.running_var" in weights:
            out[f"{their_norm}.num_batches_tracked"] = torch.tensor(1000)
    for leaf in ("weight", "bias"):
        out[f"{head}.{leaf}"] = weights[f"blocks.6.proj.{leaf}"]
    return out


def pytorchvideo(weights: Mapping[str, Tensor], depth: int = 50) -> dict:
    """pytorchvideo/models/resnet.py, create_resnet: the names of this project."""
    return _torch(
        weights,
        depth,
        ("blocks.0.conv", "blocks.0.norm"),
        "blocks.6.proj",
        lambda stage, i, at: (
            f"blocks.{stage if stage > 2 else 1}.res_blocks.{i}."
            + ("branch1_conv" if at == "shortcut" else f"branch2.conv_{at}"),
            f"blocks.{stage if stage > 2 else 1}.res_blocks.{i}."
            + ("branch1_norm" if at == "shortcut" else f"branch2.norm_{at}"),
        ),
    )


def torchvision(weights: Mapping[str, Tensor], depth: int = 50) -> dict:
    """torchvision/models/resnet.py, ResNet and Bottleneck: timm's names too."""

    def names(stage: int, i: int, at: str) -> tuple[str, str]:
        block = f"layer{stage - 1}.{i}"
        if at == "shortcut":
            return f"{block}.downsample.0", f"{block}.downsample.1"
        number = {"a": 1, "b": 2, "c": 3}[at]
        return f"{block}.conv{number}", f"{block}.bn{number}"

    return _torch(weights, depth, ("conv1", "bn1"), "fc", names)


def slowfast(weights: Mapping[str, Tensor], depth: int = 50) -> dict:
    """slowfast/models/: stem_helper.py (ResNetBasicStem), resnet_helper.py (BottleneckTransform), head_helper.py."""

    def names(stage: int, i: int, at: str) -> tuple[str, str]:
        block = f"s{stage}.pathway0_res{i}"
        if at == "shortcut":
            return f"{block}.branch1", f"{block}.branch1_bn"
        return f"{block}.branch2.{at}", f"{block}.branch2.{at}_bn"

    return _torch(weights, depth, ("s1.pathway0_stem.conv", "s1.pathway0_stem.bn"), "head.projection", names)


def slowfast_with_split_norms(weights: Mapping[str, Tensor], depth: int = 50, splits: int = 2) -> dict:
    """SlowFast's multigrid training: slowfast/models/batchnorm_helper.py, SubBatchNorm3d, before its own clean-up.

    The affine pair is the norm's own, ``bn`` and ``split_bn`` are batch norms without one.
    """
    out = {}
    for name, tensor in slowfast(weights, depth).items():
        layer, _, leaf = name.rpartition(".")
        if layer.endswith("bn") and leaf not in ("weight", "bias"):
            out[f"{layer}.bn.{leaf}"] = tensor
            out[f"{layer}.split_bn.{leaf}"] = tensor.repeat(splits) + 1 if tensor.dim() else tensor
        else:
            out[name] = tensor
    return out


def mmaction2(weights: Mapping[str, Tensor], depth: int = 50) -> dict:
    """mmaction/models/: backbones/resnet3d.py, Bottleneck3d of ConvModules (``conv``, ``bn``); heads/i3d_head.py."""

    def names(stage: int, i: int, at: str) -> tuple[str, str]:
        part = "downsample" if at == "shortcut" else f"conv{'abc'.index(at) + 1}"
        module = f"backbone.layer{stage - 1}.{i}.{part}"
        return f"{module}.conv", f"{module}.bn"

    stem = ("backbone.conv1.conv", "backbone.conv1.bn")
    return _torch(weights, depth, stem, "cls_head.fc_cls", names)


def caffe2(weights: Mapping[str, Tensor], depth: int = 50) -> dict[str, np.ndarray]:
    """Blobs of video-nonlocal-net: lib/models/resnet_video_org.py (stem, head), resnet_helper.py (blocks).

    ``riv`` holds the variance: lib/utils/bn_helper.py, _update_bn_stats_gpu ("actually running var").
    """
    blobs = {"conv1_w": weights["blocks.0.conv.weight"], "pred_w": weights["blocks.6.proj.weight"]}
    blobs |= {"pred_b": weights["blocks.6.proj.bias"]}
    blobs |= {f"res_conv1_bn_{theirs}": weights[f"blocks.0.norm.{leaf}"] for leaf, theirs in CAFFE2_BN.items()}
    for conv, norm, stage, i, at in convolutions(depth):
        blob = f"res{stage}_{i}_branch{1 if at == 'shortcut' else '2' + at}"
        blobs[f"{blob}_w"] = weights[f"{conv}.weight"]
        blobs |= {f"{blob}_bn_{theirs}": weights[f"{norm}.{leaf}"] for leaf, theirs in CAFFE2_BN.items()}
    return {name: tensor.numpy() for name, tensor in blobs.items()}


def detectron(weights: Mapping[str, Tensor], depth: int = 50) -> dict[str, np.ndarray]:
    """Blobs of Detectron's R-50-GN.pkl: detectron/modeling/ResNet.py (basic_gn_stem), detector.py (ConvGN).

    The first convolution takes B, G, R. The stride of a stage is on the 3x3 convolution (RESNETS.STRIDE_1X1 False in
    configs/04_2018_gn_baselines), as in this project: no name and no shape depends on it.
    """
    blobs = {"conv1_w": weights["blocks.0.conv.weight"][:, [2, 1, 0]]}
    blobs |= {"conv1_gn_s": weights["blocks.0.norm.weight"], "conv1_gn_b": weights["blocks.0.norm.bias"]}
    for conv, norm, stage, i, at in convolutions(depth):
        blob = f"res{stage}_{i}_branch{1 if at == 'shortcut' else '2' + at}"
        blobs[f"{blob}_w"] = weights[f"{conv}.weight"]
        blobs |= {f"{blob}_gn_s": weights[f"{norm}.weight"], f"{blob}_gn_b": weights[f"{norm}.bias"]}
    blobs |= {"pred_w": weights["blocks.6.proj.weight"], "pred_b": weights["blocks.6.proj.bias"]}
    return {name: tensor.numpy() for name, tensor in blobs.items()}


def python2_pickle(value: object) -> bytes:
    """A pickle of protocol 2 as Python 2.7 and numpy 1.16 write it: byte strings, arrays by ``_reconstruct``.

    Of dictionaries with string keys, strings, numbers, numpy arrays and numpy scalars.
    """
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: object) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(k) + _python2(v) for k, v in value.items()) + b"u"
    if isinstance(value, str):
        return _python2_string(value.encode("latin1"))
    if isinstance(value, np.generic):
        return b"cnumpy.core.multiarray\nscalar\n" + _dtype(value.dtype) + _python2_string(value.tobytes()) + b"\x86R"
    if isinstance(value, np.ndarray):
        shape = b"(" + b"".join(map(_python2, value.shape)) + b"t"
        state = b"(K\x01" + shape + _dtype(value.dtype) + b"\x89" + _python2_string(value.tobytes()) + b"t"
        return b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state + b"b"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    raise TypeError(type(value))


def _python2_string(data: bytes) -> bytes:
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def _dtype(dtype: np.dtype) -> bytes:
    order = _python2_string(dtype.str[0].encode())
    made = b"cnumpy\ndtype\n" + _python2_string(dtype.str[1:].encode()) + b"K\x00K\x01\x87R"
    return made + b"(K\x03" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def saved(tmp_path: Path, entries: dict, nest: str | None = None, name: str = "anything", **beside: object) -> Path:
    """The path of a torch file with these weights, under ``nest`` where it has other entries ``beside``."""
    path = tmp_path / name
    torch.save({nest: entries, **beside} if nest else entries, path)
    return path


def pickled(tmp_path: Path, blobs: dict, name: str = "anything") -> Path:
    """The path of a pickle of Python 2 with these blobs."""
    path = tmp_path / name
    path.write_bytes(python2_pickle({"blobs": blobs}))
    return path


def assert_same(source: Source, weights: dict) -> None:
    """The source has these tensors, under these names, and no others."""
    assert set(source.tensors) == set(weights) == set(source.names)
    for name, tensor in weights.items():
        assert torch.equal(source.tensors[name], tensor), name
