"""Folding norms into convolutions: the folded network computes what the network computed, from its formula."""

import copy

import pytest
import torch
from torch import nn

from videogn import i3d_resnet
from videogn.fold import fold_batch_norm
from videogn.norms import NORMS, WSConv3d, is_norm

KWARGS = {"gn": {"num_groups": 4}, "gn_ws": {"num_groups": 4}}
FOLDED = {"bn", "brn", "sub_bn", "frozen_bn"}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def lively(norm, **kwargs):
    """A small network in evaluation mode whose norms have statistics and parameters far from 0 and 1."""
    torch.manual_seed(0)
    net = i3d_resnet(num_classes=7, width=8, variant="8x8", norm=norm, norm_kwargs=KWARGS.get(norm), **kwargs).eval()
    for layer in net.modules():
        if is_norm(layer):
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_(std=0.2)
            if getattr(layer, "running_mean", None) is not None:
                layer.running_mean.normal_(std=0.3)
                layer.running_var.uniform_(0.5, 2.0)
    nn.init.normal_(net.blocks[-1].proj.weight)
    return net


@pytest.mark.parametrize("norm", NORMS)
def test_folded_equals_unfolded(norm):
    net = lively(norm)
    x = torch.randn(2, 3, 4, 32, 32)
    truth = copy.deepcopy(net).double()(x.double())
    folded = copy.deepcopy(net)
    assert fold_batch_norm(folded) == (53 if norm in FOLDED else 0)
    assert sum(map(is_norm, folded.modules())) == (0 if norm in FOLDED else 53)
    assert not any(isinstance(m, WSConv3d) for m in folded.modules())
    scale = truth.abs().max()
    error = (folded(x).double() - truth).abs().max() / scale
    error_before = (net(x).double() - truth).abs().max() / scale
    assert error < max(3 * error_before, 1e-6), (error, error_before)
    in_float64 = copy.deepcopy(net).double()
    fold_batch_norm(in_float64)
    torch.testing.assert_close(in_float64(x.double()), truth, rtol=1e-9, atol=1e-9 * scale.item())


def test_folded_convolution_is_the_formula():
    net = lively("bn")
    bottleneck = net.blocks[1].res_blocks[0].branch2
    conv, norm = copy.deepcopy(bottleneck.conv_a), copy.deepcopy(bottleneck.norm_a)
    fold_batch_norm(net)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(bottleneck.conv_a.weight, scale.view(-1, 1, 1, 1, 1) * conv.weight)
    torch.testing.assert_close(bottleneck.conv_a.bias, norm.bias - scale * norm.running_mean)
    assert isinstance(bottleneck.norm_a, nn.Identity)


def test_memory_format_and_a_second_call():
    net = lively("bn").to(memory_format=torch.channels_last_3d)
    assert fold_batch_norm(net) == 53
    assert all(
        m.weight.is_contiguous(memory_format=torch.channels_last_3d) for m in net.modules() if isinstance(m, nn.Conv3d)
    )
    assert fold_batch_norm(net) == 0


def test_what_cannot_be_folded_stays():
    class Scaled(nn.BatchNorm3d):
        def forward(self, x):
            return 2 * super().forward(x)

    for norm in (Scaled, lambda channels: nn.BatchNorm3d(channels, track_running_stats=False)):
        net = i3d_resnet(num_classes=3, width=8, variant="8x8", norm=norm).eval()
        before = net.state_dict()
        assert fold_batch_norm(net) == 0
        assert net.state_dict().keys() == before.keys()


def test_norms_without_parameters_fold():
    torch.manual_seed(0)
    net = i3d_resnet(
        num_classes=3,
        width=8,
        variant="8x8",
        norm=lambda channels: nn.BatchNorm3d(channels, affine=False),
        zero_init_last_norm=False,
    ).eval()
    x = torch.randn(1, 3, 2, 32, 32)
    before = net(x)
    assert fold_batch_norm(net) == 53
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)


def test_training_mode_is_refused():
    net = lively("bn")
    net.blocks[2].train()
    with pytest.raises(ValueError, match=r"'blocks\.2' in training"):
        fold_batch_norm(net)
