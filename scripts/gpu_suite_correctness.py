"""Norm layers on the device against the same layers in float64 on the CPU.

Inputs and gradients are multiples of 2^-24 with 8 significant bits, so that float32, bfloat16 and float16 hold the same
values, and what differs is what the layer computes. The error of a tensor is the larger of

    ||got - want||_2 / ||want||_2   and   max |got - want| / max |want|

(the first averages, the second sees a single wrong element). With e = eps(float32) · (1 + |mean| / std of the input),
which is what subtracting a mean costs in float32, the limits are

    outputs, input gradients               eps(dtype) + 32 e    one rounding to the dtype is eps/2; tens of operations
    parameter gradients, running pairs     256 e                sums: a chain of n additions of random signs errs by
                                                                about eps · sqrt(n / 2), n up to 10^5 in one thread

and also half precision may not lose more than that: statistics and sums are in float32 whatever the input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_suite_plan import Plan
from gpu_suite_run import Budget, Group, Row, Skipped, attempt
from torch import Tensor, nn

from videogn.norms import NORMS, GroupNorm, make_norm
from videogn.norms.group_native import GroupNormNative

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
LARGE_MEAN = 1e3
_ROUNDED, _SUMS = 32, 256
# Past the ramp: with the default arguments the first 5000 steps are batch norm.
_ARGUMENTS: dict[str, dict[str, Any]] = {"brn": {"warmup_steps": 0, "r_ramp_steps": 0, "d_ramp_steps": 0}}


class NativeGroupNorm(GroupNorm):
    """Group norm out of torch's batch norm kernels on every device: what the CPU takes, a candidate for CUDA."""

    def forward(self, input: Tensor) -> Tensor:
        return GroupNormNative.apply(input, self.num_groups, self.weight, self.bias, self.eps)


def norm_groups(plan: Plan) -> list[Group]:
    """One group per norm and shape, whose rows share one reference; small shapes first."""
    *small, large = plan.norm_shapes
    if not small:
        small, large = [large], ()
    names = (*NORMS, "gn_native")
    groups = [_group(plan, name, shape, 0.0, DTYPES) for shape in small for name in names]
    groups += [_group(plan, name, small[0], LARGE_MEAN, (torch.float32,)) for name in names]
    groups.append(_compiled_group(plan, small[0]))
    return groups + [_group(plan, name, large, 0.0, DTYPES) for name in names if large]


def _group(plan: Plan, name: str, shape: tuple[int, ...], mean: float, dtypes: tuple[torch.dtype, ...]) -> Group:
    cases = [(dtype, form) for dtype in dtypes for form in FORMATS]
    keys = [_key(name, shape, mean, dtype, form, compiled=False) for dtype, form in cases]

    def run(_: Budget) -> list[Row]:
        case = _Case(plan.device, name, shape, mean)
        return [attempt(partial(case.check, dtype, form)) for dtype, form in cases]

    return Group(keys, run)


def _compiled_group(plan: Plan, shape: tuple[int, ...]) -> Group:
    """What torch.compile makes of the group norm, which is other code than eager mode's."""
    dtypes, form = (torch.float32, torch.bfloat16), "channels_last_3d"

    def run(budget: Budget) -> list[Row]:
        reason = plan.no_compiler()
        if reason:
            raise Skipped(reason)
        case = _Case(plan.device, "gn", shape, 0.0)
        with budget.stop_at_the_end():
            return [attempt(partial(case.check, dtype, form, compiled=True)) for dtype in dtypes]

    return Group([_key("gn", shape, 0.0, dtype, form, compiled=True) for dtype in dtypes], run)


def _key(name: str, shape: tuple[int, ...], mean: float, dtype: torch.dtype, form: str, compiled: bool) -> Row:
    words = {"norm": name, "dtype": str(dtype).removeprefix("torch."), "shape": "x".join(map(str, shape))}
    return {**words, "format": form, "mean": mean, "compiled": compiled}


class _Case:
    """A norm, an input and an output gradient, with what float64 gives for them."""

    def __init__(self, device: torch.device, name: str, shape: tuple[int, ...], mean: float) -> None:
        generator = torch.Generator().manual_seed(sum(map(ord, name)) + sum(shape))
        channels = shape[1]
        self.device, self.mean = device, mean
        make = NativeGroupNorm if name == "gn_native" else make_norm(name, **_ARGUMENTS.get(name, {}))
        self.layer = make(channels).train()
        with torch.no_grad():
            for key, tensor in self.layer.state_dict().items():
                if tensor.is_floating_point():
                    noise = torch.randn(tensor.shape, generator=generator)
                    start = {"running_mean": mean, "bias": 0.0}.get(key, 1.0)
                    tensor.copy_(start + 0.1 * noise.clamp(-3, 3))
        # With a mean, rounding to 8 bits would leave nothing of a deviation of 1; only float32 is checked there.
        self.x = mean + torch.randn(shape, generator=generator) if mean else _exact(shape, generator)
        self.grad = _exact(shape, generator)
        want = results(copy.deepcopy(self.layer).double(), self.x.double(), self.grad.double())
        self.want = {key: tensor.to(device) for key, tensor in want.items()}

    def check(self, dtype: torch.dtype, form: str, compiled: bool = False) -> Row:
        """Errors and limits of the layer on the device; ``status`` "failed" if one is over its limit."""
        layer = copy.deepcopy(self.layer).to(self.device)
        layout = {"memory_format": FORMATS[form]}
        x, grad = (t.to(self.device, dtype).contiguous(**layout) for t in (self.x, self.grad))
        call: Callable[[Tensor], Tensor] = layer
        if compiled:
            torch.compiler.reset()
            call = torch.compile(layer, dynamic=False)
        got = results(layer, x, grad, call)
        output = got["output"]
        problems = [] if output.dtype == dtype else [f"output is {output.dtype}"]
        if not output.is_contiguous(**layout):
            problems.append(f"output is not {form}")
        if dtype == torch.bfloat16 and not compiled:
            with torch.autocast(self.device.type, dtype), torch.no_grad():
                under_autocast = layer(x).dtype
            problems += [] if under_autocast == dtype else [f"output under autocast is {under_autocast}"]
        return verdict(
            {key: error(got[key], want) for key, want in self.want.items()},
            {key: limit(key, dtype, self.mean) for key in self.want},
            problems,
        )


def _exact(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal values that float32, bfloat16 and float16 all hold."""
    return torch.randn(shape, generator=generator).bfloat16().half().float()


def results(
    layer: nn.Module, x: Tensor, grad: Tensor, call: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    """Output, gradients and running pair of one training step of a layer, and its output in evaluation after it."""
    x = x.detach().requires_grad_()
    output = (layer if call is None else call)(x)
    parameters = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(output, [x, *parameters.values()], grad)
    got = dict(zip(["grad_input", *(f"grad_{name}" for name in parameters)], gradients, strict=True))
    got |= {name: buffer.clone() for name, buffer in layer.named_buffers() if buffer.is_floating_point()}
    layer.eval()
    with torch.no_grad():
        got["eval_output"] = layer(x)
    layer.train()
    return got | {"output": output.detach()}


def error(got: Tensor, want: Tensor) -> float:
    """See the head of this file."""
    tiny = torch.finfo(torch.float64).tiny
    difference = got.double() - want
    mean = difference.norm() / want.norm().clamp_min(tiny)
    worst = difference.abs().amax() / want.abs().amax().clamp_min(tiny)
    return float(torch.maximum(mean, worst))


def limit(quantity: str, dtype: torch.dtype, mean: float) -> float:
    """See the head of this file; the inputs have a standard deviation of 1."""
    single = torch.finfo(torch.float32).eps * (1 + abs(mean))
    if quantity in ("output", "eval_output", "grad_input"):
        return torch.finfo(dtype).eps + _ROUNDED * single
    return _SUMS * single


def verdict(errors: dict[str, float], limits: dict[str, float], problems: list[str]) -> Row:
    """The result of a check: all errors with their limits, and the one nearest to its limit."""
    over = [f"{key}: error {errors[key]:.3g}, limit {limits[key]:.3g}" for key in errors if _over(errors, limits, key)]
    worst = max((errors[key] / limits[key] for key in errors), key=lambda share: (share != share, share))
    row: Row = {"worst": worst, "errors": errors, "limits": limits}
    if over or problems:
        row |= {"status": "failed", "message": "; ".join([*problems, *over])}
    return row


def _over(errors: dict[str, float], limits: dict[str, float], key: str) -> bool:
    return not errors[key] <= limits[key]  # also for NaN
