"""Two runs on the same videos: which of them is better, and could it be chance?"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videogn.report.statistics import CONFIDENCE, RESAMPLES, bootstrap_interval, correct
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
    found = []
    for a, b in itertools.combinations(range(len(runs)), 2):
        matching = match(runs[a], runs[b])
        right_a = correct([runs[a][i] for i in matching.pairs[:, 0]])
        right_b = correct([runs[b][i] for i in matching.pairs[:, 1]])
        found.append((a, b, matching, mcnemar(right_a, right_b, confidence, resamples, seed)))
    corrected = holm([paired.p_value for *_, paired in found])
    return [Comparison(*pair, p) for pair, p in zip(found, corrected, strict=True)]


def match(a: Sequence[VideoResult], b: Sequence[VideoResult]) -> Matching:
    """Finds the videos of two lists that are the same: those of one path, or, where no path is in both lists, those
    whose paths end alike, in as few parts as tell the videos of each list apart.

    A path that a list names more than once stands for as many videos, in their order.
    """
    parts = 0
    keys_a, keys_b = _keys(a, parts), _keys(b, parts)
    if a and b and not keys_a.keys() & keys_b.keys():
        parts = max(_parts_apart(a), _parts_apart(b))
        keys_a, keys_b = _keys(a, parts), _keys(b, parts)
    pairs: list[tuple[int, int]] = []
    failed = relabelled = unlabelled = 0
    for key, i in keys_a.items():
        j = keys_b.get(key)
        if j is None:
            continue
        if a[i].label != b[j].label:
            relabelled += 1
        elif a[i].label < 0:
            unlabelled += 1
        elif a[i].error is not None or b[j].error is not None:
            failed += 1
        else:
            pairs.append((i, j))
    common = len(pairs) + failed + relabelled + unlabelled
    return Matching(
        pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
        parts=parts,
        example=(a[pairs[0][0]].path, b[pairs[0][1]].path) if pairs else None,
        failed=failed,
        relabelled=relabelled,
        unlabelled=unlabelled,
        only_a=len(a) - common,
        only_b=len(b) - common,
    )


def mcnemar(
    correct_a: NDArray[np.bool_],
    correct_b: NDArray[np.bool_],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """McNemar's test (Psychometrika 12, 1947), exact: of the n videos that one run alone gets right, under the null
    hypothesis each falls to either with probability 1/2, so that ``p = min(1, 2 P(X <= min(only_a, only_b)))`` with X
    binomial (n, 1/2). With the difference of the accuracies and its percentile bootstrap interval, videos drawn in
    pairs.

    Args:
        correct_a: (videos,), what a gets right.
        correct_b: (videos,), what b gets right, in the same order.
        confidence: in (0, 1).
        resamples: number of resamples.
        seed: the same seed gives the same interval.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum())
    difference = bootstrap_interval(correct_a.astype(np.int64) - correct_b, confidence, resamples, seed)
    return Paired(
        both=int((correct_a & correct_b).sum()),
        only_a=only_a,
        only_b=only_b,
        neither=int((~correct_a & ~correct_b).sum()),
        p_value=_sign_test(only_a, only_b),
        difference=difference.value,
        low=difference.low,
        high=difference.high,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979).

    In rising order p_1 ... p_m the i-th becomes ``max over j <= i of min(1, (m - j + 1) p_j)``. In the order given.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for done, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[i]))
        corrected[i] = highest
    return corrected


def _sign_test(a: int, b: int) -> float:
    n = a + b
    tail = term = 1  # whole numbers, so that nothing is lost however many there are
    for k in range(min(a, b)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**n)


def _split(path: str) -> list[str]:
    return re.split(r"[/\\]+", path)  # of Windows too: runs may come from different machines


def _keys(results: Sequence[VideoResult], parts: int) -> dict[tuple[str, int], int]:
    """The last ``parts`` parts of a path (0: all of it), and how many videos before have them too -> position."""
    seen: Counter[str] = Counter()
    keys = {}
    for i, result in enumerate(results):
        end = "/".join(_split(result.path)[-parts:]) if parts else result.path
        keys[end, seen[end]] = i
        seen[end] += 1
    return keys


def _parts_apart(results: Sequence[VideoResult]) -> int:
    """The fewest parts, counted from the end, in which any two different paths differ."""
    ends = sorted({tuple(reversed(_split(result.path))) for result in results})
    # In this order the paths that end most alike are neighbours.
    return max((len(_common(a, b)) + 1 for a, b in itertools.pairwise(ends)), default=1)


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> list[str]:
    return [x for x, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))]
