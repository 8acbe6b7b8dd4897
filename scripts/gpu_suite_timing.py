"""Times of the GPU suite: CUDA events where there is a GPU, the clock elsewhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from gpu_suite_run import Row, attempt

_WARM_UP = 3
_PROBES = 3
_REPEATS = (5, 25)  # 25 calls of at most 40 kernels stay below the 1024 launches that the driver queues
_CYCLES_PER_SECOND = 2.0e9  # of a GPU at full clock: how long the waiting kernel waits is not critical
_LONGEST_WAIT = 0.1  # seconds

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: ``ms`` on the device, ``host_ms`` for the host to issue its kernels."""

    ms: float
    host_ms: float


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(function: Callable[[], object], device: torch.device, target_ms: float) -> Timing:
    """Median device time of a call, over repetitions of together about ``target_ms``.

    On CUDA a kernel that only waits goes ahead of the repetitions, until the host has queued them: what is measured is
    the kernels and not the host, whose own time per call is given beside it. A small call costs the larger of the two
    in eager mode. Inputs that fit into the L2 cache may lie there, as the repetitions share them.
    """
    on_cuda = device.type == "cuda"
    for _ in range(_WARM_UP if on_cuda else 1):
        function()
    synchronize(device)
    probes = _PROBES if on_cuda else 1
    begin = time.perf_counter()
    for _ in range(probes):
        function()
    issued = (time.perf_counter() - begin) / probes
    synchronize(device)
    whole = (time.perf_counter() - begin) / probes
    low, high = _REPEATS if on_cuda else (1, _REPEATS[1])
    repeats = max(low, min(high, round(target_ms / 1e3 / max(whole, 1e-9))))
    if not on_cuda:
        return Timing(statistics.median(_clocked(function) for _ in range(repeats)), issued * 1e3)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    torch.cuda._sleep(int(min(1.3 * issued * repeats, _LONGEST_WAIT) * _CYCLES_PER_SECOND))
    for start, end in events:
        start.record()
        function()
        end.record()
    synchronize(device)
    return Timing(statistics.median(start.elapsed_time(end) for start, end in events), issued * 1e3)


def _clocked(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1e3


def interleave(
    calls: dict[Name, Callable[[], object]], device: torch.device, rounds: tuple[int, int], seconds: float
) -> dict[Name, Row]:
    """Wall times of warmed-up calls in turns, so that a clock that changes meets all of them alike.

    A block is three calls without a pause between them (one, where a call takes more than 100 ms), from one
    synchronisation to the next.

    Args:
        calls: what is timed.
        device: where.
        rounds: at least, at most.
        seconds: no further round starts after this time.

    Returns:
        ``ms`` (median over rounds), ``ms_min``, ``ms_max`` and ``rounds`` per call, or what went wrong with it.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    problems: dict[Name, Row] = {}
    begin = time.monotonic()
    for i in range(rounds[1]):
        if i >= rounds[0] and time.monotonic() - begin > seconds:
            break
        for name, call in calls.items():
            if name in problems:
                continue
            per_block = 1 if not times[name] or times[name][-1] > 100 else 3
            row = attempt(partial(_block_row, call, per_block, device))
            if row["status"] == "ok":
                times[name].append(row["ms"])
            else:
                problems[name] = row
    return problems | {
        name: {"ms": statistics.median(ms), "ms_min": min(ms), "ms_max": max(ms), "rounds": len(ms)}
        for name, ms in times.items()
        if name not in problems
    }


def _block_row(call: Callable[[], object], count: int, device: torch.device) -> Row:
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(count):
        call()
    synchronize(device)
    return {"ms": (time.perf_counter() - begin) * 1e3 / count}
