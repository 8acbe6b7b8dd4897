"""Norm layers by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from .batch import BatchNorm
from .common import check_arguments, nearest
from .frozen import FrozenBatchNorm
from .group import GroupNorm, InstanceNorm, LayerNorm
from .renorm import BatchRenorm
from .subbatch import SubBatchNorm

_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "bn": BatchNorm,
    "gn": GroupNorm,
    "ln": LayerNorm,
    "in": InstanceNorm,
    "brn": BatchRenorm,
    "frozen_bn": FrozenBatchNorm,
    "sub_bn": SubBatchNorm,
    "gn_ws": GroupNorm,
}

NORMS: tuple[str, ...] = tuple(_LAYERS)
"""The names that :func:`make_norm` knows."""

BATCH_NORMS: tuple[str, ...] = ("bn", "brn", "sub_bn")
"""The norms whose training output depends on the other samples of the batch, and whose running statistics move."""


def make_norm(name: str, **kwargs: Any) -> Callable[[int], nn.Module]:
    """A function from a number of channels to a norm layer: ``make_norm("gn", num_groups=16)(64)``.

    The layers take channels-first inputs with one, two or three spatial dimensions; their classes (GroupNorm,
    BatchRenorm, ...) document the arguments. ``gn_ws`` gives the group norm alone: the convolution before it is the
    caller's, see WSConv3d. The function can be pickled.

    Args:
        name: one of :data:`NORMS`.
        **kwargs: arguments of the layer except its number of channels.

    Raises:
        ValueError: at once, for an unknown name, an argument that does not belong to the norm, or a value out of range;
            from the returned function, for channels that the norm cannot divide.
    """
    layer = _LAYERS[_check_name(name)]
    allowed = list(inspect.signature(layer).parameters)[1:]
    for key in kwargs:
        if key not in allowed:
            raise ValueError(
                f"{name} has no argument {key!r}; allowed: {', '.join(allowed)}; nearest: {nearest(key, allowed)!r}"
            )
    check_arguments(name, kwargs)
    return functools.partial(layer, **kwargs)


def check_sync(name: str) -> None:
    """Returns if layers of this norm can become SyncBatchNorm, which only ``bn`` can.

    Raises:
        ValueError: an unknown name, or a norm that cannot be synchronised over devices, with the reason.
    """
    if _check_name(name) == "bn":
        return
    if name in BATCH_NORMS:
        raise ValueError(
            f"{name} cannot be synchronised: SyncBatchNorm would replace it by plain batch norm and lose its own "
            "statistics; use norm bn for statistics over all devices, or turn synchronisation off"
        )
    raise ValueError(
        f"{name} does not depend on the batch: there is nothing to synchronise over devices; turn synchronisation off"
    )


def _check_name(name: str) -> str:
    if name not in NORMS:
        raise ValueError(f"unknown norm {name!r}; known: {', '.join(NORMS)}; nearest: {nearest(name, NORMS)!r}")
    return name
