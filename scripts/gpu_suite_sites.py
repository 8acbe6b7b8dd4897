"""Every distinct norm site of the I3D-R50: time against a copy of the same bytes on the same device.

The least that a norm must move: forward two reads (statistics, then values) and one write, backward two reads of the
input and of the output's gradient and one write. A copy is one read and one write, so that the floors are 3/2 and, for
forward and backward together, 8/2 of the measured time of a copy. A tensor that fits into the L2 cache is not evicted
between repetitions, neither for the copy nor for the norms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from gpu_suite_correctness import FORMATS, NativeGroupNorm
from gpu_suite_plan import Plan
from gpu_suite_run import OUT_OF_TIME, Budget, Group, Row, Skipped, attempt
from gpu_suite_timing import time_call
from torch import Tensor, nn

from videogn.i3d import i3d_resnet
from videogn.norms import make_norm

FORWARD_FLOOR, BOTH_FLOOR = 1.5, 4.0  # copies
EAGER = ("copy", "torch_gn", "torch_bn", "gn", "gn_native")
_COMPILE_SECONDS = 6.0  # expected of the first site
Shape = tuple[int, int, int, int]


class _Probe(nn.Module):
    """Stands where a norm would, and notes what comes."""

    def __init__(self, channels: int, seen: Counter[Shape]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        _, channels, frames, height, width = x.shape
        self.seen[channels, frames, height, width] += 1
        return x


def norm_sites(plan: Plan) -> list[tuple[Shape, int]]:
    """(C, T, H, W) of the norm inputs of one clip and how often it occurs, largest share of the values first."""
    seen: Counter[Shape] = Counter()
    with torch.device("meta"), torch.no_grad():
        network = i3d_resnet(variant="8x8", width=plan.width, norm=lambda channels: _Probe(channels, seen)).eval()
        network(torch.empty(1, 3, plan.site_frames, plan.site_size, plan.site_size))
    return sorted(seen.items(), key=lambda item: -torch.Size(item[0]).numel() * item[1])


def site_groups(plan: Plan) -> list[Group]:
    """Eager mode for all sites, then the compiled layer, which takes seconds each."""
    sites = norm_sites(plan)
    largest = sorted(sites, key=lambda item: -torch.Size(item[0]).numel())[:2]
    cases = [(site, batch, "channels_last_3d") for batch in plan.site_batches for site in sites]
    cases += [(site, batch, "contiguous") for batch in plan.site_batches for site in largest]
    seconds = [_COMPILE_SECONDS if plan.no_compiler() is None else 0.0]
    return [_eager(plan, *case) for case in cases] + [_compiled(plan, seconds, *case) for case in cases]


def _key(plan: Plan, site: tuple[Shape, int], batch: int, form: str, op: str) -> Row:
    shape, count = site
    return {"site": "x".join(map(str, shape)), "groups": plan.groups, "count": count} | {
        "batch": batch,
        "format": form,
        "op": op,
    }


def _tensors(plan: Plan, shape: Shape, batch: int, form: str) -> tuple[Tensor, Tensor]:
    """An input and an output gradient, as they are in training under bfloat16 autocast."""
    size = (batch, *shape)
    x, grad = (torch.randn(size, device=plan.device, dtype=torch.bfloat16) for _ in range(2))
    x, grad = (t.contiguous(memory_format=FORMATS[form]) for t in (x, grad))
    return x.requires_grad_(), grad


def _eager(plan: Plan, site: tuple[Shape, int], batch: int, form: str) -> Group:
    channels = site[0][0]

    def run(_: Budget) -> list[Row]:
        x, grad = _tensors(plan, site[0], batch, form)
        copy = time_call(lambda: x.detach().clone(), plan.device, plan.target_ms)
        rows: list[Row] = [{"status": "ok", "forward_ms": copy.ms, "forward_host_ms": copy.host_ms}]
        for op in EAGER[1:]:
            rows.append(attempt(partial(_measure_op, plan, op, channels, x, grad, copy.ms)))
        return rows

    return Group([_key(plan, site, batch, form, op) for op in EAGER], run)


def _compiled(plan: Plan, seconds: list[float], site: tuple[Shape, int], batch: int, form: str) -> Group:
    """``seconds`` holds what one compilation takes, as far as is known."""

    def run(budget: Budget) -> list[Row]:
        reason = plan.no_compiler()
        if reason:
            raise Skipped(reason)
        if not budget.allows(seconds[0]):
            return [{"status": OUT_OF_TIME}]
        left = budget.left()
        x, grad = _tensors(plan, site[0], batch, form)
        copy = time_call(lambda: x.detach().clone(), plan.device, plan.target_ms)
        torch.compiler.reset()
        layer, parameters = _ours(plan, site[0][0])
        with budget.stop_at_the_end():
            call = torch.compile(layer, dynamic=False)
            row = _measure(plan, call, parameters, x, grad, copy.ms)
        seconds[0] = left - budget.left()
        return [row]

    return Group([_key(plan, site, batch, form, "gn_compiled")], run)


Op = tuple[Callable[[Tensor], Tensor], list[Tensor]]


def _torch_gn(plan: Plan, channels: int) -> Op:
    # In bfloat16 throughout: torch's kernel wants the parameters in the dtype of the input.
    weight, bias = _parameters(plan, channels, torch.bfloat16)
    return lambda x: F.group_norm(x, plan.groups, weight, bias, 1e-5), [weight, bias]


def _torch_bn(plan: Plan, channels: int) -> Op:
    weight, bias = _parameters(plan, channels, torch.float32)
    mean, var = torch.zeros_like(weight.detach()), torch.ones_like(weight.detach())
    return lambda x: F.batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-5), [weight, bias]


def _ours(plan: Plan, channels: int) -> Op:
    layer = make_norm("gn", num_groups=plan.groups)(channels).to(plan.device).train()
    return layer, list(layer.parameters())


def _native(plan: Plan, channels: int) -> Op:
    layer = NativeGroupNorm(channels, plan.groups).to(plan.device).train()
    return layer, list(layer.parameters())


_OPS: dict[str, Callable[[Plan, int], Op]] = {
    "torch_gn": _torch_gn,
    "torch_bn": _torch_bn,
    "gn": _ours,
    "gn_native": _native,
}


def _parameters(plan: Plan, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    pair = torch.tensor([1.0, 0.0], device=plan.device, dtype=dtype).view(2, 1).repeat(1, channels)
    return pair[0].clone().requires_grad_(), pair[1].clone().requires_grad_()


def _measure_op(plan: Plan, op: str, channels: int, x: Tensor, grad: Tensor, copy_ms: float) -> Row:
    return _measure(plan, *_OPS[op](plan, channels), x, grad, copy_ms)


def _measure(
    plan: Plan, call: Callable[[Tensor], Tensor], parameters: list[Tensor], x: Tensor, grad: Tensor, copy_ms: float
) -> Row:
    """Forward in training, which saves what the backward pass needs, and forward with backward."""

    def both() -> None:
        torch.autograd.grad(call(x), [x, *parameters], grad)

    # First, so that a compiler sees the training graph and its forward is the one that saves for backward.
    together = time_call(both, plan.device, plan.target_ms)
    forward = time_call(lambda: call(x), plan.device, plan.target_ms)
    output = call(x)
    return {
        "forward_ms": forward.ms,
        "both_ms": together.ms,
        "forward_host_ms": forward.host_ms,
        "both_host_ms": together.host_ms,
        "forward_over_floor": forward.ms / (FORWARD_FLOOR * copy_ms),
        "both_over_floor": together.ms / (BOTH_FLOOR * copy_ms),
        "keeps_format": output.stride() == x.stride(),
    }
