"""Steps of training against steps written out with pytorchvideo's network and torch's optimiser, in float64."""

import pytest
import torch
from pytorchvideo.models.hub import i3d_r50
from torch import nn

from videogn.data.batches import ClipBatch
from videogn.module import VideoClassifier
from videogn.optim import Recipe, make_optimizer, peak_lr
from videogn.spec import ClipSpec

CLASSES, STEPS = 5, 2
RECIPE = Recipe(lr=0.01, lr_clips=64, weight_decay=1e-4, norm_weight_decay=0.0)  # of the rows of Table 8


@pytest.fixture(scope="module")
def batches():
    """Two batches of two clips of 8x48x48, and the network's first weights."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (STEPS, 2, 3, 8, 48, 48), dtype=torch.uint8, generator=generator)
    return clips, torch.tensor([[0, 3], [4, 2]])


def reference(batches, weights):
    """Losses and last weights of pytorchvideo's I3D: gradients with momentum 0.9 after Nesterov, decay on weights.

    8 clips per GPU on one GPU are 8 clips per step, so that the rate is 0.01 x 8 / 64.
    """
    network = i3d_r50(pretrained=False)
    network.blocks[-1] = nn.Sequential()
    network.blocks[-1].pool, network.blocks[-1].flat = nn.AdaptiveAvgPool3d(1), nn.Flatten()
    network.blocks[-1].proj = nn.Linear(2048, CLASSES)
    network.double().load_state_dict(weights)
    norms = {id(p) for m in network.modules() if isinstance(m, nn.BatchNorm3d) for p in m.parameters()}
    of_norms = [p for p in network.parameters() if id(p) in norms]
    others = [p for p in network.parameters() if id(p) not in norms]
    optimizer = torch.optim.SGD(
        [{"params": others, "weight_decay": 1e-4}, {"params": of_norms, "weight_decay": 0.0}],
        lr=0.01 * 8 / 64,
        momentum=0.9,
        nesterov=True,
    )
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1, 1)
    losses = []
    for clips, labels in zip(*batches, strict=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network((clips.double() / 255 - mean) / std), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, network.state_dict()


def test_steps_of_sgd_equal_those_of_pytorchvideo(batches, monkeypatch):
    """One training step of this project's I3D, and a second, equals a step written from pytorchvideo's i3d_r50, torch
    SGD and the same batch, to 1e-6 in float64: of the loss, and of how far each tensor has moved."""
    torch.manual_seed(0)
    model = VideoClassifier(CLASSES, variant="8x8", norm="bn", dropout=0.0, memory="lowest", recipe=RECIPE)
    for name, parameter in model.network.named_parameters():
        if "branch2.norm_c.weight" in name:
            parameter.data.fill_(0.3)  # the zeros that training starts from would hide the residual branches
    model = model.double()
    model.clip = ClipSpec(frames=8, stride=8, train_crop=48)
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    weights = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    expected, after = reference(batches, weights)
    optimizer = make_optimizer(model.network, model.recipe, peak_lr(model.recipe, clips_per_step=8))
    losses = []
    for i, (clips, labels) in enumerate(zip(*batches, strict=True)):
        optimizer.zero_grad()
        loss = model.training_step(ClipBatch(clips, labels, labels, []), i)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-6)
    assert after.keys() == model.network.state_dict().keys()
    for name, tensor in model.network.state_dict().items():
        moved = (after[name].double() - weights[name].double()).abs().max()
        torch.testing.assert_close(
            tensor.double(), after[name].double(), rtol=0, atol=max(1e-6 * float(moved), 1e-12), msg=name
        )
