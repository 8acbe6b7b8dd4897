"""The memory counter, against known figures, torch's saved-tensor hooks, torch's autograd engine and formulas."""

import math
from functools import partial
from typing import get_args

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from videogn import NORMS
from videogn.blocks import Memory
from videogn.i3d import i3d_resnet
from videogn.memory import (
    ActivationMemory,
    TrainingMemory,
    count_activations,
    count_batch,
    count_longest_clip,
    count_training,
    format_bytes,
    parse_memory,
)
from videogn.memory.backward import backward
from videogn.memory.live import fake_copy, watched
from videogn.optim import Recipe, make_optimizer

MIB = 2**20
OPTIONS = get_args(Memory)


def network(norm="gn", norm_kwargs=None, **kwargs):
    """Stem, a residual block with and one without a convolution in its shortcut, pool: an I3D's parts, quickly run."""
    if norm in ("gn", "gn_ws"):
        norm_kwargs = {"num_groups": 4}
    net = i3d_resnet(5, variant="8x8", width=8, norm=norm, norm_kwargs=norm_kwargs, dropout=0.0, **kwargs)
    return nn.Sequential(net.blocks[0], *net.blocks[1].res_blocks[:2], net.blocks[2])


def saved_by_hooks(net, clips, frames, size, device, dtype):
    """Bytes that saved-tensor hooks see, per storage, without parameters, buffers and the input."""
    saved = {}
    with watched(device):
        fake = fake_copy(net, device)
        x = torch.empty(clips, 3, frames, size, size, device=device)
        x = x.to(memory_format=torch.channels_last_3d)
        own = [*fake.parameters(), *fake.buffers(), x]
        known = {t.untyped_storage()._cdata for t in own}

        def pack(t):
            storage = t.untyped_storage()
            if storage._cdata not in known:
                saved[storage._cdata] = (storage.nbytes(), t)
            return t

        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
            torch.autocast(device, dtype=dtype, enabled=dtype is not None),
        ):
            fake(x)
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize(
    ("norm", "mib"), [("bn", 1172.9), ("gn", 1172.7), (partial(nn.GroupNorm, 32), 2481.2)], ids=["bn", "gn", "plain"]
)
def test_known_figures_of_the_full_network(norm, mib):
    with torch.device("meta"):
        net = i3d_resnet(norm=norm, variant="8x8", memory="keep")
    for module in net.modules():
        if isinstance(module, nn.MaxPool3d):
            module.__class__ = nn.MaxPool3d  # with its indices, 147 MiB of them
    saved = count_activations(net, 32, 224)
    assert saved.at(1) / MIB == pytest.approx(mib, abs=0.05)


@pytest.mark.parametrize(("device", "dtype"), [("cuda", torch.bfloat16), ("cuda", None), ("cpu", None)])
@pytest.mark.parametrize("norm", sorted(NORMS))
def test_equals_saved_tensor_hooks_without_checkpoints(norm, device, dtype):
    net = network(norm, memory="keep")
    counted = count_activations(net, 4, 64, device=device, dtype=dtype)
    for clips in (2, 4):
        assert counted.at(clips) == saved_by_hooks(net, clips, 4, 64, device, dtype)


def test_meta_counts_as_the_cpu():
    net = network("bn")
    assert count_activations(net, 4, 64, device="meta", dtype=None) == count_activations(
        net, 4, 64, device="cpu", dtype=None
    )


class Checkpointed(nn.Module):
    """Multiplies by a weight, then runs exp twice in a checkpoint."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return checkpoint(lambda y: y.exp().exp(), x * self.weight, use_reentrant=False)


def test_checkpoints_inputs_are_counted():
    numbers = 3 * 2 * 8 * 8
    saved = count_activations(Checkpointed(), 2, 8, device="cpu", dtype=None)
    assert saved == ActivationMemory(fixed=0, per_clip=4 * numbers)  # x * weight; x itself is the input


class Exponential(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return (x * self.weight).exp()


def test_peak_of_a_network_that_can_be_counted_by_hand():
    # Forward: the clip in uint8 and in float32, its product, exp of that. Backward: the clip twice, exp or the product
    # with the gradient, and the gradient. Thirteen bytes per number either way, and a few scalars.
    numbers = 3 * 8 * 32 * 32
    step, saved = count_batch(Exponential(), 2, 8, 32, device="cpu", dtype=None)
    assert saved.per_clip == 4 * numbers
    assert 0 <= step.peak - 2 * 13 * numbers < 64


@pytest.mark.parametrize("memory", OPTIONS)
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_backward_gives_the_gradients_of_torchs_engine(norm, memory):
    torch.manual_seed(0)
    net = network(norm, memory=memory, zero_init_last_norm=False).train()
    x = torch.randn(2, 3, 4, 64, 64)
    net(x).square().sum().backward()
    expected = [p.grad for p in net.parameters()]
    net.zero_grad()
    backward([net(x).square().sum()])
    for parameter, grad in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()))


class Chain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 4, 1), nn.Sigmoid())


def test_backward_frees_what_torchs_engine_frees():
    traces = []
    for run in (lambda loss: backward(loss), lambda loss: loss.pop().backward()):
        with watched("cpu") as live:
            fake = fake_copy(Chain(), "cpu")
            loss = [fake(torch.empty(2, 3, 8, 16, 16)).sum()]
            live.trace.clear()
            run(loss)
            traces.append((max(live.trace), live.total))
    assert traces[0][1] == traces[1][1]
    assert abs(traces[0][0] - traces[1][0]) < 32  # the loss's own scalars


@pytest.mark.parametrize("memory", OPTIONS)
def test_two_batches_give_all_others_exactly(memory):
    net = network(memory=memory)
    optimizer = partial(make_optimizer, recipe=Recipe(), lr=0.1)
    training = count_training(net, 8, 64, optimizer=optimizer)
    for clips in (1, 7):
        step, saved = count_batch(net, clips, 8, 64, optimizer=optimizer)
        assert step.peak == training.peak(clips)
        assert step.saved == training.saved.at(clips)
        assert saved == training.saved


@pytest.mark.parametrize(("optimizer", "states"), [("sgd", 1), ("adamw", 2)])
@pytest.mark.parametrize("fused", [True, False])
def test_states_are_those_of_the_optimiser(optimizer, states, fused):
    net = network("bn")
    net[0].conv.weight.requires_grad_(False)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    make = partial(make_optimizer, recipe=Recipe(optimizer=optimizer), lr=0.1, fused=fused)
    training = count_training(net, 4, 64, optimizer=make)
    assert training.parameters == sum(t.nbytes for t in (*net.parameters(), *net.buffers()))
    assert training.gradients == 4 * trained
    assert (
        0 <= training.optimizer - 4 * states * trained <= 8 * len([*net.parameters()])
    )  # adamw counts steps per parameter


def test_gradients_that_accumulate_stay():
    net = network("bn", memory="keep")
    once, accumulated = (count_batch(net, 1, 4, 64, accumulated=value)[0] for value in (False, True))
    assert once.peak <= accumulated.peak <= once.peak + once.gradients


def test_largest_batch_fits_and_the_next_one_does_not():
    training = count_training(network(), 8, 64)
    for memory in (10 * MIB, 100 * MIB, 2**30):
        clips = training.largest_batch(memory)
        assert clips > 0
        assert training.peak(clips) <= memory < training.peak(clips + 1)
    assert training.largest_batch(MIB) == 0


def test_longest_clip_fits_and_the_next_one_does_not():
    net, memory = network(), 20 * MIB
    frames = count_longest_clip(net, 2, 64, memory)
    assert frames % 8 == 0
    assert count_batch(net, 2, frames, 64)[0].peak <= memory < count_batch(net, 2, frames + 8, 64)[0].peak


def test_batches_are_multiples_of_the_splits():
    net = network("sub_bn", {"num_splits": 3})
    training = count_training(net, 4, 64)
    assert training.multiple == 3
    assert training.largest_batch(training.peak(7)) == 6


def test_several_moments_can_be_the_peak():
    training = TrainingMemory(0, 0, 0, ActivationMemory(0, 0), (ActivationMemory(0, 10), ActivationMemory(50, 1)))
    assert [training.peak(clips) for clips in (1, 5, 6, 10)] == [51, 55, 60, 100]
    assert [training.largest_batch(memory) for memory in (49, 51, 55, 69)] == [0, 1, 5, 6]


def test_nothing_real_is_touched():
    net = network("bn").eval()
    net[0].conv.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    count_batch(net, 2, 4, 64, optimizer=partial(make_optimizer, recipe=Recipe(), lr=0.1))
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name])
    assert not net.training
    assert all(p.grad is None and p.device.type == "cpu" for p in net.parameters())
    assert torch.ones(2).sum().item() == 2.0  # tensors are real again
    assert not torch.is_autocast_enabled("cuda")


def test_converted_and_compiled_networks_are_counted_as_their_originals():
    net = network("bn", memory="keep")  # SyncBatchNorm is never recomputed
    plain = count_activations(net, 4, 64)
    assert count_activations(nn.SyncBatchNorm.convert_sync_batchnorm(net), 4, 64) == plain
    net = network("bn")
    plain = count_activations(net, 4, 64)
    net.compile()
    assert count_activations(net, 4, 64) == plain


def test_frozen_network():
    net = network("bn").requires_grad_(False)
    step, saved = count_batch(net, 2, 4, 64, optimizer=partial(make_optimizer, recipe=Recipe(), lr=0.1))
    assert (step.gradients, step.optimizer, saved.at(9)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        ("24GB", 24),
        ("24GiB", 24),
        ("80G", 80),
        ("141 gb", 141),
        ("24", 24),
        ("0.5g", 0.5),
        ("512MiB", 0.5),
        ("1T", 1024),
    ],
)
def test_memory_is_read_as_cards_are_named(text, gib):
    assert parse_memory(text) == gib * 2**30


@pytest.mark.parametrize("text", ["", "GB", "lots", "24 apples", "-24GB", "0GB", "24GBs", "1e3G", "nan"])
def test_other_words_are_no_memory(text):
    with pytest.raises(ValueError, match="24GB"):
        parse_memory(text)


def test_sizes_in_words():
    assert [format_bytes(size) for size in (0, 1.5 * MIB, 2**30, 9.432 * 2**30)] == [
        "0.0 MiB",
        "1.5 MiB",
        "1.00 GiB",
        "9.43 GiB",
    ]
    assert math.isclose(parse_memory("23034MiB"), 23034 * MIB)
