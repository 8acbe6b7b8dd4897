"""What every norm layer shares: argument checks, input checks, the dtype and the moments of statistics."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any, low: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low


_COUNT = (lambda value: _is_count(value, 1), "an integer of at least 1")
_OPTIONAL_COUNT = (lambda value: value is None or _is_count(value, 1), "an integer of at least 1, or None")
_STEPS = (lambda value: _is_count(value, 0), "an integer of at least 0")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_channels": _COUNT,
    "num_features": _COUNT,
    "eps": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "momentum": (
        lambda value: value is None or (_is_number(value) and 0 <= value <= 1),
        "a number from 0 to 1, or None for the cumulative average",
    ),
    "num_groups": _OPTIONAL_COUNT,
    "channels_per_group": _OPTIONAL_COUNT,
    "num_splits": _OPTIONAL_COUNT,
    "split_size": _OPTIONAL_COUNT,
    "r_max": (lambda value: _is_number(value) and value >= 1, "a number of at least 1"),
    "d_max": (lambda value: _is_number(value) and value >= 0, "a number of at least 0"),
    "warmup_steps": _STEPS,
    "r_ramp_steps": _STEPS,
    "d_ramp_steps": _STEPS,
}
_EITHER = (("num_groups", "channels_per_group"), ("num_splits", "split_size"))


def check_arguments(norm: str, arguments: Mapping[str, Any]) -> None:
    """Raises ValueError, with the value in it, for an argument of a wrong type or outside its range."""
    for key, value in arguments.items():
        valid, expected = _RULES[key]
        if not valid(value):
            raise ValueError(f"{norm}: {key} must be {expected}, got {value!r}")
    for one, other in _EITHER:
        if arguments.get(one) is not None and arguments.get(other) is not None:
            raise ValueError(
                f"{norm}: give {one} or {other}, not both; got {arguments[one]!r} and {arguments[other]!r}"
            )


def nearest(name: object, allowed: Iterable[str]) -> str:
    """The one of ``allowed`` (at least one) that is spelled most like ``name``."""
    return difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.0)[0]


def check_input(x: Tensor, channels: int, layer: str) -> None:
    """Raises ValueError unless ``x`` is a non-empty (N, C, spatial...) tensor with ``channels`` channels.

    Emptiness is not looked at while compiling or exporting: it would fix the sizes that are to stay dynamic.
    """
    if not 3 <= x.dim() <= 5:
        raise ValueError(
            f"{layer} expects (N, C) and 1 to 3 spatial dimensions, got an input of shape {tuple(x.shape)}"
        )
    if x.shape[1] != channels:
        raise ValueError(f"{layer} has {channels} channels, got an input of shape {tuple(x.shape)}")
    if not torch.compiler.is_compiling() and x.numel() == 0:
        raise ValueError(f"{layer} got an empty input of shape {tuple(x.shape)}: there is nothing to normalise")


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 when it is float16 or bfloat16, and ``x`` itself otherwise."""
    return x.float() if x.dtype in _LOW_PRECISION else x


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of (N, C, ...), in float32 or better: two tensors of shape (C,).

    The variance is taken around the mean in a second pass: E[x²] - E[x]² loses all digits when the mean is large.
    torch.var_mean would do, but its CPU kernel takes about ten times as long.
    """
    dims = [0, *range(2, x.dim())]
    x = at_least_float32(x)
    mean = x.mean(dims, keepdim=True)
    return mean.flatten(), (x - mean).square().mean(dims)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Channels-last where ``x`` (N, C, spatial...) is, else contiguous."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return last if last is not None and x.is_contiguous(memory_format=last) else torch.contiguous_format
