"""The whole training step and evaluation of the I3D-R50: wall time and peak memory.

bfloat16 autocast, channels_last_3d, float32 parameters, fused SGD with momentum; clips and labels lie on the device.
The networks of a group are timed in turns. ``cudnn.benchmark`` is on: its search (in the first network of a size) and
a compilation are in ``first_s``, the first step, and in no other number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch._dynamo.utils
import torch.nn.functional as F
from gpu_suite_plan import KEEP, Plan
from gpu_suite_run import OUT_OF_TIME, Budget, Group, Row, Skipped, attempt, free_memory
from gpu_suite_timing import interleave, synchronize
from torch import nn

_TRAIN_COMPILE_SECONDS, _EVAL_COMPILE_SECONDS = 75.0, 30.0  # expected of the first one
_EAGER_SECONDS = 8.0  # for less than this no group starts
_WARM_UP = 2
_KEPT = (("bn", KEEP), ("torch_gn", KEEP))
_OURS = tuple(("gn", memory) for memory in dict.fromkeys(("standard", "low", "lowest", KEEP)))
_COMPILED = (("bn", KEEP), ("gn", KEEP), *((("gn", "standard"),) if KEEP != "standard" else ()))

Prepare = Callable[[], tuple[Callable[[], object], Row]]


def step_groups(plan: Plan) -> list[Group]:
    """Training steps, the most important sizes first; a group is one size in one mode."""
    pairs = (plan.step_batches[:2], plan.step_batches[2:])
    sizes = [(frames, batch) for batches in pairs for frames in plan.step_frames for batch in batches]
    first = sizes[:2]
    # A compilation takes longer than a whole size in eager mode: those of batch 8 at 32 frames come early, the others
    # when everything else is done.
    order = [(size, False) for size in first] + [(first[-1], True)]
    order += [(size, False) for size in sizes[2:]] + [(size, True) for size in sizes if size != first[-1]]
    seconds = [_TRAIN_COMPILE_SECONDS]
    return [_training(plan, *size, compiled, seconds) for size, compiled in order]


def eval_groups(plan: Plan) -> list[Group]:
    """Evaluation, eager mode first."""
    norms = ("bn", "gn", "torch_gn")
    seconds = [_EVAL_COMPILE_SECONDS]
    order = [(batch, compiled) for compiled in (False, True) for batch in plan.eval_batches]
    return [_evaluation(plan, norms, batch, compiled, seconds) for batch, compiled in order]


def _training(plan: Plan, frames: int, batch: int, compiled: bool, seconds: list[float]) -> Group:
    variants = _COMPILED if compiled else (*_KEPT, *_OURS)
    where = {"frames": frames, "batch": batch, "compiled": compiled}

    def run(budget: Budget) -> list[Row]:
        clips, labels = _clips(plan, batch, (frames, plan.step_size, plan.step_size))

        def prepare(norm: str, memory: str) -> tuple[Callable[[], object], Row]:
            before = _allocated(plan)
            network = _network(plan, norm, memory, compiled).train()
            optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)

            def step() -> torch.Tensor:
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(plan.device.type, torch.bfloat16):
                    loss = F.cross_entropy(network(clips), labels)
                loss.backward()
                optimizer.step()
                return loss.detach()

            row = _warm_up(plan, step)
            row["loss"] = float(step())
            row["peak_mib"] = _peak(plan, step, before, clips.nbytes)
            return step, row

        return _measure(plan, budget, [partial(prepare, *variant) for variant in variants], batch, compiled, seconds)

    keys = [{"norm": norm, "memory": memory, **where} for norm, memory in variants]
    return Group(keys, run, _least_seconds(plan))


def _evaluation(plan: Plan, norms: tuple[str, ...], batch: int, compiled: bool, seconds: list[float]) -> Group:
    def run(budget: Budget) -> list[Row]:
        clips, _ = _clips(plan, batch, plan.eval_clip)

        def prepare(norm: str) -> tuple[Callable[[], object], Row]:
            before = _allocated(plan)
            network = _network(plan, norm, KEEP, compiled).eval()

            def forward() -> torch.Tensor:
                with torch.no_grad(), torch.autocast(plan.device.type, torch.bfloat16):
                    return network(clips)

            row = _warm_up(plan, forward)
            row["peak_mib"] = _peak(plan, forward, before, clips.nbytes)
            return forward, row

        return _measure(plan, budget, [partial(prepare, norm) for norm in norms], batch, compiled, seconds)

    keys = [{"norm": norm, "clip": "x".join(map(str, plan.eval_clip)), "batch": batch} for norm in norms]
    return Group([{**key, "compiled": compiled} for key in keys], run, _least_seconds(plan))


def _measure(
    plan: Plan, budget: Budget, prepares: list[Prepare], batch: int, compiled: bool, seconds: list[float]
) -> list[Row]:
    """Prepares what there is time for and times it in turns; ``seconds`` holds what one compilation takes so far."""
    reason = plan.no_compiler() if compiled else None
    if reason:
        raise Skipped(reason)
    rows: list[Row] = []
    calls: dict[int, Callable[[], object]] = {}
    try:
        for i, prepare in enumerate(prepares):
            if compiled and not budget.allows(seconds[0]):
                rows.append({"status": OUT_OF_TIME, "message": f"compilation takes about {seconds[0]:.0f} s"})
                continue

            def prepared(i: int = i, prepare: Prepare = prepare) -> Row:
                with budget.stop_at_the_end():
                    calls[i], row = prepare()
                return row

            begin, breaks = time.monotonic(), _graph_breaks()
            rows.append(attempt(prepared))
            if compiled and i in calls:
                seconds[0] = time.monotonic() - begin
                rows[i]["graph_breaks"] = _graph_breaks() - breaks
        for i, times in interleave(calls, plan.device, plan.rounds, plan.round_seconds).items():
            rows[i] |= times | ({"clips_per_s": batch * 1e3 / times["ms"]} if "ms" in times else {})
    finally:
        calls.clear()
        free_memory()
        if compiled:
            torch.compiler.reset()
    return rows


def _least_seconds(plan: Plan) -> float:
    return _EAGER_SECONDS if plan.device.type == "cuda" else 0.0


def _network(plan: Plan, norm: str, memory: str, compiled: bool) -> nn.Module:
    torch.manual_seed(0)
    network = plan.network(norm, memory).to(plan.device).to(memory_format=torch.channels_last_3d)
    if compiled:
        network.compile(dynamic=False)
    return network


def _clips(plan: Plan, batch: int, size: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.backends.cudnn.benchmark = True
    free_memory()
    clips = torch.randn(batch, 3, *size, device=plan.device).contiguous(memory_format=torch.channels_last_3d)
    return clips, torch.arange(batch, device=plan.device)


def _graph_breaks() -> int:
    return sum(torch._dynamo.utils.counters["graph_break"].values())


def _warm_up(plan: Plan, call: Callable[[], object]) -> Row:
    begin = time.perf_counter()
    call()
    synchronize(plan.device)
    first = time.perf_counter() - begin
    for _ in range(_WARM_UP if plan.device.type == "cuda" else 0):
        call()
    synchronize(plan.device)
    return {"first_s": first}


def _allocated(plan: Plan) -> int:
    return torch.cuda.memory_allocated(plan.device) if plan.device.type == "cuda" else 0


def _peak(plan: Plan, call: Callable[[], object], before: int, inputs: int) -> float | None:
    """MiB that a call needs at most, with the network, the optimiser's state and the clips.

    Args:
        plan: names the device.
        call: warmed up.
        before: bytes allocated before the network was built; the clips are among them.
        inputs: bytes of the clips.
    """
    if plan.device.type != "cuda":
        return None
    synchronize(plan.device)
    torch.cuda.reset_peak_memory_stats(plan.device)
    call()
    synchronize(plan.device)
    return (torch.cuda.max_memory_allocated(plan.device) - before + inputs) / 2**20
