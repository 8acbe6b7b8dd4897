"""Other programs' networks, built by their own packages with random weights: what they compute, this project computes.

Each goes the whole way: the peer's state dict in a file, :func:`read_source`, :func:`transfer` into an I3D.
"""

import pytest
import timm
import torch
import torchvision
from pytorchvideo.models.hub import i3d_r50
from torchvision.transforms.v2.functional import normalize

import videogn
from videogn.cli import main
from videogn.i3d import i3d_resnet
from videogn.weights import read_source, transfer

torch.manual_seed(0)
PICTURE = torch.randn(2, 3, 64, 64)
BUILD = {
    "torchvision": torchvision.models.resnet50,
    "timm": lambda: timm.create_model("resnet50"),
    "timm_gn": lambda: timm.create_model("resnet50_gn"),
    "pytorchvideo": lambda: i3d_r50(pretrained=False),
    "torchvision101": torchvision.models.resnet101,
}


def randomised(net):
    """Norms and running statistics away from their start, by little enough that 50 layers neither explode nor fade."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0.0, 0.1, generator=generator)
        elif name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.uniform_(0.4, 1.0, generator=generator)
        elif tensor.dim() == 1 and tensor.is_floating_point():
            tensor.normal_(0.0, 0.1, generator=generator)
    return net.eval()


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """Name -> (network, file of its weights), built once."""
    built = {}

    def get(name):
        if name not in built:
            net = randomised(BUILD[name]())
            path = tmp_path_factory.mktemp("peer") / f"{name}.pth"
            torch.save({"model_state": net.state_dict()} if name == "pytorchvideo" else net.state_dict(), path)
            built[name] = net, path
        return built[name]

    return get


def imported(path, variant, inflation="mean"):
    source = read_source(path)
    kinds = {"depth": source.depth, "variant": variant, "norm": source.norm, "norm_kwargs": source.norm_kwargs}
    classes = len(source.tensors["blocks.6.proj.weight"])
    net = i3d_resnet(classes, **kinds)
    report = transfer(net, kinds | {"width": 64, "num_classes": classes}, source, inflation=inflation)
    assert not report.missing
    assert all(name.endswith("num_batches_tracked") for name in report.skipped)
    return net.eval()


def assert_equal(found, expected, tolerance=1e-4):
    scale = expected.abs().max()
    assert scale > 0.01
    assert (found - expected).abs().max() <= tolerance * scale


def still(picture, frames):
    return picture.unsqueeze(2).repeat(1, 1, frames, 1, 1)


@pytest.mark.parametrize("name", ["torchvision", "timm", "timm_gn", "torchvision101"])
@torch.no_grad()
def test_networks_of_pictures_give_the_same_logits(peer, name):
    net, path = peer(name)
    assert_equal(imported(path, "2d")(PICTURE.unsqueeze(2)), net(PICTURE))


@torch.no_grad()
def test_pytorchvideos_i3d_gives_the_same_logits(peer):
    net, path = peer("pytorchvideo")
    clip = torch.randn(1, 3, 8, 224, 224, generator=torch.Generator().manual_seed(1))
    assert_equal(imported(path, "8x8")(clip), net(clip))


@pytest.mark.parametrize(("variant", "frames"), [("8x8", 2), ("8x8", 8), ("32x2", 5), ("32x2", 32)])
@torch.no_grad()
def test_center_inflation_on_a_still_video_equals_the_picture(peer, variant, frames):
    net, path = peer("torchvision")
    assert_equal(imported(path, variant, "center")(still(PICTURE, frames)), net(PICTURE))


@torch.no_grad()
def test_center_inflation_with_group_norm(peer):
    """Statistics over (T, H, W) of a still video are those over (H, W)."""
    net, path = peer("timm_gn")
    assert_equal(imported(path, "8x8", "center")(still(PICTURE, 8)), net(PICTURE))


@torch.no_grad()
def test_mean_inflation_on_a_still_video_equals_the_picture_away_from_the_borders(peer):
    """The zero padding in time reaches 5 frames from each end to the end of res2, so 3 of pool2's frames, then 2 more
    to the end of res3, 3 of res4 and 1 of res5: 9 of the T / 2 frames there, so that T = 32 has an interior up to res3,
    and T = 40 one of two frames up to the end."""
    net, path = peer("torchvision")
    i3d = imported(path, "8x8", "mean")
    stages = [net.layer1, net.layer2, net.layer3, net.layer4]
    picture = net.maxpool(net.relu(net.bn1(net.conv1(PICTURE))))
    expected = {}
    for block, stage in zip((1, 3, 4, 5), stages, strict=True):
        picture = expected[block] = stage(picture)
    for frames, interior in ((32, {1: 5, 3: 5}), (40, {5: 9})):
        features = still(PICTURE, frames)
        for i, block in enumerate(i3d.blocks[:-1]):
            features = block(features)
            if i in interior:
                border = interior[i]
                inside = features[:, :, border : features.shape[2] - border]
                assert inside.shape[2] >= 2
                assert_equal(inside, still(expected[i], inside.shape[2]))
                outside = features[:, :, 0]
                assert (outside - expected[i]).abs().max() > 0.1 * expected[i].abs().max()


@torch.no_grad()
def test_the_command_line_gives_a_model_that_treats_a_picture_as_torchvision_does(peer, tmp_path, capsys):
    """Pixels included: uint8 RGB into both."""
    net, path = peer("torchvision")
    names, out = tmp_path / "names.txt", tmp_path / "out.safetensors"
    names.write_text("".join(f"class {i}\n" for i in range(1000)))
    command = ["weights", "import", str(path), "-o", str(out), "--variant", "2d", "--class-names", str(names)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "ResNet-50 2d, norm bn" in printed
    assert len(printed.splitlines()) < 10
    model = videogn.load(out)
    picture = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    expected = net(normalize(picture / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert_equal(model(picture.unsqueeze(2)), expected)
    assert (model.clip.frames, model.class_names[999]) == (1, "class 999")
