"""How long a training step takes on this machine, computed with random clips: for runs of which none is finished."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from videogn.data.cores import available_cores
from videogn.data.progress import ProgressBar
from videogn.optim import make_optimizer
from videogn.study.costs import RunCost

MOST_SECONDS = 60.0
"""For all measurements together."""
MOST_WORK = {"cpu": 2e11, "cuda": 2e12}
"""Multiply-adds of the largest step that is measured."""
_MOST_STEPS, _ENOUGH = 5, 0.5  # steps, or seconds of them: one short step alone says little on a busy machine
_BACKWARD = 3  # times the forward pass: the gradients of inputs and of weights cost one each


def time_clips(costs: Iterable[RunCost], jobs: int, memory: int | None) -> dict[RunCost, tuple[float, int]]:
    """Seconds of training per clip, and the clips of the step that was measured.

    A step of the run's batch, or of one clip where that is too much, after another one that warms up. The cheapest
    come first, and none is begun that would probably not end within :data:`MOST_SECONDS`.

    Args:
        costs: of runs; those that do not compute on this machine, or are too large for it, are left out.
        jobs: runs at a time: on a CPU, a step is measured with a run's share of the cores.
        memory: bytes of this machine; None where that is not known.
    """
    # Batches on the same network are measured apart: small ones take longer per clip.
    wanted = {(cost.network, cost.batch): cost for cost in costs if cost.device is not None}
    sizes = {key: clips for key, cost in wanted.items() if (clips := _clips(cost))}
    order = sorted(sizes, key=lambda key: sizes[key] * wanted[key].multiply_adds)
    found: dict[tuple[str, int], tuple[float, int]] = {}
    end, pace = time.monotonic() + MOST_SECONDS, 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(run_threads(jobs))
    try:
        with ProgressBar("training steps measured", total=len(order)) as bar:
            for done, key in enumerate(order, 1):
                cost, clips = wanted[key], sizes[key]
                work = clips * cost.multiply_adds
                fits = memory is None or cost.device != "cpu" or cost.step_bytes < memory
                if fits and time.monotonic() + 2 * pace * work < end:
                    seconds = time_step(cost, clips, end)
                    if seconds is not None:
                        found[key], pace = (seconds / clips, clips), seconds / work
                bar.update(done)
    finally:
        torch.set_num_threads(threads)
    return {cost: found[key] for cost in costs if (key := (cost.network, cost.batch)) in found}


def run_threads(jobs: int) -> int:
    """CPU threads of each of ``jobs`` runs at a time, as a study starts them."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else max(1, available_cores() // jobs)


def _clips(cost: RunCost) -> int:
    """Clips of the step to measure; 0 where even one is too much."""
    assert cost.device is not None
    most = MOST_WORK[cost.device]
    return next((n for n in (cost.batch, 1) if _BACKWARD * n * cost.multiply_adds <= most), 0)


def time_step(cost: RunCost, clips: int, end: float) -> float | None:
    """Seconds of one training step, the median of a few where they are short; None where torch cannot do it here.

    Args:
        cost: of the run.
        clips: of the step.
        end: of ``time.monotonic``; the step that warms up is what counts where another one would end later.
    """
    module = cost.cli.parser.instantiate_classes(cost.cli.config)["fit"].model
    spec, device = cost.cli.datamodule.clip, torch.device(cost.device or "cpu")
    try:
        network = module.network.to(device)
        optimizer = make_optimizer(network, module.recipe, module.recipe.lr)
        pixels = torch.randn(clips, 3, spec.frames, spec.train_crop, spec.train_crop, device=device)
        pixels = pixels.contiguous(memory_format=torch.channels_last_3d)
        labels = torch.zeros(clips, dtype=torch.long, device=device)
        first = _step(network, optimizer, pixels, labels, cost.setting.dtype)
        seconds: list[float] = []
        while len(seconds) < _MOST_STEPS and sum(seconds) < _ENOUGH and time.monotonic() + first < end:
            seconds.append(_step(network, optimizer, pixels, labels, cost.setting.dtype))
        return statistics.median(seconds or [first])
    except (RuntimeError, ValueError):  # not enough memory, no such precision, one clip that sub_bn cannot split
        return None


def _step(network: nn.Module, optimizer: Any, pixels: torch.Tensor, labels: torch.Tensor, dtype: Any) -> float:
    device = pixels.device
    began = time.perf_counter()
    optimizer.zero_grad()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        logits = network(pixels)
    torch.nn.functional.cross_entropy(logits.float(), labels).backward()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
