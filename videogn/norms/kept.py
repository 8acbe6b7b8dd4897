"""Statistics that are computed once, though the forward pass that needs them is run again for the backward pass.

A layer whose forward pass asks :func:`kept` for its statistics is recomputed with those of the first pass: its output
is the same to the bit whatever has become of the running statistics since, and those have moved once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType

import torch
from torch import Tensor

Statistics = tuple[Tensor, ...]
Ask = Callable[[Callable[[], Statistics]], Statistics]

_active = threading.local()  # the backward pass of a CUDA device has a thread of its own


def kept(compute: Callable[[], Statistics]) -> Statistics | None:
    """The statistics of a layer in a pass that :class:`KeptStatistics` watches; None in any other.

    Args:
        compute: gives the statistics of the first pass, and may move running ones. Called without autograd, and not at
            all when the pass is run again.
    """
    if torch.compiler.is_compiling():
        return None
    statistics: Ask | None = getattr(_active, "statistics", None)
    return None if statistics is None else statistics(compute)


class KeptStatistics:
    """What the layers of one forward pass have computed, in their order.

    Attributes:
        first: context of the first pass.
        again: context of every further pass, which must call the same layers in the same order, or some first of them.
    """

    def __init__(self) -> None:
        statistics: list[Statistics] = []  # in no reference cycle: they are freed with the graph that needs them
        self.first = _Pass(statistics, again=False)
        self.again = _Pass(statistics, again=True)


class _Pass:
    """Can be entered again, one time after the other: a graph that is retained is recomputed for each backward pass."""

    def __init__(self, statistics: list[Statistics], again: bool) -> None:
        self._statistics, self._again = statistics, again

    def __enter__(self) -> None:
        self._outer = getattr(_active, "statistics", None)
        _active.statistics = _replay(iter(self._statistics)) if self._again else _record(self._statistics)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _active.statistics = self._outer
        self._outer = None


def _record(kept: list[Statistics]) -> Ask:
    @torch.no_grad()
    def compute_and_keep(compute: Callable[[], Statistics]) -> Statistics:
        kept.append(compute())
        return kept[-1]

    return compute_and_keep


def _replay(kept: Iterator[Statistics]) -> Ask:
    return lambda compute: next(kept)
