"""Recipes: decay groups, schedule and learning rate against their formulas."""

import copy
import math
from typing import get_args

import pytest
import torch
import torchvision
from runs import run
from torch import nn

from videogn import i3d_resnet, make_norm
from videogn.blocks import Memory
from videogn.errors import UsageError
from videogn.module import VideoClassifier
from videogn.optim import Recipe, Schedule, accumulation, lr_factor, make_optimizer, parameter_groups, peak_lr


def test_norm_parameters_have_their_own_decay_for_every_kind_of_norm():
    for norm in ("bn", "gn", "ln"):
        kwargs = {"num_groups": 4} if norm == "gn" else None
        net = i3d_resnet(num_classes=3, width=8, norm=norm, norm_kwargs=kwargs)
        rest, norms = parameter_groups(net, Recipe(weight_decay=1e-4, norm_weight_decay=0.0))
        assert (rest["weight_decay"], norms["weight_decay"]) == (1e-4, 0.0)
        assert len(norms["params"]) == 2 * 53
        assert all(p.ndim == 1 for p in norms["params"])
        assert sorted(p.ndim for p in rest["params"])[:2] == [1, 2]  # the classifier's bias and weight
    net = torchvision.models.resnet18(weights=None)
    assert len(parameter_groups(net, Recipe())[1]["params"]) == 2 * 20


def test_frozen_norms_are_left_out():
    net = nn.Sequential(nn.Conv3d(3, 4, 1), make_norm("frozen_bn")(4))
    groups = parameter_groups(net, Recipe())
    assert [len(g["params"]) for g in groups] == [2]


def test_step_schedule_is_the_protocols():
    """lr 0.01, divided by 10 every 150k of 400k iterations."""
    recipe = Recipe()
    found = [recipe.lr * lr_factor(recipe, step, 400_000) for step in (0, 149_999, 150_000, 299_999, 300_000, 399_999)]
    assert found == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_cosine_with_warmup_is_slowfasts():
    """34 of 196 epochs from 0.01 to the cosine's own value there, base 0.1."""
    recipe = Recipe(lr=0.1, schedule="cosine", warmup=34 / 196, warmup_start=0.1)
    steps = 196 * 100

    def slowfast(epoch):
        if epoch < 34:
            end = 0.1 * (math.cos(math.pi * 34 / 196) + 1) * 0.5
            return 0.01 + (end - 0.01) * epoch / 34
        return 0.1 * (math.cos(math.pi * epoch / 196) + 1) * 0.5

    for epoch in (0, 1.5, 33.99, 34, 100, 195):
        assert 0.1 * lr_factor(recipe, round(epoch * 100), steps) == pytest.approx(slowfast(epoch))


def test_linear_rule_and_accumulation():
    recipe = Recipe(lr=0.01, lr_clips=64, clips_per_step=32)
    assert peak_lr(recipe, 32) == pytest.approx(0.005)
    assert peak_lr(Recipe(lr=0.01), 32) == 0.01
    assert accumulation(recipe, 4) == 8
    assert accumulation(Recipe(), 4) is None
    with pytest.raises(ValueError, match=r"multiple of .* = 12, found 32"):
        accumulation(recipe, 12)


def test_optimisers():
    net = nn.Sequential(nn.Linear(2, 2), make_norm("bn")(2))
    sgd = make_optimizer(net, Recipe(), 0.1)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["lr"]) == (0.9, True, 0.1)
    adamw = make_optimizer(net, Recipe(optimizer="adamw", momentum=0.8), 1e-3)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.8, 0.999)
    make_optimizer(net, Recipe(momentum=0.0), 0.1)  # Nesterov needs momentum: not asked for without it


def small(kind, fused, memory_format=torch.channels_last_3d):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 4, 3, bias=False), make_norm("bn")(4), nn.Conv3d(4, 5, (3, 1, 1)), nn.ReLU())
    net.to(memory_format=memory_format)
    recipe = Recipe(optimizer=kind, weight_decay=1e-2, norm_weight_decay=1e-2)
    return net, make_optimizer(net, recipe, 0.01, fused)


def take_two_steps(net, optimizer):
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.randn(2, 3, 6, 6, 6, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
def test_fused_and_unfused_states_continue_each_other(kind, fused):
    """Also from the other memory format: the fused CPU kernel pairs values by their place and sees no strides."""
    ours, theirs = (torch.channels_last_3d, torch.contiguous_format)[:: 1 if fused else -1]
    reference = small(kind, False)
    take_two_steps(*reference)
    saved_net, saved = small(kind, not fused, theirs)
    take_two_steps(saved_net, saved)
    net, optimizer = small(kind, fused, ours)
    net.load_state_dict(saved_net.state_dict())
    state = copy.deepcopy(saved.state_dict())
    optimizer.load_state_dict(state)
    assert [bool(group["fused"]) for group in optimizer.param_groups] == [fused, fused]
    assert [bool(group["fused"]) for group in state["param_groups"]] == [not fused, not fused]
    take_two_steps(*reference)
    take_two_steps(net, optimizer)
    for a, b in zip(net.parameters(), reference[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lr": -1.0}, "lr"),
        ({"momentum": 1.5}, "momentum"),
        ({"milestones": (0.8, 0.2)}, "milestones"),
        ({"milestones": (150_000,)}, "milestones"),
        ({"warmup": 5.0}, "warmup"),
        ({"clips_per_step": 0}, "clips_per_step"),
    ],
)
def test_values_out_of_range_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**arguments)


@pytest.mark.parametrize("memory", get_args(Memory))
def test_gradients_have_the_strides_of_their_parameters(memory):
    """The fused CPU kernel relies on it, whatever computes the gradient."""
    model = VideoClassifier(num_classes=3, width=8, norm="gn", norm_kwargs={"num_groups": 4}, memory=memory)
    model.network(torch.randn(1, 3, 5, 32, 32)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.stride() == parameter.stride(), name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fused_and_clipped_runs(precision, tiny_config, tmp_path):
    """Lightning does not clip the gradients of a fused optimiser under mixed precision."""
    options = ["--trainer.precision", precision, "--trainer.gradient_clip_val", "1", "--trainer.limit_val_batches", "0"]
    assert run("fit", tiny_config, tmp_path, *options) == 0
    state = torch.load(tmp_path / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    groups = state["optimizer_states"][0]["param_groups"]
    assert [bool(group["fused"]) for group in groups] == [precision == "32-true"] * 2


# --- what a run that goes on takes from its checkpoint


def scheduled(net, recipe):
    optimizer = make_optimizer(net, recipe, recipe.lr)
    return optimizer, Schedule(optimizer, recipe, 10)


def test_options_that_are_changed_hold_from_the_checkpoint_on():
    """Stored groups and schedules would bring back those of the command that wrote them."""
    net, changed = small("sgd", True)[0], Recipe(lr=0.5, weight_decay=0.3, momentum=0.1, warmup=0.5)
    before, schedule = scheduled(net, Recipe(lr=0.1, warmup=0.5))
    for _ in range(3):
        before.step()
        schedule.step()
    states = copy.deepcopy((before.state_dict(), schedule.state_dict()))
    same, again = scheduled(net, Recipe(lr=0.1, warmup=0.5))
    same.load_state_dict(states[0])
    again.load_state_dict(states[1])
    assert same.state_dict() == before.state_dict()
    assert again.state_dict() == schedule.state_dict()
    after, schedule = scheduled(net, changed)
    after.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    assert [group["lr"] for group in after.param_groups] == [0.5 * lr_factor(changed, 3, 10)] * 2
    assert [group["weight_decay"] for group in after.param_groups] == [0.3, 0.0]
    assert [group["momentum"] for group in after.param_groups] == [0.1, 0.1]
    schedule.step()
    assert [group["lr"] for group in after.param_groups] == [0.5 * lr_factor(changed, 4, 10)] * 2


def test_states_that_do_not_fit_are_refused():
    (net, sgd), (_, adamw) = small("sgd", True), small("adamw", True)
    with pytest.raises(UsageError, match=r"recipe\.optimizer: expected sgd, as in the checkpoint, found adamw"):
        adamw.load_state_dict(sgd.state_dict())
    with pytest.raises(UsageError, match=r"recipe\.optimizer: expected adamw, as in the checkpoint, found sgd"):
        sgd.load_state_dict(adamw.state_dict())
    net[0].requires_grad_(False)
    with pytest.raises(UsageError, match=r"model\.freeze_stages: expected 5 trained tensors, .* found 4"):
        make_optimizer(net, Recipe(), 0.1).load_state_dict(sgd.state_dict())
