"""Memory options of the network: loss, gradients and running statistics against those of float64 on the CPU.

In float64 the options may differ by rounding alone: the limit is 2^22 · eps(float64), about 1e-9, which a 50-layer
backward pass stays far below and any wrong term exceeds. Under bfloat16 autocast a gradient errs by some percent
whatever computes it, so there an option may err by twice what the plain network errs by, plus one rounding.
"""

from __future__ import annotations

import contextlib
from functools import partial

import torch
import torch.nn.functional as F
from gpu_suite_correctness import error, verdict
from gpu_suite_plan import KEEP, MEMORY_OPTIONS, Plan
from gpu_suite_run import Budget, Group, Row, attempt
from torch import Tensor, nn

_LIMIT = 2.0**22 * torch.finfo(torch.float64).eps
_ROUNDING = torch.finfo(torch.bfloat16).eps
_OPTIONS = (KEEP, *(option for option in MEMORY_OPTIONS if option != KEEP))


def network_groups(plan: Plan) -> list[Group]:
    """A group per norm: all memory options in float64 and in bfloat16."""
    return [_group(plan, norm) for norm in ("gn", "bn")]


def _group(plan: Plan, norm: str) -> Group:
    cases = [(memory, dtype) for dtype in (torch.float64, torch.bfloat16) for memory in _OPTIONS]
    keys = [{"norm": norm, "memory": memory, "dtype": str(dtype).removeprefix("torch.")} for memory, dtype in cases]

    def run(_: Budget) -> list[Row]:
        generator = torch.Generator().manual_seed(0)
        clips = torch.randn(plan.check_clips, generator=generator)
        torch.manual_seed(0)
        start = _network(plan, norm, KEEP).state_dict()
        truth = _step(_network(plan, norm, KEEP, start).double(), clips.double(), None)
        want = {key: tensor.to(plan.device) for key, tensor in truth.items()}
        plain: dict[str, float] = {}

        def check(memory: str, dtype: torch.dtype) -> Row:
            low = dtype == torch.bfloat16
            parameters = torch.float32 if low else dtype
            network = _network(plan, norm, memory, start).to(plan.device, parameters)
            network = network.to(memory_format=torch.channels_last_3d)
            x = clips.to(plan.device, parameters).contiguous(memory_format=torch.channels_last_3d)
            got = _step(network, x, dtype if low else None)
            errors = {key: error(got[key], want[key]) for key in want}
            if low and memory == KEEP:
                plain.update(errors)
            limits = {key: 2 * plain.get(key, 0.0) + _ROUNDING if low else _LIMIT for key in want}
            return verdict(errors, limits, [])

        return [attempt(partial(check, memory, dtype)) for memory, dtype in cases]

    return Group(keys, run)


def _network(plan: Plan, norm: str, memory: str, start: dict[str, Tensor] | None = None) -> nn.Module:
    network = plan.network(norm, memory, dropout=0.0, check=True)
    if start is not None:
        network.load_state_dict(start)
        return network.train()
    for module in network.modules():
        # Last gammas that start at zero would hide the gradients of the branches that they end.
        if isinstance(module, nn.GroupNorm | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return network.train()


def _step(network: nn.Module, clips: Tensor, autocast: torch.dtype | None) -> dict[str, Tensor]:
    """Loss, all gradients in one vector, and all running statistics in another, of one step on ``clips``."""
    labels = torch.arange(len(clips), device=clips.device)
    context = torch.autocast(clips.device.type, autocast) if autocast else contextlib.nullcontext()
    with context:
        loss = F.cross_entropy(network(clips), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    out = {"loss": loss.detach(), "gradients": torch.cat([gradient.flatten() for gradient in gradients])}
    buffers = [buffer.flatten().double() for buffer in network.buffers()]
    return out | ({"running statistics": torch.cat(buffers)} if buffers else {})
