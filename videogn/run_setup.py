"""What is checked and done once, when a run is set up, before its first batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from videogn.errors import UsageError
from videogn.norms import SubBatchNorm, check_sync


def check_sync_batchnorm(norm: str, strategy: Any) -> None:
    """Refuses ``trainer.sync_batchnorm`` for norms that it would break and devices that it does not work on."""
    if getattr(strategy, "_layer_sync", None) is None:
        return
    try:
        check_sync(norm)
    except ValueError as error:
        raise UsageError(f"trainer.sync_batchnorm: {error}") from error
    if strategy.root_device.type != "cuda":
        raise UsageError("trainer.sync_batchnorm: torch synchronises batch norms between CUDA devices only")


def check_splits(network: nn.Module, batch_size: int) -> None:
    """Refuses a batch that cannot be split evenly by sub_bn before the run starts, not at its first step."""
    for layer in network.modules():
        if isinstance(layer, SubBatchNorm):
            try:
                layer.samples_per_split(batch_size)
            except ValueError as error:
                raise UsageError(f"data.batch_size: {error}") from error


def compile_for_training(network: nn.Module, device: torch.device, backend: Any = "inductor") -> None:
    """Compiles ``network`` in place, at its first training step, for the one shape that training batches have.

    By ``Module.compile``: ``torch.compile(network)`` would put ``_orig_mod.`` before every key of the state dict.

    Args:
        network: what to compile.
        device: where it will train.
        backend: of torch.compile.

    Raises:
        UsageError: a device other than CUDA. On CPUs compiled training is slower than eager: the backward pass of ReLU.
    """
    if device.type != "cuda":
        raise UsageError(
            f"model.compile: expected a CUDA device, found {device.type!r}, on which compiled training is slower; "
            "leave the option out"
        )
    network.compile(backend=backend, dynamic=False)
