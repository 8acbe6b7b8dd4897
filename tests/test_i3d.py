"""The I3D against pytorchvideo's, against published counts, and as a fully convolutional network."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from pytorchvideo.models.hub.resnet import i3d_r50
from torch import nn

from videogn import NORMS, i3d_resnet
from videogn.blocks import Bottleneck, MaxPool
from videogn.cost import count_cost
from videogn.norms import WSConv3d, norm_parameters

SMALL = {"gn": {"num_groups": 4}, "gn_ws": {"num_groups": 4}}


def small(norm="bn", **kwargs):
    arguments = {"num_classes": 5, "width": 8, "dropout": 0.0, "norm_kwargs": SMALL.get(norm)} | kwargs
    return i3d_resnet(norm=norm, **arguments)


@pytest.fixture(scope="module")
def peers():
    """pytorchvideo's network with random weights and statistics, and ours with its state dict."""
    torch.manual_seed(0)
    peer = i3d_r50()
    for m in peer.modules():
        if isinstance(m, nn.BatchNorm3d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.1)
            m.running_mean.normal_(std=0.5)
            m.running_var.uniform_(0.5, 2.0)
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    ours = i3d_resnet(variant="8x8", norm="bn", dropout=0.0)
    ours.load_state_dict(peer.state_dict(), strict=True)
    return peer, ours


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_state_dict_loads_both_ways(peers):
    peer, ours = peers
    assert list(ours.state_dict()) == list(peer.state_dict())
    peer.load_state_dict(ours.state_dict(), strict=True)


def test_logits_and_running_statistics_equal_pytorchvideo(peers):
    peer, ours = peers
    x = torch.randn(1, 3, 8, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative(ours.eval()(x), peer.eval()(x)) < 1e-5
        assert relative(ours.train()(x), peer.train()(x)) < 1e-4
    for (name, a), b in zip(ours.state_dict().items(), peer.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_parameters_and_multiply_adds_are_those_published(peers):
    """28.04 M parameters; 28.5 and 37.3 G multiply-adds, of which two per element in the norm layers (fvcore)."""
    _, ours = peers
    assert round(sum(p.numel() for p in ours.parameters()) / 1e6, 2) == 28.04
    for size, published in ((224, 28.5), (256, 37.3)):
        analysis = FlopCountAnalysis(ours.eval(), torch.zeros(1, 3, 8, size, size)).unsupported_ops_warnings(False)
        assert round(analysis.total() / 1e9, 1) == published
        by_operator = analysis.by_operator()
        cost = count_cost(ours, 8, size)
        assert cost.parameters == sum(p.numel() for p in ours.parameters())
        # fvcore multiplies pytorchvideo's classifier by its positions; ours pools first, so it is applied once.
        assert cost.multiply_adds == by_operator["conv"] + by_operator["linear"]


@pytest.mark.parametrize(("depth", "temporal"), [(50, 3 + 2 + 3 + 1), (101, 3 + 2 + 12 + 1)])
def test_layout(depth, temporal):
    """The table of Wang et al. (2018): which first 1x1 convolutions are inflated, and where the strides are."""
    net = small(depth=depth)
    blocks = [b for i in (1, 3, 4, 5) for b in net.blocks[i].res_blocks]
    assert sum(b.branch2.conv_a.kernel_size[0] == 3 for b in blocks) == temporal
    kernels = [b.branch2.conv_a.kernel_size[0] for b in blocks]
    assert kernels[:7] == [3, 3, 3, 3, 1, 3, 1]
    assert kernels[-3:] == [1, 3, 1]
    assert type(blocks[0].branch2) is Bottleneck  # pytorchvideo's constructor would have turned it into its own class
    assert [b.branch2.conv_b.stride for b in blocks].count((1, 2, 2)) == 3
    assert all(b.branch2.conv_a.stride == (1, 1, 1) for b in blocks)


@pytest.mark.parametrize(
    ("variant", "shape", "features"),
    [
        ("32x2", (32, 64, 64), [(8, 16, 16), (4, 16, 16), (4, 8, 8), (4, 4, 4), (4, 2, 2)]),
        ("8x8", (8, 64, 64), [(8, 16, 16), (4, 16, 16), (4, 8, 8), (4, 4, 4), (4, 2, 2)]),
        ("32x2", (64, 64, 96), [(16, 16, 24), (8, 16, 24), (8, 8, 12), (8, 4, 6), (8, 2, 3)]),
    ],
)
def test_feature_sizes(variant, shape, features):
    net, x, found = small(variant=variant).eval(), torch.zeros(1, 3, *shape), []
    with torch.no_grad():
        for block in list(net.blocks)[:-1]:
            x = block(x)
            found.append(tuple(x.shape[2:]))
    assert found[1:] == features


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_builds_trains_and_starts_at_zero_gamma(norm):
    net = small(norm)
    if norm != "frozen_bn":
        assert all(p.requires_grad for p in net.parameters())
    lasts = [b.branch2.norm_c for i in (1, 3, 4, 5) for b in net.blocks[i].res_blocks]
    assert all((m.weight == 0).all() for m in lasts)
    # stem + 16 blocks of three + 4 shortcuts, with gamma and beta each
    assert len(list(norm_parameters(net))) == 2 * (1 + 16 * 3 + 4)
    loss = net(torch.randn(2, 3, 8, 64, 64)).square().mean()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters() if p.requires_grad)
    ones = [b.branch2.norm_c for b in small(norm, zero_init_last_norm=False).blocks[1].res_blocks]
    assert all((m.weight == 1).all() for m in ones)


def test_zero_gamma_makes_blocks_start_as_their_shortcut():
    block = small("gn").blocks[1].res_blocks[1].eval()
    x = torch.rand(1, 32, 2, 4, 4)
    torch.testing.assert_close(block(x), x)


def test_weight_standardisation_is_in_every_convolution():
    convolutions = [m for m in small("gn_ws").modules() if isinstance(m, nn.Conv3d)]
    assert len(convolutions) == 1 + 16 * 3 + 4
    assert all(isinstance(m, WSConv3d) for m in convolutions)
    assert list(small("gn_ws").state_dict()) == list(small("gn").state_dict())


@pytest.mark.parametrize(
    "kernel", [((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((1, 3, 3), (1, 2, 2), (0, 1, 1)), ((2, 1, 1),) * 2]
)
def test_max_pool_is_torch_s_without_indices(kernel):
    ours, theirs = MaxPool(*kernel), nn.MaxPool3d(*kernel)
    x = torch.randn(2, 4, 6, 8, 8).round().requires_grad_()  # rounded: many equal maxima
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        y = ours(x)
    assert kept == [torch.float32]
    grad = torch.randn_like(y)
    assert torch.equal(y, theirs(x))
    expected = torch.autograd.grad(theirs(x), x, grad)[0]
    assert torch.equal(torch.autograd.grad(y, x, grad)[0], expected)
    with torch.no_grad():
        assert torch.equal(ours(x), y)


def test_a_callable_is_a_norm():
    net = i3d_resnet(num_classes=3, width=8, norm=lambda channels: nn.GroupNorm(2, channels))
    assert net(torch.randn(1, 3, 5, 16, 16)).shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": 34}, ["depth", "34", "50", "101"]),
        ({"variant": "16x4"}, ["variant", "16x4", "32x2"]),
        ({"memory": "little"}, ["memory", "little", "lowest"]),
        ({"dropout": 1.5}, ["dropout", "1.5"]),
        ({"num_classes": 0}, ["num_classes", "0"]),
        ({"norm": "gm"}, ["gm", "gn"]),
        ({"norm": "gn", "width": 16}, ["16", "32"]),
        ({"norm": "gn", "norm_kwargs": {"groups": 8}}, ["groups", "num_groups"]),
        ({"norm": nn.BatchNorm3d, "norm_kwargs": {"eps": 1.0}}, ["norm_kwargs", "BatchNorm3d"]),
    ],
)
def test_wrong_arguments_name_the_values(arguments, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        i3d_resnet(**arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_wrong_inputs_name_their_shape():
    net = small("gn")
    with pytest.raises(ValueError, match=r"\(2, 8, 3, 32, 32\)"):
        net(torch.zeros(2, 8, 3, 32, 32))
    with pytest.raises(ValueError, match="at least 5 frames per clip, found 4"):
        net(torch.zeros(1, 3, 4, 32, 32))
