"""What the batch norms promise about each other: renorm, sub-batch, frozen and synchronised batch norm."""

import copy

import pytest
import torch
from torch import nn

from videogn.norms import BatchNorm, BatchRenorm, FrozenBatchNorm, SubBatchNorm, check_sync, make_norm

CHANNELS = 6


def clips(samples=4, scale=2.0):
    return (torch.randn(samples, CHANNELS, 2, 5, 3) * scale + torch.arange(CHANNELS).view(-1, 1, 1, 1)).requires_grad_()


def same_step(layer, other, x):
    """One training step on both; outputs, gradients and running statistics must agree."""
    weights = torch.randn_like(x)
    results = []
    for norm in (layer, other):
        y = norm(x)
        results.append([y, *torch.autograd.grad((y * weights).sum(), [x, norm.weight, norm.bias])])
    for one, another in zip(*results, strict=True):
        torch.testing.assert_close(one, another)
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key])


@pytest.mark.parametrize("momentum", [0.1, 0.01, None])
@pytest.mark.parametrize(
    "layer",
    [
        lambda momentum: BatchRenorm(CHANNELS, r_max=1.0, d_max=0.0, warmup_steps=0, momentum=momentum),
        lambda momentum: BatchRenorm(CHANNELS, warmup_steps=5, momentum=momentum),
        lambda momentum: SubBatchNorm(CHANNELS, num_splits=1, momentum=momentum),
        lambda momentum: BatchNorm(CHANNELS, momentum=momentum),
    ],
    ids=["brn without limits", "brn warming up", "one split", "bn"],
)
def test_special_cases_equal_batch_norm(layer, momentum):
    norm, expected = layer(momentum), nn.BatchNorm3d(CHANNELS, momentum=momentum)
    for _ in range(5):
        same_step(norm, expected, clips())
    x = clips()
    torch.testing.assert_close(norm.eval()(x), expected.eval()(x))


def test_brn_within_its_limits_normalises_with_the_running_pair():
    layer = BatchRenorm(CHANNELS, r_max=100.0, d_max=100.0, warmup_steps=0, r_ramp_steps=0, d_ramp_steps=0)
    layer.running_mean.copy_(torch.arange(CHANNELS))
    layer.running_var.fill_(3.0)
    x = clips()
    expected = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), expected)


def test_brn_limits_follow_the_ramp():
    layer = BatchRenorm(CHANNELS)
    # The schedule of section 4 of the paper: batch norm until 5000, d_max 5 at 25000, r_max 3 at 40000.
    expected = {0: (1, 0), 4999: (1, 0), 5000: (1, 0), 15000: (1 + 2 * 10 / 35, 2.5), 25000: (1 + 2 * 20 / 35, 5)}
    for step, limits in (expected | {40000: (3, 5), 10**6: (3, 5)}).items():
        layer.num_batches_tracked.fill_(step)
        torch.testing.assert_close(torch.stack(layer.limits()), torch.tensor(limits, dtype=torch.float32))


def test_brn_uses_the_limits_of_the_step():
    layer = BatchRenorm(CHANNELS, r_max=2.0, d_max=1.0, warmup_steps=1, r_ramp_steps=2, d_ramp_steps=1)
    limits = [(1.0, 0.0), (1.0, 0.0), (1.5, 1.0), (2.0, 1.0), (2.0, 1.0)]
    for step, (r_max, d_max) in enumerate(limits):
        layer.running_mean.zero_()
        layer.running_var.fill_(1e-4)  # far from the batch: every r is at its limit
        x = clips(scale=0.5)
        mean, std = x.mean((0, 2, 3, 4), keepdim=True), x.std((0, 2, 3, 4), correction=0, keepdim=True)
        d = (mean / (1e-4 + layer.eps) ** 0.5).clamp(-d_max, d_max)
        assert layer.num_batches_tracked == step
        torch.testing.assert_close(layer(x), (x - mean) / std * r_max + d, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arguments", [{"num_splits": 3}, {"split_size": 2}, {"split_size": 6}], ids=str)
def test_sub_bn_splits_and_pools(arguments):
    layer, whole = SubBatchNorm(CHANNELS, **arguments), nn.BatchNorm3d(CHANNELS)
    for _ in range(3):
        x = clips(6) + torch.linspace(-3, 3, 6).view(-1, 1, 1, 1, 1)  # splits of different means
        expected = torch.cat([nn.BatchNorm3d(CHANNELS)(split) for split in x.split(arguments.get("split_size", 2))])
        torch.testing.assert_close(layer(x), expected)
        whole(x)
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[key], value)
    torch.testing.assert_close(layer.eval()(x[:5]), whole.eval()(x[:5]))


def test_sub_bn_refuses_an_uneven_batch_in_training_only():
    x = clips(5)
    with pytest.raises(ValueError, match="training batch of 5 cannot be divided by num_splits=2"):
        SubBatchNorm(CHANNELS)(x)
    with pytest.raises(ValueError, match="training batch of 5 cannot be divided by split_size=3"):
        SubBatchNorm(CHANNELS, split_size=3)(x)
    assert SubBatchNorm(CHANNELS).eval()(x).shape == x.shape


def test_frozen_bn_loads_batch_norm_and_stays():
    trained = nn.BatchNorm3d(CHANNELS)
    for _ in range(3):
        trained(clips())
    nn.init.normal_(trained.weight)
    frozen = FrozenBatchNorm(CHANNELS)
    frozen.load_state_dict(trained.state_dict(), strict=True)
    x, before = clips(), copy.deepcopy(frozen.state_dict())
    for mode in (True, False):
        torch.testing.assert_close(frozen.train(mode)(x), trained.eval()(x))
    frozen.requires_grad_(True)  # what model.requires_grad_() does
    frozen.train()(x).square().sum().backward()
    assert frozen.weight.grad is None
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())


def test_only_bn_is_converted_to_sync_batch_norm():
    names = ("bn", "brn", "sub_bn", "frozen_bn", "gn", "ln", "in")
    model = nn.ModuleDict({name: make_norm(name)(32) for name in names})
    layers = dict(model.items())
    nn.init.normal_(model["bn"].weight)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(layers["bn"], nn.BatchNorm3d)
    assert type(converted["bn"]) is nn.SyncBatchNorm
    assert torch.equal(converted["bn"].weight, layers["bn"].weight)
    assert all(converted[name] is layers[name] for name in names[1:])


def test_check_sync():
    check_sync("bn")
    for name in ("brn", "sub_bn"):
        with pytest.raises(ValueError, match=f"{name} cannot be synchronised.*lose its own statistics"):
            check_sync(name)
    for name in ("gn", "ln", "in", "gn_ws", "frozen_bn"):
        with pytest.raises(ValueError, match=f"{name} does not depend on the batch: there is nothing to synchronise"):
            check_sync(name)
    with pytest.raises(ValueError, match="unknown norm 'syncbn'"):
        check_sync("syncbn")


def test_running_statistics_of_a_bfloat16_layer_are_computed_in_float32():
    x = (clips() + 50).detach().bfloat16()
    for name in ("bn", "brn", "sub_bn"):
        layer, wide = make_norm(name)(CHANNELS).bfloat16(), nn.BatchNorm3d(CHANNELS)
        layer(x)
        wide(x.float())
        assert layer.running_mean.dtype == torch.bfloat16
        torch.testing.assert_close(layer.running_mean.float(), wide.running_mean, rtol=2**-8, atol=0)
        torch.testing.assert_close(layer.running_var.float(), wide.running_var, rtol=2**-8, atol=0)
