"""How far apart two small samples lie, by exact rank tests. Imports no torch.

Distributions under the null hypothesis are counted in whole numbers, over all arrangements: nothing is drawn or
approximated, however many values there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videogn.report.statistics import CONFIDENCE

Values = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """By how much one sample lies above another, or above zero.

    Attributes:
        estimate: of Hodges and Lehmann (Annals of Mathematical Statistics 34, 1963).
        low: lower end of its confidence interval, which includes both ends; None where no interval reaches 95 %.
        high: upper end, likewise.
        level: confidence of the interval: the lowest of at least 0.95 that so few values allow; None without one.
        p_value: two-sided, of no shift.
        lowest_p: what ``p_value`` can be at the least with so few values; above 0.05 there is no interval.
        sizes: of the two samples, or of the one.
    """

    estimate: float
    low: float | None
    high: float | None
    level: float | None
    p_value: float
    lowest_p: float
    sizes: tuple[int, ...]


def shift_between(a: Values, b: Values) -> Shift:
    """Two independent samples: the median of the differences ``a_i - b_j``, with Wilcoxon's rank-sum test.

    The interval inverts the test (Lehmann, Annals of Mathematical Statistics 34, 1963): it lies between the k-th
    difference from either end. Its level is that of values without ties; as both ends belong to it, ties can only make
    it hold more often (Noether, Journal of the American Statistical Association 62, 1967). The p-value is twice
    the share of all splits of the pooled values whose rank sum is at least as far to its side; equal values share
    their mean rank.

    Args:
        a: at least one value.
        b: at least one value.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    m, both = len(x), len(x) + len(y)
    differences = np.sort(np.subtract.outer(x, y), axis=None)
    ranks = _doubled_ranks(np.concatenate([x, y]))
    p_value = _two_sided(_subset_sums(ranks, m)[m], int(ranks[:m].sum()))
    untied = _subset_sums(np.arange(1, both + 1), m)[m][m * (m + 1) // 2 :]
    low, high, level = _interval(differences, untied)
    lowest_p = min(1.0, 2 / math.comb(both, m))
    return Shift(float(np.median(differences)), low, high, level, p_value, lowest_p, (m, both - m))


def shift_from_zero(a: Values) -> Shift:
    """One sample: the median of the averages ``(a_i + a_j) / 2``, i <= j (Walsh), with Wilcoxon's signed-rank test.

    As :func:`shift_between`, with all signs of the values in place of all splits. Zeros are ranked with the other
    values and count for neither side (Pratt, Journal of the American Statistical Association 54, 1959).

    Args:
        a: at least one value.
    """
    x = np.asarray(a, np.float64)
    n = len(x)
    averages = np.sort((x[:, None] + x)[np.triu_indices(n)] / 2)
    ranks = _doubled_ranks(np.abs(x))
    signed = ranks[x != 0]
    p_value = _two_sided(_subset_sums(signed, n).sum(axis=0), int(ranks[x > 0].sum()))
    untied = _subset_sums(np.arange(1, n + 1), n).sum(axis=0)
    low, high, level = _interval(averages, untied)
    return Shift(float(np.median(averages)), low, high, level, p_value, 2 / 2**n, (n,))


def _doubled_ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Twice the ranks, from 1 on: with mean ranks for equal values these are whole numbers too."""
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (2 * np.cumsum(counts) - counts + 1)[position]


def _subset_sums(values: NDArray[np.int64], most: int) -> NDArray[np.object_]:
    """(most + 1, sum of values + 1): how many subsets have the size of the row and the sum of the column.

    Python's whole numbers, since the counts outgrow 64 bits.
    """
    counts = np.zeros((most + 1, int(values.sum()) + 1), dtype=object)
    counts[0, 0] = 1
    for value in values:
        counts[1:, value:] = counts[1:, value:] + counts[:-1, :-value]  # the right side is done before it is stored
    return counts


def _two_sided(counts: NDArray[np.object_], observed: int) -> float:
    """Twice the smaller tail, the observed sum included in both, of the distribution that ``counts`` gives by sum."""
    tail = min(counts[: observed + 1].sum(), counts[observed:].sum())
    return float(min(1, 2 * tail / counts.sum()))


def _interval(
    values: NDArray[np.float64], counts: NDArray[np.object_]
) -> tuple[float, float, float] | tuple[None, None, None]:
    """The k-th of the sorted values from either end and the level of what lies between, for the largest k allowed.

    Args:
        values: (n,), sorted: differences or averages.
        counts: (n + 1,): arrangements without ties in which 0, 1, ..., n of the values are above zero.
    """
    total, below, k = counts.sum(), 0, 0
    while 2 * (below + counts[k]) <= (1 - CONFIDENCE) * total:
        below += counts[k]
        k += 1
    if k == 0:
        return None, None, None
    return float(values[k - 1]), float(values[-k]), 1 - 2 * below / total
