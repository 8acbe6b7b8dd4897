"""Scores of an evaluation with their uncertainty, and runs against each other. Pure functions of results; no torch.

In every score are the videos that were decoded and whose label is known: :func:`judged`. Videos are what is resampled:
the clips of one video stand and fall together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from videogn.results import VideoResult

CONFIDENCE = 0.95
RESAMPLES = 10_000

_CHUNK = 4_000_000  # numbers drawn at once
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval, ``low <= high``; all nan where there is nothing to compute them from."""

    value: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Headline:
    """The scores of one run.

    Attributes:
        videos: that the evaluation saw.
        failed: of them could not be decoded; they are in no score.
        unlabelled: of them were decoded and have no known label; they are in no score.
        top1: share of videos whose label is first.
        top5: share of videos whose label is among the first five.
        clip_top1: share of views (clips and crops) whose label is first, each view counted once.
        clip_top5: share of views whose label is among the first five.
        loss: mean of -log(probability of the label), in nats.
    """

    videos: int
    failed: int
    unlabelled: int
    top1: Interval
    top5: Interval
    clip_top1: Interval
    clip_top5: Interval
    loss: Interval

    @property
    def judged(self) -> int:
        """Videos in the scores."""
        return self.videos - self.failed - self.unlabelled


@dataclass(frozen=True)
class ClassAccuracy:
    """Top-1 of the videos of one class, with Wilson's interval; nan for a class without videos."""

    number: int
    videos: int
    correct: int
    accuracy: Interval


@dataclass(frozen=True)
class Confused:
    """``count`` videos of class ``true`` were taken for class ``predicted``: the share ``share`` of that class."""

    true: int
    predicted: int
    count: int
    share: float


@dataclass(frozen=True)
class ClipsAccuracy:
    """Top-1 when ``clips`` clips of each video are averaged, with bootstrap interval, over ``videos`` videos."""

    clips: int
    videos: int
    accuracy: Interval


def judged(results: Sequence[VideoResult]) -> list[VideoResult]:
    """The videos that count: decoded, and of a known label. In the order given."""
    return [r for r in results if r.error is None and r.label_rank is not None]


def failed(results: Sequence[VideoResult]) -> list[VideoResult]:
    """The videos that could not be decoded. In the order given."""
    return [r for r in results if r.error is not None]


def correct(videos: Sequence[VideoResult], k: int = 1) -> NDArray[np.bool_]:
    """(videos,), whether each label is among the ``k`` best classes. All videos must be :func:`judged` ones."""
    return np.array([r.label_rank is not None and r.label_rank < k for r in videos], dtype=bool)


def loss(videos: Sequence[VideoResult]) -> NDArray[np.float64]:
    """(videos,), -log(probability of the label) in nats; at most that of the smallest normal float32, as in the
    evaluation. All videos must be :func:`judged` ones."""
    return -np.log(np.maximum([r.label_probability or 0.0 for r in videos], _TINY))


def headline(
    results: Sequence[VideoResult], confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Headline:
    """The scores of a run, as the evaluation defines them, with intervals of :func:`bootstrap_interval`."""
    videos = judged(results)
    views = np.array([len(r.view_label_ranks) for r in videos], dtype=np.int64)
    tops = {k: np.array([sum(rank < k for rank in r.view_label_ranks) for r in videos], np.int64) for k in (1, 5)}
    bad = len(failed(results))
    settings = confidence, resamples, seed
    return Headline(
        videos=len(results),
        failed=bad,
        unlabelled=len(results) - bad - len(videos),
        top1=bootstrap_interval(correct(videos, 1), *settings),
        top5=bootstrap_interval(correct(videos, 5), *settings),
        clip_top1=bootstrap_ratio(tops[1], views, *settings),
        clip_top5=bootstrap_ratio(tops[5], views, *settings),
        loss=bootstrap_interval(loss(videos), *settings),
    )


def bootstrap_interval(
    values: NDArray[np.generic] | Sequence[float],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean over videos with its percentile bootstrap interval (Efron & Tibshirani, "An Introduction to the
    Bootstrap", 1993, section 13.3).

    ``resamples`` times as many videos as there are are drawn with replacement; the interval lies between the quantiles
    ``(1 - confidence) / 2`` and ``(1 + confidence) / 2`` of their means. Of values that repeat, such as right and
    wrong, only how often each is drawn matters: these counts are multinomial and are drawn at once. Where all values
    are the same, as where every video is right, the interval has no width.

    Args:
        values: one per video.
        confidence: in (0, 1).
        resamples: number of resamples.
        seed: the same seed gives the same interval.
    """
    values = np.asarray(values, dtype=np.float64)
    return bootstrap_ratio(values, np.ones_like(values), confidence, resamples, seed)


def bootstrap_ratio(
    numerators: NDArray[np.generic],
    denominators: NDArray[np.generic],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """``sum(numerators) / sum(denominators)`` with its percentile bootstrap interval, pairs being what is resampled.

    For clips: numerators are the right ones of each video, denominators all of them. Else as
    :func:`bootstrap_interval`.
    """
    pairs = np.stack([np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)], axis=1)
    pairs = pairs[pairs[:, 1] > 0]
    if len(pairs) == 0:
        return NOTHING
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    n = len(pairs)
    sums = np.empty((resamples, 2))
    if 10 * len(distinct) <= n:  # a binomial number costs about as much as ten videos
        sums[:] = generator.multinomial(n, counts / n, size=resamples) @ distinct
    else:
        rows = max(1, _CHUNK // n)
        for start in range(0, resamples, rows):
            drawn = generator.integers(n, size=(min(rows, resamples - start), n), dtype=np.int32)
            for i, column in enumerate(pairs.T):
                same = column.min() == column.max()  # as denominators are, as a rule
                sums[start : start + rows, i] = n * column[0] if same else column.take(drawn).sum(axis=1)
    value = pairs[:, 0].sum() / pairs[:, 1].sum()
    return percentiles(value, sums[:, 0] / sums[:, 1], confidence)


def percentiles(value: float, resampled: NDArray[np.float64], confidence: float) -> Interval:
    """A value with the percentile interval of its resamples."""
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))


def wilson(successes: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """A share with Wilson's score interval (Wilson 1927): also sound for few videos and for shares of 0 and 1.

    ``(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` with z the normal quantile of ``(1 + confidence) / 2``.
    """
    if total == 0:
        return NOTHING
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / total
    p = successes / total
    middle, half = p + z2 / 2, math.sqrt(z2 * (p * (1 - p) + z2 / 4))
    # At the ends the formula gives 0 and 1 but for rounding.
    low = 0.0 if successes == 0 else (middle - half) / (1 + z2)
    high = 1.0 if successes == total else (middle + half) / (1 + z2)
    return Interval(p, low, high)


def per_class(results: Sequence[VideoResult], num_classes: int, confidence: float = CONFIDENCE) -> list[ClassAccuracy]:
    """Top-1 accuracy of each class, all classes in the order of their numbers."""
    videos = judged(results)
    labels = np.array([r.label for r in videos], dtype=np.int64)
    totals = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[correct(videos)], minlength=num_classes)
    return [
        ClassAccuracy(i, int(n), int(k), wilson(int(k), int(n), confidence))
        for i, (n, k) in enumerate(zip(totals, right, strict=True))
    ]


def confusion(results: Sequence[VideoResult], num_classes: int) -> NDArray[np.int64]:
    """(num_classes, num_classes), how many videos of the class of the row were taken for the class of the column."""
    videos = judged(results)
    labels = np.array([r.label for r in videos], dtype=np.int64)
    taken_for = np.array([r.classes[0] for r in videos], dtype=np.int64)
    return np.bincount(labels * num_classes + taken_for, minlength=num_classes**2).reshape(num_classes, num_classes)


def most_confused(matrix: NDArray[np.int64], most: int = 20) -> list[Confused]:
    """The entries beside the diagonal of a :func:`confusion` matrix: by count, then by share, then by number."""
    beside = matrix.copy()
    np.fill_diagonal(beside, 0)
    totals = matrix.sum(axis=1)
    pairs = [
        Confused(int(i), int(j), int(beside[i, j]), float(beside[i, j] / totals[i])) for i, j in np.argwhere(beside)
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.true, pair.predicted))[:most]


def accuracy_by_clips(
    results: Sequence[VideoResult], confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> list[ClipsAccuracy]:
    """Top-1 against the number of clips that are averaged, from one on; which clips: ``VideoResult.subset_top1``."""
    videos = judged(results)
    points = []
    for k in range(1, max((len(r.subset_top1) for r in videos), default=0) + 1):
        right = [r.subset_top1[k - 1] == r.label for r in videos if len(r.subset_top1) >= k]
        points.append(ClipsAccuracy(k, len(right), bootstrap_interval(right, confidence, resamples, seed)))
    return points


def confident_mistakes(results: Sequence[VideoResult], most: int = 20) -> list[VideoResult]:
    """The videos with a wrong class ahead, most probable wrong class first; of equal ones, the lower id."""
    wrong = [r for r in judged(results) if r.label_rank != 0]
    return sorted(wrong, key=lambda r: (-r.probabilities[0], r.id))[:most]
