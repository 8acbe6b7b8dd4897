"""Running statistics of the batch norms: recomputed over many batches (precise BN), averaged over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from .batch import running_pair
from .common import channel_moments
from .renorm import BatchRenorm
from .subbatch import SubBatchNorm


def batch_norm_layers(model: nn.Module) -> list[_NormBase]:
    """The layers whose running statistics move in training: bn, brn, sub_bn, and torch's batch and sync batch norm."""
    kinds = (_BatchNorm, BatchRenorm, SubBatchNorm)
    return [m for m in model.modules() if isinstance(m, kinds) and m.running_mean is not None]


@torch.no_grad()
def recompute_statistics(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None) -> int:
    """Precise BN: replaces the running statistics by the statistics over ``batches`` at the present weights.

    Every batch norm normalises as in training while everything else is as in evaluation (no dropout) and nothing else
    changes, batch counters included. All values a layer saw count alike: the mean is the mean of the batches' means and
    the variance the total one, mean of the variances + variance of the means, weighted by the batches' sizes and with
    Bessel's correction. brn normalises with r and d from its running pair as it was before the call.

    Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3; used over 200 batches by
    "Non-local Neural Networks", arXiv 1711.07971.

    Args:
        model: any module with batch norms. Layers that see no input keep their statistics.
        batches: what ``forward`` takes, of the size of the training batches; take as many as needed, for instance with
            ``itertools.islice``. On several processes each sees its own: see :func:`average_statistics`.
        forward: runs ``model`` on a batch; by default ``model(batch)``.

    Returns:
        The number of batches. Modes are restored in any case; the statistics stay as they were if an error is raised.

    Raises:
        ValueError: no batch at all, or what a layer raises on a batch in training.
    """
    run = model if forward is None else forward
    layers = batch_norm_layers(model)
    totals: dict[_NormBase, _Moments] = {layer: _Moments() for layer in layers}
    training = {module: module.training for module in model.modules()}
    tracking = {layer: layer.track_running_stats for layer in layers}
    hooks = [layer.register_forward_pre_hook(totals[layer].add_input, with_kwargs=True) for layer in layers]
    count = 0
    try:
        for module in training:
            module.training = False
        for layer in layers:
            layer.training, layer.track_running_stats = True, False
        with torch.compiler.set_stance("force_eager"):  # a compiled model would not see the hooks
            for count, batch in enumerate(batches, start=1):  # noqa: B007
                run(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.track_running_stats = tracking[layer]
        for module, mode in training.items():
            module.training = mode
    if count == 0:
        raise ValueError("recompute_statistics needs at least one batch, got none")
    for layer, total in totals.items():
        if total.count > 0:
            running_mean, running_var = running_pair(layer)
            running_mean.copy_(total.mean)
            running_var.copy_(total.squares / (total.count - 1))
    return count


class _Moments:
    """Mean and sum of squared deviations per channel, batch by batch (Chan et al. 1979): no large sums to subtract."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros(())

    def add_input(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        mean, var = channel_moments(x)
        count = x.numel() // x.shape[1]
        total = self.count + count
        before = self.mean.to(mean)
        shift = mean - before
        self.mean = before + shift * (count / total)
        self.squares = self.squares.to(mean) + var * count + shift.square() * (self.count * count / total)
        self.count = total


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Replaces the running statistics of every batch norm by their mean over the processes, in place.

    DistributedDataParallel copies those of rank 0 instead. The batch counters are averaged and rounded. All processes
    must call it with the same model; without an initialised torch.distributed, or with one process, nothing happens.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    buffers = [buffer for layer in batch_norm_layers(model) for buffer in layer.buffers(recurse=False)]
    if not buffers:
        return
    # One exchange for all of them; float64 holds float32 statistics and the integer counters exactly.
    flat = torch.cat([buffer.flatten().to(buffers[0].device, torch.float64) for buffer in buffers])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_((mean if buffer.is_floating_point() else mean.round()).view_as(buffer))
