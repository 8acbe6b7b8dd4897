"""Two runs on the same videos: which of them is better, and could it be chance?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videogn.report.statistics import CONFIDENCE, RESAMPLES
from videogn.results import VideoResult


@dataclass(frozen=True)
class Paired:
    """Two runs, a and b, on the same videos.

    Attributes:
        both: videos that both get right.
        only_a: videos that only a gets right.
        only_b: videos that only b gets right.
        neither: videos that none gets right.
        p_value: of McNemar's exact test, two-sided; 1 where no video tells them apart.
        difference: accuracy of a minus that of b; nan without videos, as its interval.
        low: lower end of its bootstrap interval over videos.
        high: upper end.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float
    difference: float
    low: float
    high: float

    @property
    def videos(self) -> int:
        """That were compared."""
        return self.both + self.only_a + self.only_b + self.neither


@dataclass(frozen=True)
class Matching:
    """Which videos two runs have in common.

    Attributes:
        pairs: (n, 2), positions in the two lists of results: videos that both have decoded, with the same label.
        parts: how they were found: 0 by whole paths; else by the last ``parts`` parts of their paths, because no
            whole path was in both lists (another root, another machine).
        example: one pair's paths; None without pairs.
        failed: videos of both lists that at least one run could not decode.
        relabelled: videos of both lists whose labels differ; they are in no comparison.
        unlabelled: videos of both lists without a known label.
        only_a: videos of a that b does not have.
        only_b: videos of b that a does not have.
    """

    pairs: NDArray[np.int64]
    parts: int
    example: tuple[str, str] | None
    failed: int
    relabelled: int
    unlabelled: int
    only_a: int
    only_b: int


@dataclass(frozen=True)
class Comparison:
    """Runs number ``a`` and ``b`` of a report against each other.

    Attributes:
        a: number of the first run.
        b: number of the second run, larger than ``a``.
        matching: the videos that they have in common.
        top1: the comparison on them.
        holm: p-value of ``top1`` corrected for the number of comparisons of the report.
    """

    a: int
    b: int
    matching: Matching
    top1: Paired
    holm: float


def compare(
    runs: Sequence[Sequence[VideoResult]],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Every pair of runs by :func:`mcnemar` on the videos that :func:`match` finds in both; p-values by :func:`holm`
    beside the raw ones. Pairs in the order (0, 1), (0, 2), ..., (1, 2), ..."""
    raise NotImplementedError


def match(a: Sequence[VideoResult], b: Sequence[VideoResult]) -> Matching:
    """Finds the videos of two lists that are the same: those of one path, or, where no path is in both lists, those
    whose paths end alike, in as few parts as tell the videos of each list apart."""
    raise NotImplementedError


def mcnemar(
    correct_a: NDArray[np.bool_],
    correct_b: NDArray[np.bool_],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """McNemar's test (Psychometrika 1947), exact: of the n videos that one run alone gets right, under the null
    hypothesis each falls to either with probability 1/2, so that p = min(1, 2 P(X <= min(only_a, only_b))), X binomial
    (n, 1/2). With the difference of the accuracies and its percentile bootstrap interval, videos drawn in pairs.

    Args:
        correct_a: (videos,), what a gets right.
        correct_b: (videos,), what b gets right, in the same order.
        confidence: in (0, 1).
        resamples: number of resamples.
        seed: the same seed gives the same interval.
    """
    raise NotImplementedError


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm, "A simple sequentially rejective multiple test procedure", 1979).

    In rising order p_(1) ... p_(m): ``max over j <= i of min(1, (m - j + 1) p_(j))``, given back in the order given.
    """
    raise NotImplementedError
