"""Whether a network's probabilities mean what they say: calibration of the best class's probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videogn.report.statistics import CONFIDENCE, NOTHING, Interval, correct, judged, wilson
from videogn.results import VideoResult

BINS = 15


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
    raise NotImplementedError
