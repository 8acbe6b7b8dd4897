"""replace_norms and norm_parameters on the models people bring."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from videogn.norms import (
    NORMS,
    BatchNorm,
    FrozenBatchNorm,
    GroupNorm,
    WSConv2d,
    is_norm,
    make_norm,
    norm_parameters,
    replace_norms,
)
from videogn.norms.standardize import _Standardized

torch_norms = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


def maskrcnn():
    return torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96
    )


def randomise(model):
    for module in model.modules():
        if isinstance(module, torch_norms):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def assert_trains(model, loss):
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in norm_parameters(model):
        assert parameter.grad is not None
    assert any(parameter.grad.abs().sum() > 0 for parameter in norm_parameters(model))


@pytest.mark.parametrize(
    ("build", "count"),
    [(torchvision.models.vgg16_bn, 13), (torchvision.models.resnet101, 104)],
    ids=["vgg16_bn", "resnet101"],
)
def test_classifiers_train_with_group_norm(build, count):
    model = build(num_classes=5)
    if isinstance(model, torchvision.models.VGG):
        model.classifier = nn.Linear(512 * 7 * 7, 5)  # two layers of 4096 are slow and hold no norm
    new = replace_norms(model, "gn")
    assert new is model
    norms = [module for module in model.modules() if is_norm(module)]
    assert len(norms) == count
    assert all(type(norm) is GroupNorm and norm.num_groups == 32 for norm in norms)
    assert_trains(model, model(torch.randn(1, 3, 64, 64)).square().sum())


def test_mask_rcnn_trains_with_group_norm():
    model = replace_norms(maskrcnn(), "gn")
    assert sum(isinstance(module, GroupNorm) for module in model.modules()) == 53
    assert not any(isinstance(module, torch_norms) for module in model.modules())
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }
    assert_trains(model, sum(model([torch.rand(3, 64, 64)], [target]).values()))


@pytest.mark.parametrize("name", ["bn", "frozen_bn", "sub_bn", "brn"])
def test_batch_norms_carry_everything_over(name):
    model = randomise(torchvision.models.mobilenet_v3_small()).eval()  # eps 0.001 and momentum 0.01
    x = torch.randn(2, 3, 32, 32)
    expected, keys = model(x), list(model.state_dict())
    replace_norms(model, name)
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == keys
    layers = [module for module in model.modules() if is_norm(module)]
    assert all(type(layer) is type(make_norm(name)(4)) and layer.eps == 0.001 for layer in layers)
    assert all(layer.momentum == 0.01 for layer in layers if name != "frozen_bn")
    assert replace_norms(model, name, eps=0.5).get_submodule("features.0.1").eps == 0.5


def test_torchvision_frozen_to_frozen_and_back():
    model = randomise(torchvision.models.resnet18(norm_layer=lambda channels: FrozenBatchNorm2d(channels, eps=0.0)))
    model.eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    replace_norms(model, "frozen_bn")
    torch.testing.assert_close(model(x), expected)
    assert not any(parameter.requires_grad for parameter in norm_parameters(model))
    assert model.conv1.weight.requires_grad
    replace_norms(model, "bn")
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)  # bn cannot have the eps of 0
    assert all(parameter.requires_grad for parameter in norm_parameters(model))


@pytest.mark.parametrize("name", NORMS)
def test_parameters_device_dtype_mode_and_requires_grad_stay(name):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    model.to(torch.bfloat16)
    model[1].weight.requires_grad_(False)
    model[4].eval()
    old = [model[1].weight, model[1].bias]
    arguments = {"num_groups": 2} if name in ("gn", "gn_ws") else {}
    replace_norms(model, name, **arguments)
    assert [model[1].training, model[4].training] == [True, False]
    assert all(torch.equal(p, q) for p, q in zip(old, model[1].parameters(), strict=True))
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert [p.requires_grad for p in model[1].parameters()] == (
        [False, False] if name == "frozen_bn" else [False, True]
    )
    if name != "frozen_bn":
        assert model[1].bias is old[1]  # an optimiser made before the swap goes on working
    meta = replace_norms(nn.Sequential(nn.BatchNorm3d(8, device="meta")), name, **arguments)
    assert {p.device.type for p in [*meta.parameters(), *meta.buffers()]} == {"meta"}


@pytest.mark.parametrize(
    "old",
    [
        nn.BatchNorm1d(8),
        nn.SyncBatchNorm(8),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm1d(8),
        nn.InstanceNorm3d(8, affine=True, track_running_stats=True),
        nn.BatchNorm2d(8, affine=False),
        FrozenBatchNorm2d(8),
        *(make_norm(name, **({"num_groups": 2} if "gn" in name else {}))(8) for name in NORMS),
    ],
    ids=lambda old: type(old).__name__,
)
def test_every_kind_of_norm_as_root_and_as_child(old):
    assert type(replace_norms(copy.deepcopy(old), "ln")) is type(make_norm("ln")(8))
    model = replace_norms(nn.ModuleDict({"norm": copy.deepcopy(old)}), "bn")
    assert type(model["norm"]) is BatchNorm
    assert set(dict(model.named_parameters())) == {"norm.weight", "norm.bias"}
    if isinstance(old, nn.InstanceNorm3d):
        assert torch.equal(model["norm"].running_var, torch.ones(8))


def test_what_is_no_norm_stays():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout())
    before = list(model)
    assert replace_norms(model, "gn") is model
    assert list(model) == before


def test_a_shared_layer_stays_shared():
    norm = nn.BatchNorm2d(8)
    model = replace_norms(nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)}), "in")
    assert model["a"] is model["b"][0]


def test_errors_name_the_layer_and_change_nothing():
    model = nn.Sequential(nn.BatchNorm2d(64), nn.Sequential(nn.Conv2d(64, 40, 1), nn.BatchNorm2d(40)))
    before = list(model.modules())
    with pytest.raises(ValueError, match=r"layer '1\.1': 40 channels cannot be divided by num_groups=32; allowed .*20"):
        replace_norms(model, "gn")
    assert list(model.modules()) == before

    class NormAct(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.act = nn.ReLU()

    with pytest.raises(ValueError, match="layer '0': NormAct holds ReLU"):
        replace_norms(nn.Sequential(NormAct(8)), "in")


def standardised(model):
    return {name for name, module in model.named_modules() if isinstance(module, _Standardized)}


def test_gn_ws_on_resnet18():
    model = replace_norms(torchvision.models.resnet18(num_classes=3), "gn_ws")
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert standardised(model) == convolutions
    x = torch.randn(2, 3, 64, 64)
    expected = model.eval()(x)
    with torch.no_grad():
        model.conv1.weight.mul_(3.0).add_(0.5)  # what standardisation takes away again
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)
    assert_trains(model, model(x).square().sum())


def test_gn_ws_takes_the_convolutions_before_norms_alone():
    detector = replace_norms(maskrcnn(), "gn_ws")
    names = {name for name, module in detector.named_modules() if isinstance(module, nn.Conv2d)}
    assert standardised(detector) == {name for name in names if name.startswith("backbone.body.")}

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.conv3 = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 8, 3)
            self.bn1, self.bn2 = nn.BatchNorm2d(16), nn.BatchNorm2d(8)
            self.inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 12, 1)))
            self.act = nn.ReLU()
            self.bn4 = nn.BatchNorm2d(12)
            self.head = nn.Conv2d(8, 8, 1)

    assert standardised(replace_norms(Block(), "gn_ws", num_groups=4)) == {"conv2", "conv3", "inner.1.1"}
    video = torchvision.models.video.r2plus1d_18()
    names = {name for name, module in video.named_modules() if isinstance(module, nn.Conv3d)}
    replace_norms(video, "gn_ws", channels_per_group=1)
    assert standardised(video) == names

    class Same(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(ValueError, match="layer '0': Same computes something else than Conv2d"):
        replace_norms(nn.Sequential(Same(3, 8, 3), nn.BatchNorm2d(8)), "gn_ws", num_groups=2)


def test_norm_parameters():
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        shared,
        nn.Sequential(shared, GroupNorm(4, 2)),
        nn.LayerNorm(4),
        WSConv2d(4, 4, 3),
        nn.PReLU(4),
    )
    expected = [shared.weight, shared.bias, *model[2][1].parameters(), *model[3].parameters()]
    assert [id(p) for p in norm_parameters(model)] == [id(p) for p in expected]
    assert [id(p) for p in norm_parameters(shared)] == [id(p) for p in shared.parameters()]
    assert len(list(norm_parameters(FrozenBatchNorm(4)))) == 2
