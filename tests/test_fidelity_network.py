"""Table 8's network and testing against shared facts of the experiment, sentence by sentence, on what its study builds.

Docstrings are as in tests/test_fidelity_training.py.
"""

import functools

import numpy as np
import pytest
import torch
from study_cells import begun, study
from torch import nn

from videogn.data.batches import EvalVideo, VideoBatch
from videogn.data.sampling import eval_indices
from videogn.data.transforms import eval_crops, eval_view
from videogn.spec import Protocol
from videogn.weights.inflate import inflate

BATCH_8, BATCH_4, FRAMES_64 = study("table8").axes["setting"]
GN, BN = (BATCH_8, "gn"), (BATCH_8, "bn")


@pytest.fixture
def begin(tmp_path):
    return functools.partial(begun, tmp_path)


@pytest.mark.parametrize(("setting", "frames"), [(BATCH_8, 32), (FRAMES_64, 64)])
def test_sizes_of_the_stages(setting, frames, begin):
    """The table of I3D ResNet-50: 16x112x112 behind conv1, 8x56x56 ... 4x7x7 behind res5, for 32 frames."""
    network = begin((setting, "gn")).model.network.eval()
    sizes = []
    stem, *blocks = network.blocks[:6]
    for layer in (stem.conv, stem, *blocks):
        layer.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    network(torch.empty(1, 3, frames, 224, 224, device="meta"))
    t = frames // 32
    assert sizes == [
        (64, 16 * t, 112, 112),  # conv1
        (64, 8 * t, 56, 56),  # pool1
        (256, 8 * t, 56, 56),  # res2
        (256, 4 * t, 56, 56),  # pool2
        (512, 4 * t, 28, 28),
        (1024, 4 * t, 14, 14),
        (2048, 4 * t, 7, 7),
    ]


def test_kernels(begin):
    """conv1 5x7x7, 64, stride 2,2,2; only the first 1x1 of a bottleneck is inflated (3x1x1); the spatial stride sits on
    the 3x3; temporal kernels 3,3,3 / 3,1,3,1 / 3,1,3,1,3,1 / 1,3,1."""
    stem, res2, pool2, *others, _ = begin(GN).model.network.blocks
    assert (stem.conv.kernel_size, stem.conv.out_channels, stem.conv.stride) == ((5, 7, 7), 64, (2, 2, 2))
    assert (stem.pool.kernel_size, stem.pool.stride, stem.pool.padding) == ((3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert pool2.kernel_size == pool2.stride == (2, 1, 1)
    kernels = []
    for number, stage in enumerate((res2, *others)):
        kernels.append([block.branch2.conv_a.kernel_size[0] for block in stage.res_blocks])
        for i, block in enumerate(stage.res_blocks):
            a, b, c = (getattr(block.branch2, f"conv_{x}") for x in "abc")
            s = 2 if number > 0 and i == 0 else 1
            assert (a.kernel_size[1:], a.stride, b.kernel_size, b.stride) == ((1, 1), (1, 1, 1), (1, 3, 3), (1, s, s))
            assert (c.kernel_size, c.stride) == ((1, 1, 1), (1, 1, 1))
    assert kernels == [[3, 3, 3], [3, 1, 3, 1], [3, 1, 3, 1, 3, 1], [1, 3, 1]]


def test_groups_and_eps(begin):
    """G = 32; eps 1e-5."""
    for cell in (GN, BN, (BATCH_8, "gn_ws"), (FRAMES_64, "gn")):
        named = begin(cell).model.network.named_modules()
        layers = [layer for name, layer in named if "norm" in name.rpartition(".")[2]]
        assert len(layers) == 53
        assert {layer.eps for layer in layers} == {1e-5}
        if cell != BN:
            assert {layer.num_groups for layer in layers} == {32}


def test_what_statistics_are_over(begin):
    """Statistics over (T,H,W) for BN, and those of the clips of its batch; over (T,H,W) and the channels of a group for
    GN."""
    clips = 3 * torch.randn(4, 64, 3, 5, 6, generator=torch.Generator().manual_seed(0)) + 2
    networks = {cell: begin(cell, "--model.width", "32", device="cpu").model.network for cell in (GN, BN)}
    made = {cell: network.blocks[3].res_blocks[0].branch2.norm_a for cell, network in networks.items()}
    groups = made[GN](clips).unflatten(1, (32, 2))
    torch.testing.assert_close(groups.mean(dim=(2, 3, 4, 5)), torch.zeros(4, 32), rtol=0, atol=1e-5)
    torch.testing.assert_close(groups.var(dim=(2, 3, 4, 5), correction=0), torch.ones(4, 32), rtol=1e-4, atol=0)
    assert groups.mean(dim=(3, 4, 5)).abs().max() > 0.05  # single channels are not
    batch = made[BN](clips)
    torch.testing.assert_close(batch.mean(dim=(0, 2, 3, 4)), torch.zeros(64), rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.var(dim=(0, 2, 3, 4), correction=0), torch.ones(64), rtol=1e-4, atol=0)
    assert batch.mean(dim=(2, 3, 4)).abs().max() > 0.05  # single clips are not


def test_inflation(begin):
    """Inflation of 2D weights: every temporal plane is W2D / t; ImageNet-pretrained."""
    for norm in ("bn", "gn", "ln"):
        initial = begin((BATCH_8, norm)).model.initial
        assert initial is not None
        assert not initial.convert_norm
        picture = torch.randn(4, 3, 7, 7)
        planes = inflate(picture, 5, initial.inflation).unbind(2)
        assert len(planes) == 5
        assert all(torch.allclose(plane, picture / 5) for plane in planes)


def test_pixels(begin):
    """Chosen here: RGB in [0,1], ImageNet mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225)."""
    model = begin(BN).model
    model.network = nn.Identity()
    clips = torch.randint(0, 256, (1, 3, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1)
    torch.testing.assert_close(model(clips), (clips.float() / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_precise_bn(begin):
    """Statistics recomputed over 200 batches before evaluation."""
    (precise,) = begin((BATCH_8, "bn, precise")).callbacks
    norm = nn.BatchNorm3d(3)
    batches = [torch.full((2, 3, 1, 2, 2), float(i)) for i in range(250)]
    passes = []

    class Batch:
        def __init__(self, clips):
            self.clips = clips

        def to(self, device):
            return self

    class Loader(list):
        class sampler:
            set_epoch = staticmethod(lambda epoch: None)

    class Network(nn.Module):
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.network = nn.Module()
            self.network.blocks = nn.ModuleList([norm])

        def forward(self, clips):
            passes.append(clips)
            return norm(clips)

    class Trainer:
        sanity_checking, world_size, current_epoch = False, 1, 0

        class state:
            fn = "fit"

        class datamodule:
            train_dataloader = staticmethod(lambda: Loader(map(Batch, batches)))

    precise.on_validation_start(Trainer, Network())
    assert len(passes) == 200
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 99.5))  # the mean of 0 to 199
    assert begin(BN).callbacks is None


def test_global_pool(begin):
    """Chosen here: global pool."""
    head = begin(GN, "--model.width", "32", device="cpu").model.network.blocks[-1].eval()
    features = torch.randn(2, head.proj.in_features, 4, 8, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(features), head.proj(features.mean(dim=(2, 3, 4))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "span", "stride"), [(BATCH_8, 63, 2), (BATCH_4, 63, 2), (FRAMES_64, 64, 1)], ids=["8", "4", "64"]
)
def test_places_of_the_clips(setting, span, stride, begin):
    """10 clips regularly sampled over the video; chosen here: delta i/9, which reaches the end, by default."""
    clip = begin((setting, "gn")).model.clip
    for length in (64, 250, 300):
        delta = length - span
        places = eval_indices(length, clip)
        assert places[:, 0].tolist() == [delta * i // 9 for i in range(10)]
        assert places[-1, -1] == length - 1
        assert set(np.diff(places, axis=1).ravel()) == {stride}


def test_both_rules_of_places(begin):
    """Chosen here: both clip-position rules; start_i = delta i/10 (SlowFast, pytorchvideo)."""
    clip = begin(GN, "--data.clip.protocol.positions", "segments").model.clip
    assert eval_indices(300, clip)[:, 0].tolist() == [237 * i // 10 for i in range(10)]


def test_testing_is_fully_convolutional(begin):
    """Testing: paper, 10 clips, fully convolutional at short side 256."""
    made = begin(BN)
    clip = made.model.clip
    assert clip.protocol == Protocol("paper-10clip")
    for height, width, expected in ((240, 320, (256, 341)), (1280, 720, (455, 256)), (100, 100, (256, 256))):
        view = eval_view(height, width, clip)
        assert (view.top, view.left, view.height, view.width, view.flip) == (0, 0, height, width, False)
        assert (view.out_height, view.out_width) == expected
        frames, boxes = eval_crops(torch.empty((1, *expected, 3), dtype=torch.uint8), clip)
        assert (boxes, tuple(frames.shape[1:3])) == ([(0, 0, *expected)], expected)
    assert made.model.network.eval()(torch.empty(2, 3, 32, 256, 341, device="meta")).shape == (2, 400)


def test_scores_are_averaged_softmax(begin):
    """Testing: 10 clips, softmax scores averaged."""
    model = begin(BN, "--model.width", "8", device="cpu").model.eval()
    nn.init.normal_(model.network.blocks[-1].proj.weight)  # or else all scores are close to 1 / 400
    frames = torch.randint(0, 256, (14, 36, 45, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    index = torch.arange(10)[:, None] + torch.arange(5)
    model.validation_step(VideoBatch([EvalVideo(frames, index, [(0, 0, 36, 45)], 3, 0, "a.mp4")]), 0)
    with torch.no_grad():
        each = model(torch.stack([frames[clip] for clip in index]).permute(0, 4, 1, 2, 3)).softmax(dim=1)
    mean = each.double().mean(dim=0)
    (result,) = model.results
    top = mean.argsort(descending=True)[:5]
    assert list(result.classes[:5]) == top.tolist()
    assert result.probabilities[:5] == pytest.approx(mean[top].tolist(), rel=1e-4)
    assert result.label_probability == pytest.approx(float(mean[3]), rel=1e-4)
