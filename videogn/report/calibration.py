"""Whether a network's probabilities mean what they say: calibration of the best class's probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videogn.report.statistics import CONFIDENCE, NOTHING, Interval, correct, judged, loss, percentiles, wilson
from videogn.results import VideoResult

BINS = 15
RESAMPLES = 2000

_CHUNK = 4_000_000  # numbers drawn at once


@dataclass(frozen=True)
class Bin:
    """Videos whose best class has a probability in (low, high]; 0 itself is in the first bin.

    Attributes:
        low: lower end of the bin.
        high: upper end of the bin.
        videos: in it.
        confidence: mean probability of their best class; nan without videos.
        accuracy: share whose best class is the label, with Wilson's interval; nan without videos.
    """

    low: float
    high: float
    videos: int
    confidence: float
    accuracy: Interval


@dataclass(frozen=True)
class Calibration:
    """Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 2. nan without videos.

    Attributes:
        bins: of equal width, from 0 to 1, empty ones too.
        ece: expected calibration error, equation 3: ``sum over bins of videos/n * |accuracy - confidence|``; an empty
            bin adds nothing.
        mce: maximum calibration error, equation 5: the largest ``|accuracy - confidence|`` of a bin with videos.
        ece_by_chance: what the ECE of a network would be that is calibrated and as confident: mean, and the interval
            that it falls into. An ECE inside of it is no sign of bad calibration.
        confidence: mean probability of the best class.
        accuracy: share of videos whose best class is the label.
        nll: mean of -log(probability of the label), in nats: the evaluation's loss.
    """

    bins: list[Bin]
    ece: float
    mce: float
    ece_by_chance: Interval
    confidence: float
    accuracy: float
    nll: float


def calibration(
    results: Sequence[VideoResult], bins: int = BINS, confidence: float = CONFIDENCE, seed: int = 0
) -> Calibration:
    """Reliability bins of the best class's probability and what is computed from them.

    The Brier score is not among it: of the classes behind the fifth the results do not say the probabilities.
    """
    videos = judged(results)
    right = correct(videos)
    claimed = np.array([r.probabilities[0] for r in videos], dtype=np.float64)
    edges = np.linspace(0, 1, bins + 1)
    # The inner edges alone: what rounding has put above 1 belongs to the last bin, 0 to the first.
    place = np.searchsorted(edges[1:-1], claimed, side="left")
    counts = np.bincount(place, minlength=bins)
    hits = np.bincount(place[right], minlength=bins)
    with np.errstate(invalid="ignore"):  # nan in empty bins
        means = np.bincount(place, weights=claimed, minlength=bins) / counts
        gaps = np.abs(hits / counts - means)
    known = bool(videos)
    return Calibration(
        bins=[
            Bin(float(low), float(high), int(n), float(mean), wilson(int(k), int(n), confidence))
            for low, high, n, mean, k in zip(edges, edges[1:], counts, means, hits, strict=False)
        ],
        ece=float(np.nansum(counts * gaps) / len(videos)) if known else math.nan,
        mce=float(np.nanmax(gaps)) if known else math.nan,
        ece_by_chance=_ece_by_chance(claimed, place, confidence, seed) if known else NOTHING,
        confidence=float(claimed.mean()) if known else math.nan,
        accuracy=float(right.mean()) if known else math.nan,
        nll=float(loss(videos).mean()) if known else math.nan,
    )


def _ece_by_chance(claimed: NDArray[np.float64], place: NDArray[np.int64], confidence: float, seed: int) -> Interval:
    """The ECE where each video is right with the probability that it claims: "consistency resampling" of Bröcker &
    Smith (Weather and Forecasting 22, 2007), the probabilities staying as they are.

    A bootstrap interval of the ECE would not do: the ECE of few videos is far from 0 without any miscalibration, and
    that of their resamples farther, so that the interval could leave out the value itself.
    """
    order = np.argsort(place, kind="stable")
    claimed = claimed[order]
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(claimed))
    found = []
    for start in range(0, RESAMPLES, rows):
        right = generator.random((min(rows, RESAMPLES - start), len(claimed))) < claimed
        found.append(np.abs(np.add.reduceat(right - claimed, starts, axis=1)).sum(axis=1) / len(claimed))
    return percentiles(float(np.concatenate(found).mean()), np.concatenate(found), confidence)
