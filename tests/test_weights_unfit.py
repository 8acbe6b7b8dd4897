"""Files of weights of something else: what is said of them, and what no rule covers."""

from __future__ import annotations

import numpy as np
import peer_layouts
import pytest
import torch
import torchvision
from peer_layouts import pickled, random_weights, saved

from videogn import checkpoint
from videogn.errors import UsageError
from videogn.weights import read_source


def test_folded_batch_norms_are_refused(tmp_path):
    blobs = peer_layouts.caffe2(random_weights(50, "2d"))
    folded = {name: value for name, value in blobs.items() if not name.endswith(("_rm", "_riv"))}
    with pytest.raises(UsageError, match=r"folded into affine layers.*R-50\.pkl"):
        read_source(pickled(tmp_path, folded))


def test_what_no_rule_covers_is_unexplained(tmp_path):
    extra = {"s3.pathway0_nonlocal1.conv_theta.weight": torch.zeros(2), "s1.pathway0_stem.conv.bias": torch.zeros(2)}
    source = read_source(saved(tmp_path, peer_layouts.slowfast(random_weights()) | extra, "model_state"))
    assert source.unexplained == tuple(extra)
    blobs = peer_layouts.caffe2(random_weights(50, "32x2")) | {"nonlocal_conv3_1_g_w": np.zeros(2, np.float32)}
    assert read_source(pickled(tmp_path, blobs)).unexplained == ("nonlocal_conv3_1_g_w",)
    theirs = peer_layouts.torchvision(random_weights(50, "2d")) | {"layer1.0.se.fc1.weight": torch.zeros(2)}
    assert read_source(saved(tmp_path, theirs)).unexplained == ("layer1.0.se.fc1.weight",)


def test_a_format_that_does_not_fit(tmp_path):
    path = saved(tmp_path, peer_layouts.slowfast(random_weights()), "model_state")
    with pytest.raises(UsageError, match=r"not a file of mmaction2: expected backbone\.conv1.*those of slowfast"):
        read_source(path, "mmaction2")
    with pytest.raises(UsageError, match=r"expected a checkpoint written by videogn"):
        read_source(path, "videogn")
    with pytest.raises(UsageError, match=r"bn1\.bias.* and \d+ more.*videogn weights import") as caught:
        checkpoint.read(saved(tmp_path, peer_layouts.torchvision(random_weights(50, "2d"))))
    assert len(str(caught.value)) < 500
    with pytest.raises(UsageError, match=r"format 'keras': expected auto or one of videogn, "):
        read_source(path, "keras")
    with pytest.raises(UsageError, match=r"no known format.*found a"):
        read_source(saved(tmp_path, {"a": torch.zeros(2)}))


def test_networks_that_are_no_resnet_50_or_101(tmp_path):
    for name, found in (("resnet18", r"\(2, 2, 2, 2\) blocks of two"), ("resnet152", r"\(3, 8, 36, 3\) blocks$")):
        with torch.device("meta"):
            names = getattr(torchvision.models, name)().state_dict()
        with pytest.raises(UsageError, match=found):
            read_source(saved(tmp_path, {key: torch.zeros(1) for key in names}))
    theirs = peer_layouts.torchvision(random_weights(50, "2d"))
    del theirs["layer1.0.conv3.weight"]
    with pytest.raises(UsageError, match="expected a ResNet-50"):
        read_source(saved(tmp_path, theirs))


def test_values_that_are_no_weights(tmp_path):
    for value in (3, torch.zeros(4, dtype=torch.int64), None):
        with pytest.raises(UsageError, match=r"fc\.bias: expected a tensor of floating-point numbers"):
            read_source(saved(tmp_path, peer_layouts.torchvision(random_weights(50, "2d")) | {"fc.bias": value}))
    twice = peer_layouts.slowfast(random_weights()) | {"s1.pathway0_stem.bn.bn.running_mean": torch.zeros(4)}
    with pytest.raises(UsageError, match=r"are both blocks\.0\.norm\.running_mean"):
        read_source(saved(tmp_path, twice))


def test_norms_without_statistics_are_no_batch_norms(tmp_path):
    for build in (peer_layouts.slowfast, peer_layouts.mmaction2, peer_layouts.pytorchvideo):
        with pytest.raises(UsageError, match="no running statistics"):
            read_source(saved(tmp_path, build(random_weights(norm="gn"))))
