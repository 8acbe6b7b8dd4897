"""Precise BN against a known truth, and running statistics averaged over processes."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from videogn.norms import average_statistics, batch_norm_layers, make_norm, recompute_statistics

CHANNELS = 4


def model(name="bn"):
    torch.manual_seed(0)
    return nn.Sequential(
        make_norm(name)(CHANNELS), nn.Dropout(0.9), nn.Conv3d(CHANNELS, 6, 1), nn.ReLU(), make_norm(name)(6)
    )


def clips(*sizes):
    torch.manual_seed(1)
    return [torch.randn(size, CHANNELS, 2, 3, 3) * (1 + i) + 10 * i for i, size in enumerate(sizes)]


def moments(batches):
    values = torch.cat([batch.double().transpose(0, 1).flatten(1) for batch in batches], dim=1)
    return values.mean(1).float(), values.var(1).float()


@pytest.mark.parametrize("name", ["bn", "sub_bn", "brn"])
def test_statistics_are_those_of_all_the_values(name):
    net = model(name)
    net[4].eval()
    for layer in batch_norm_layers(net):
        layer.num_batches_tracked.fill_(7)
    batches = clips(2, 6, 4)  # of different sizes, means and variances
    modes = [module.training for module in net.modules()]
    others = copy.deepcopy(dict(net.named_parameters()))
    assert recompute_statistics(net, iter(batches)) == 3

    for running, truth in zip((net[0].running_mean, net[0].running_var), moments(batches), strict=True):
        torch.testing.assert_close(running, truth, rtol=1e-5, atol=1e-5)
    # The second layer sees the first one's training output, each batch normalised by itself, and no dropout.
    first = copy.deepcopy(net[0]).train()
    first.running_mean.zero_()
    first.running_var.fill_(1.0)
    first.track_running_stats = False
    hidden = [net[3](net[2](first(batch))).detach() for batch in batches]
    for running, truth in zip((net[4].running_mean, net[4].running_var), moments(hidden), strict=True):
        torch.testing.assert_close(running, truth, rtol=1e-5, atol=1e-5)

    assert [module.training for module in net.modules()] == modes
    assert all(layer.num_batches_tracked == 7 and layer.track_running_stats for layer in batch_norm_layers(net))
    assert all(torch.equal(value, others[key]) for key, value in net.named_parameters())
    assert not net[0]._forward_pre_hooks


def test_evaluation_on_one_batch_equals_training_on_it():
    net = nn.Sequential(nn.Conv3d(CHANNELS, 6, 1), nn.BatchNorm3d(6)).eval()
    (batch,) = clips(8)
    recompute_statistics(net, [{"clip": batch}], forward=lambda item: net(item["clip"]))
    torch.testing.assert_close(net(batch), copy.deepcopy(net).train()(batch), rtol=1e-2, atol=1e-2)
    assert not net.training


def test_compiled_models_and_layers_without_input():
    net = nn.ModuleDict({"used": make_norm("bn")(CHANNELS), "unused": make_norm("bn")(CHANNELS)})
    compiled = torch.compile(net["used"], backend="eager")
    batches = clips(3, 5)
    compiled(batches[0])
    recompute_statistics(net, batches, forward=compiled)
    torch.testing.assert_close(net["used"].running_mean, moments(batches)[0])
    assert torch.equal(net["unused"].running_mean, torch.zeros(CHANNELS))
    recompute_statistics(nn.Sequential(make_norm("gn", num_groups=2)(CHANNELS)), batches)  # nothing to recompute


def test_errors_leave_the_model_as_it_was():
    net = model("sub_bn").eval()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="at least one batch"):
        recompute_statistics(net, [])
    with pytest.raises(ValueError, match="training batch of 3"):
        recompute_statistics(net, clips(2, 3))
    assert not any(module.training for module in net.modules())
    assert all(layer.track_running_stats and not layer._forward_pre_hooks for layer in batch_norm_layers(net))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_average_without_processes_does_nothing():
    net = model()
    before = copy.deepcopy(net.state_dict())
    average_statistics(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def _average(rank, port):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        net = nn.ModuleDict({name: make_norm(name)(CHANNELS) for name in ("bn", "sub_bn", "brn", "frozen_bn")})
        net["brn"].bfloat16()
        for layer in net.values():
            layer.running_mean.fill_(1.0 + 2 * rank)
            layer.running_var.fill_(4.0 + rank)
            layer.num_batches_tracked.fill_(2**24 + 1)  # float32 cannot hold it
        with torch.no_grad():
            net["bn"].weight.fill_(rank)
        average_statistics(net)
        for name, layer in net.items():
            mean, var = (1.0 + 2 * rank, 4.0 + rank) if name == "frozen_bn" else (2.0, 4.5)
            assert torch.equal(layer.running_mean.float(), torch.full((CHANNELS,), mean)), name
            assert torch.equal(layer.running_var.float(), torch.full((CHANNELS,), var)), name
            assert layer.num_batches_tracked.dtype == torch.int64
            assert layer.num_batches_tracked == 2**24 + 1
        assert torch.equal(net["bn"].weight, torch.full((CHANNELS,), float(rank)))
    finally:
        dist.destroy_process_group()


def test_average_over_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_average, args=(port,), nprocs=2)
