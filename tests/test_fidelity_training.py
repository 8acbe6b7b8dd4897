"""Table 8's training against shared facts of the experiment, sentence by sentence, on what its study's cells build.

Each docstring is the sentence that its test asserts: of Wu & He (ECCV 2018), of Wang et al., "Non-local Neural
Networks" (CVPR 2018) and its code, or, where it says so, a choice of this project.
"""

import functools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from study_cells import begun, study
from torch import nn

from videogn.data.transforms import train_view
from videogn.data.view import apply_view
from videogn.norms import norm_parameters

BATCH_8, BATCH_4, FRAMES_64 = study("table8").axes["setting"]
NORMS = study("table8").axes["norm"]
GN, BN = (BATCH_8, "gn"), (BATCH_8, "bn")


@pytest.fixture
def begin(tmp_path):
    return functools.partial(begun, tmp_path)


def rates(model, *steps):
    """Learning rates of all groups at optimiser steps, counted from 0."""
    configured = model.configure_optimizers()
    schedule, found = configured["lr_scheduler"]["scheduler"], []
    assert configured["lr_scheduler"]["interval"] == "step"
    for step in steps:
        schedule.last_epoch = step - 1
        schedule.step()
        (rate,) = {group["lr"] for group in configured["optimizer"].param_groups}
        found.append(rate)
    return found


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_steps_of_the_learning_rate(begin):
    """lr 0.01, divided by 10 every 150k of 400k iterations."""
    model = begin(GN).model
    steps = (0, 1, 149_999, 150_000, 299_999, 300_000, 399_999)  # no warm-up: the first steps have all of it
    assert rates(model, *steps) == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("setting", [BATCH_4, FRAMES_64])
def test_steps_of_the_learning_rate_at_four_clips(setting, begin):
    """Chosen here: lr 0.01 x clips per step / 64, iterations x 64 / clips per step."""
    model = begin((setting, "gn"), steps=800_000).model
    assert model.clips_per_step == 32
    steps = (0, 299_999, 300_000, 599_999, 600_000, 799_999)
    assert rates(model, *steps) == pytest.approx([0.005, 0.005, 0.0005, 0.0005, 0.00005, 0.00005])


@pytest.mark.parametrize(("setting", "clips", "total"), [(BATCH_8, 64, 104 * 10), (BATCH_4, 32, 104 * 20)])
def test_iterations(setting, clips, total, begin, tmp_path):
    """8 GPUs x 8 clips; about 104 epochs; chosen here: iterations x 64 / clips per step."""
    for i in range(648):  # ten steps of 64, and eight that are left
        (tmp_path / f"{i}.mp4").touch()
    listed = tmp_path / "train.txt"
    listed.write_text("".join(f"{i}.mp4 {i % 400}\n" for i in range(648)))
    for gpus, accumulated in ((8, 1), (2, 4)):
        made = begin((setting, "gn"), "--data.train_list", listed, "--data.num_workers", "0", gpus=gpus)
        assert made.model.clips_per_step == clips == made.data.batch_size * gpus * accumulated
        assert made.trainer.accumulate_grad_batches == accumulated
        assert len(made.data.train_dataloader()) * made.epochs == total * accumulated


def test_optimiser(begin):
    """SGD momentum 0.9 (code: Nesterov); weight decay 1e-4 (code: 0 on norm parameters)."""
    model = begin(BN, "--model.width", "8", device="cpu").model.double()
    optimizer = model.configure_optimizers()["optimizer"]
    named = dict(model.network.named_parameters())
    weights = {name: p.detach().clone() for name, p in named.items()}
    momentum = {name: torch.zeros_like(p) for name, p in weights.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for name, parameter in named.items():
            gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)  # with its strides, as autograd's
            if "norm" not in name:
                gradient = gradient + 1e-4 * weights[name]
            momentum[name] = 0.9 * momentum[name] + gradient
            weights[name] = weights[name] - 0.01 * (gradient + 0.9 * momentum[name])
        optimizer.step()
    for name, parameter in named.items():
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_weight_decay_groups(norm, begin):
    """Chosen here: weight decay 0 on norm parameters (1e-4 as an option)."""
    model = begin((BATCH_8, norm)).model
    network, groups = model.network, model.configure_optimizers()["optimizer"].param_groups
    found = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert found == {id(p): 0.0 if "norm" in name else 1e-4 for name, p in trained.items()}
    assert sum("norm" in name for name in trained) == (0 if norm == "frozen_bn" else 2 * 53)
    if norm == "gn":
        option = begin(GN, "--model.recipe.norm_weight_decay", "1e-4").model
        assert {g["weight_decay"] for g in option.configure_optimizers()["optimizer"].param_groups} == {1e-4}


def test_dropout(begin):
    """Dropout 0.5, and none in evaluation."""
    head = begin(GN).model.network.blocks[-1]
    ones = torch.ones(100_000)
    torch.manual_seed(0)
    head.train()
    dropped = head.dropout(ones)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert float((dropped == 0).float().mean()) == pytest.approx(0.5, abs=6 * 0.5 / math.sqrt(len(ones)))
    head.eval()
    assert torch.equal(head.dropout(ones), ones)


@pytest.fixture
def views(begin):
    """What 13,000 clips show of a source whose short side is large enough to tell all scales apart."""
    rng = np.random.default_rng(0)
    clip = begin(GN).model.clip
    return [train_view(32_768, 65_536, clip, rng) for _ in range(13_000)]


def test_short_side(views):
    """Short side jittered in [256, 320], both included."""
    scales = Counter(round(224 * 32_768 / view.height) for view in views)
    assert sorted(scales) == list(range(256, 321))
    assert all(abs(count - 200) < 6 * math.sqrt(200) for count in scales.values())


def test_crop(views):
    """Crop 224, at any place."""
    assert {(view.out_height, view.out_width) for view in views} == {(224, 224)}
    assert all(view.height == view.width for view in views)
    for place in (
        [view.top / (32_768 - view.height) for view in views],
        [view.left / (65_536 - view.width) for view in views],
    ):
        counts = np.histogram(place, bins=10, range=(0, 1))[0]
        assert np.abs(counts - 1300).max() < 6 * math.sqrt(1300)
        assert min(place) < 1e-3
        assert max(place) > 1 - 1e-3


def test_flip(views):
    """Horizontal flip, of one clip in two."""
    flipped = sum(view.flip for view in views)
    assert abs(flipped - 6500) < 6 * math.sqrt(13_000 / 4)
    frames = torch.arange(24, dtype=torch.uint8).view(1, 2, 4, 3)
    whole = {"top": 0, "left": 0, "height": 2, "width": 4, "out_height": 2, "out_width": 4}
    assert torch.equal(apply_view(frames, type(views[0])(**whole, flip=True)), frames.flip(2))


def test_clips_of_the_loader_are_those(begin, tiny_data, tmp_path):
    """32 frames, every 2nd frame; 64 frames, consecutive; crop 224."""
    listed = tmp_path / "train.txt"
    listed.write_text(f"{next(tiny_data.glob('train/*/*'))} 7\n")
    for setting, frames, stride in ((BATCH_8, 32, 2), (BATCH_4, 32, 2), (FRAMES_64, 64, 1)):
        made = begin((setting, "gn"), "--data.train_list", listed, "--data.num_workers", "0", gpus=1)
        data = made.data._train_data(made.data.index("train"))
        item = data[0, 0]
        assert item.frames.shape == (frames, 224, 224, 3)
        assert (data.clip.stride, item.label) == (stride, 7)


@pytest.mark.parametrize("norm", ["bn", "bn, precise", "sub_bn", "brn"])
def test_batch_norms_are_trained(norm, begin):
    """BN enabled in fine-tuning."""
    model = begin((BATCH_8, norm)).model
    assert all(p.requires_grad for p in norm_parameters(model.network))
    assert all(module.training for module in model.network.modules())


def test_frozen_bn_is_not(begin):
    """BN* is frozen BN (fixed statistics and affine)."""
    network = begin((BATCH_8, "frozen_bn"), "--model.width", "8", device="cpu").model.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network(torch.randn(1, 3, 5, 32, 32)).sum().backward()
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(p.requires_grad for p in norm_parameters(network))


def test_initial_weights(begin):
    """He init; gamma 1, but 0 on the last norm of each residual block."""
    network = begin(GN, "--model.width", "32", device="cpu").model.network
    gammas = {name: p for name, p in network.named_parameters() if "norm" in name and name.endswith("weight")}
    last = {name for name in gammas if name.endswith("norm_c.weight")}
    assert len(last) == 16
    assert all(bool((p == (0 if name in last else 1)).all()) for name, p in gammas.items())
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d) and m.weight.numel() > 10_000]
    assert len(convolutions) > 30
    for layer in convolutions:
        fan_out = layer.out_channels * math.prod(layer.kernel_size)
        draws = layer.weight.numel()
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=6 / math.sqrt(2 * draws))
        assert abs(float(layer.weight.detach().mean())) < 6 * math.sqrt(2 / fan_out / draws)
