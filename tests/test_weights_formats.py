"""Weights of other programs arrive whole: every tensor under its name, none taken for another."""

from __future__ import annotations

import warnings

import numpy as np
import peer_layouts
import pytest
import timm
import torch
import torchvision
from peer_layouts import assert_same, pickled, random_weights, saved

from videogn import checkpoint, i3d_resnet
from videogn.errors import UsageError
from videogn.spec import ClipSpec
from videogn.weights import FORMATS, read_source

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
TORCH = {name: getattr(peer_layouts, name) for name in ("torchvision", "pytorchvideo", "slowfast", "mmaction2")}
NEST = {"torchvision": None, "pytorchvideo": "model_state", "slowfast": "model_state", "mmaction2": "state_dict"}
VARIANT = {"torchvision": "2d", "pytorchvideo": "8x8", "slowfast": "8x8", "mmaction2": "32x2"}


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("format", TORCH)
def test_torch_formats_round_trip(tmp_path, format, depth):
    weights = random_weights(depth, VARIANT[format])
    theirs = TORCH[format](weights, depth)
    source = read_source(saved(tmp_path, theirs, NEST[format]))
    assert_same(source, weights)
    assert (source.format, source.depth, source.norm, source.norm_kwargs) == (format, depth, "bn", None)
    assert source.pixels == (IMAGENET if format in ("torchvision", "mmaction2") else GREY)
    assert source.variant == ("2d" if VARIANT[format] == "2d" else None)
    assert source.unexplained == ()
    assert set(source.ignored) == {name for name in theirs if name.endswith("num_batches_tracked")}
    assert {theirs[name] is not None for name in source.names.values()} == {True}
    assert read_source(saved(tmp_path, theirs, NEST[format]), format).format == format


@pytest.mark.parametrize("depth", [50, 101])
def test_caffe2_round_trip(tmp_path, depth):
    weights = random_weights(depth, "32x2")
    blobs = peer_layouts.caffe2(weights, depth)
    run = {"lr": np.array(0.01, np.float32), "model_iter": 400001}
    run |= {f"{name}_momentum": np.zeros_like(v) for name, v in blobs.items() if not name.endswith(("_rm", "_riv"))}
    source = read_source(pickled(tmp_path, blobs | run))
    assert_same(source, weights)
    assert (source.format, source.depth, source.norm, source.pixels) == ("caffe2", depth, "bn", GREY)
    assert source.unexplained == ()
    assert set(source.ignored) == set(run)
    assert "momentum" in source.ignored["conv1_w_momentum"]
    assert "learning rate" in source.ignored["lr"]


@pytest.mark.parametrize("depth", [50, 101])
def test_detectron_round_trip(tmp_path, depth):
    weights = random_weights(depth, "2d", "gn")
    source = read_source(pickled(tmp_path, peer_layouts.detectron(weights, depth)))
    assert_same(source, weights)  # conv1 in R, G, B again
    assert (source.format, source.depth, source.variant) == ("detectron", depth, "2d")
    assert (source.norm, source.norm_kwargs, source.unexplained) == ("gn", {"num_groups": 32}, ())


def test_names_as_published():
    """A few of each format, by hand: the builders and the package could share a mistake."""
    from videogn.weights.formats import caffe2, mmaction2, pictures, slowfast

    for rename, theirs, ours in (
        (pictures.rename, "layer1.0.downsample.1.running_var", "blocks.1.res_blocks.0.branch1_norm.running_var"),
        (pictures.rename, "layer2.3.conv2.weight", "blocks.3.res_blocks.3.branch2.conv_b.weight"),
        (pictures.rename, "layer4.2.bn3.bias", "blocks.5.res_blocks.2.branch2.norm_c.bias"),
        (pictures.rename, "fc.bias", "blocks.6.proj.bias"),
        (slowfast.rename, "s1.pathway0_stem.bn.weight", "blocks.0.norm.weight"),
        (
            slowfast.rename,
            "s4.pathway0_res5.branch2.a_bn.running_mean",
            "blocks.4.res_blocks.5.branch2.norm_a.running_mean",
        ),
        (slowfast.rename, "s2.pathway0_res0.branch1.weight", "blocks.1.res_blocks.0.branch1_conv.weight"),
        (slowfast.rename, "s4.pathway1_res5.branch2.a.weight", None),
        (slowfast.rename, "s3.pathway0_nonlocal1.conv_theta.weight", None),
        (mmaction2.rename, "backbone.layer3.0.downsample.conv.weight", "blocks.4.res_blocks.0.branch1_conv.weight"),
        (
            mmaction2.rename,
            "backbone.layer1.2.conv3.bn.running_var",
            "blocks.1.res_blocks.2.branch2.norm_c.running_var",
        ),
        (mmaction2.rename, "backbone.layer2.1.non_local_block.g.conv.weight", None),
        (caffe2.rename, "res_conv1_bn_riv", "blocks.0.norm.running_var"),
        (caffe2.rename, "res4_22_branch2b_bn_rm", "blocks.4.res_blocks.22.branch2.norm_b.running_mean"),
        (caffe2.rename, "res5_0_branch1_bn_s", "blocks.5.res_blocks.0.branch1_norm.weight"),
        (caffe2.rename, "res3_1_branch2c_gn_b", "blocks.3.res_blocks.1.branch2.norm_c.bias"),
        (caffe2.rename, "t_res3_1_branch2c_w", None),
        (caffe2.rename, "nonlocal_conv3_1_theta_w", None),
        (caffe2.rename, "res3_1_branch2c_bn_gamma", None),
    ):
        assert rename(theirs) == ours, theirs


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_packages_of_pictures(tmp_path, package, name):
    build = {"torchvision": getattr(torchvision.models, name), "timm": lambda: timm.create_model(name)}[package]
    with torch.device("meta"):
        names = build().state_dict()
        ours = i3d_resnet(1000, depth=int(name[6:]), variant="2d", norm="bn").state_dict()
    # One number per tensor, seen in the full shape, would be refused: so the shapes shrink, and the names are checked.
    values = {
        key: torch.full([1 if n > 8 else n for n in like.shape], float(i))
        for i, (key, like) in enumerate(names.items())
    }
    source = read_source(saved(tmp_path, values))
    assert (source.format, source.depth, source.unexplained) == ("torchvision", int(name[6:]), ())
    assert set(source.tensors) == {key for key in ours if not key.endswith("num_batches_tracked")}
    for key, theirs in source.names.items():
        flat = ours[key].shape[:2] + ours[key].shape[3:] if ours[key].dim() == 5 else ours[key].shape
        assert names[theirs].shape == flat, (key, theirs)
        assert torch.equal(source.tensors[key], values[theirs]), (key, theirs)


def test_real_files_of_the_packages(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.models.hub import i3d_r50

    for build, format, norm, count in (
        (torchvision.models.resnet50, "torchvision", "bn", 267),
        (lambda: timm.create_model("resnet50_gn"), "timm", "gn", 161),
        (lambda: i3d_r50(pretrained=False), "pytorchvideo", "bn", 267),
    ):
        theirs = build().state_dict()
        source = read_source(saved(tmp_path, theirs))
        assert (source.format, source.norm, source.depth, len(source.tensors)) == (format, norm, 50, count)
        assert source.unexplained == ()
        assert source.norm_kwargs == ({"num_groups": 32} if norm == "gn" else None)
        for ours, name in source.names.items():
            assert torch.equal(source.tensors[ours], theirs[name])


def test_timm_by_name(tmp_path):
    bn = saved(tmp_path, peer_layouts.torchvision(random_weights(50, "2d")))
    gn = saved(tmp_path, peer_layouts.torchvision(random_weights(50, "2d", "gn")), name="gn")
    assert (read_source(bn, "timm").format, read_source(bn, "timm").norm) == ("timm", "bn")
    assert (read_source(gn).format, read_source(gn).norm) == ("timm", "gn")
    with pytest.raises(UsageError, match=r"no running statistics.*format timm"):
        read_source(gn, "torchvision")


def test_slowfast_norms_of_multigrid_training(tmp_path):
    weights = random_weights()
    theirs = peer_layouts.slowfast_with_split_norms(weights)
    # Older versions of SlowFast have the affine pair as (C, 1, 1, 1); its sub_to_normal_bn flattens it.
    theirs["s1.pathway0_stem.bn.weight"] = theirs["s1.pathway0_stem.bn.weight"].reshape(-1, 1, 1, 1)
    source = read_source(saved(tmp_path, theirs, "model_state"))
    assert_same(source, weights)
    assert source.unexplained == ()
    assert "single splits" in source.ignored["s1.pathway0_stem.bn.split_bn.running_var"]


CONFIGURATION = """
DATA:
  MEAN: [0.4, 0.5, 0.6]
  STD: [0.1, 0.2, 0.3]
  REVERSE_INPUT_CHANNEL: {reverse}
RESNET:
  STRIDE_1X1: {stride}
"""


def test_slowfast_configuration_in_the_file(tmp_path):
    weights = random_weights()
    theirs = peer_layouts.slowfast(weights)
    conv1 = weights["blocks.0.conv.weight"]
    for reverse in (False, True):
        cfg = CONFIGURATION.format(reverse=reverse, stride=False)
        source = read_source(saved(tmp_path, theirs, "model_state", cfg=cfg, epoch=3))
        assert source.pixels == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
        assert torch.equal(source.tensors["blocks.0.conv.weight"], conv1[:, [2, 1, 0]] if reverse else conv1)
    for cfg, message in (
        (CONFIGURATION.format(reverse=False, stride=True), "on the 1x1 convolution"),
        ("DATA: {MEAN: 1}", "cannot be read"),
        ("{[", "cannot be read"),
        ("!!python/object/apply:os.system [true]", "cannot be read"),
        ("DATA: {MEAN: [1, 2], STD: [1, 2]}\nRESNET: {}", "three values"),
    ):
        with pytest.raises(UsageError, match=message):
            read_source(saved(tmp_path, theirs, "model_state", cfg=cfg))


def test_same_picture_same_first_layer(tmp_path):
    """Detectron's pixels, order and mean against this project's, through conv1: the same numbers come out."""
    weights = random_weights(50, "2d", "gn")
    blobs = peer_layouts.detectron(weights)
    source = read_source(pickled(tmp_path, blobs))
    picture = torch.randint(0, 256, (1, 3, 32, 32)).double()  # R, G, B
    # detectron/utils/blob.py, prep_im_for_blob, with PIXEL_MEANS in B, G, R of detectron/core/config.py
    theirs = picture[:, [2, 1, 0]] - torch.tensor([102.9801, 115.9465, 122.7717], dtype=torch.float64).reshape(3, 1, 1)
    expected = torch.nn.functional.conv2d(theirs, torch.from_numpy(blobs["conv1_w"]).double())
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in source.pixels)
    found = torch.nn.functional.conv2d((picture / 255 - mean) / std, source.tensors["blocks.0.conv.weight"].double())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_riv_is_a_variance(tmp_path):
    """By the norm's output: with the inverse, or the square root, it would be another."""
    weights = random_weights(50, "32x2")
    blobs = peer_layouts.caffe2(weights)
    source = read_source(pickled(tmp_path, blobs))
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    rm, riv, s, b = (
        torch.from_numpy(blobs[f"res2_0_branch2a_bn_{k}"]).double()[:, None] for k in ("rm", "riv", "s", "b")
    )
    expected = (x - rm) / torch.sqrt(riv + 1e-5) * s + b
    at = "blocks.1.res_blocks.0.branch2.norm_a"
    values = (source.tensors[f"{at}.{leaf}"].double() for leaf in ("running_mean", "running_var", "weight", "bias"))
    torch.testing.assert_close(torch.nn.functional.batch_norm(x, *values), expected)


def test_weights_of_caffe2_for_pictures_leave_pixels_open(tmp_path):
    source = read_source(pickled(tmp_path, peer_layouts.caffe2(random_weights(50, "2d"))))
    assert (source.variant, source.pixels) == ("2d", None)


def test_caffe2_classifier_stored_as_a_convolution(tmp_path):
    weights = random_weights(50, "32x2")
    blobs = peer_layouts.caffe2(weights)
    blobs["pred_w"] = blobs["pred_w"].reshape(*blobs["pred_w"].shape, 1, 1, 1)
    assert_same(read_source(pickled(tmp_path, blobs)), weights)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "model.module._orig_mod."])
def test_prefixes_of_wrappers(tmp_path, prefix):
    weights = random_weights(50, "2d")
    theirs = {prefix + name: value for name, value in peer_layouts.torchvision(weights).items()}
    source = read_source(saved(tmp_path, theirs, "state_dict"))
    assert_same(source, weights)
    assert source.names["blocks.6.proj.bias"] == f"{prefix}fc.bias"  # as it is in the file
    with pytest.raises(UsageError, match="no known format"):  # not on every name
        read_source(saved(tmp_path, theirs | {"loss.weight": torch.zeros(2)}, "state_dict"))


@pytest.mark.parametrize("container", ["ckpt", "safetensors"])
@pytest.mark.parametrize("variant", ["8x8", "2d"])
def test_files_of_this_project(tmp_path, container, variant):
    architecture = {"num_classes": 3, "depth": 50, "variant": variant, "width": 4, "norm": "gn"}
    architecture |= {"norm_kwargs": {"num_groups": 2}}
    network = i3d_resnet(**architecture)
    clip = ClipSpec(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    card = checkpoint.description(architecture, ("a", "b", "c"), clip)
    path = tmp_path / "weights"
    if container == "ckpt":
        module = {f"network.{name}": value for name, value in network.state_dict().items()}
        torch.save({"state_dict": module, "videogn": card, "epoch": 1}, path)
    else:
        checkpoint.write_weights(path, network.state_dict(), card)
    source = read_source(path)
    assert (source.format, source.norm, source.norm_kwargs) == ("videogn", "gn", {"num_groups": 2})
    assert (source.depth, source.variant, source.class_names) == (50, variant, ("a", "b", "c"))
    assert (source.clip, source.pixels, source.card) == (clip, (clip.mean, clip.std), card)
    flat = {n: v.squeeze(2) if variant == "2d" and v.dim() == 5 else v for n, v in network.state_dict().items()}
    assert_same(source, flat)
    with pytest.raises(UsageError, match="found one written by videogn"):
        read_source(path, "torchvision")


def test_formats_are_those_of_the_command():
    """``--from`` of the issue, and this project's own."""
    theirs = {"torchvision", "timm", "pytorchvideo", "slowfast", "mmaction2", "caffe2", "detectron"}
    assert set(FORMATS) == {"videogn"} | theirs
    assert len(FORMATS) == 8
