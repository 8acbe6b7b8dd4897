"""Calibration against scikit-learn and torchmetrics, and against the normal distribution."""

import math

import numpy as np
import pytest
import torch
from random_videos import draw
from sklearn import metrics
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from videogn.report.calibration import calibration
from videogn.results import VideoResult


@pytest.mark.parametrize("bins", [5, 15])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "classes"), [(400, 4), (30, 12), (1, 3)])
def test_calibration_equals_scikit_learn_and_torchmetrics(count, classes, seed, bins):
    p, labels, results = draw(count, classes, seed=seed)
    p = p.mean(axis=1)
    found = calibration(results, bins)
    claimed, right = p.max(axis=1), p.argmax(axis=1) == labels

    accuracy, confidence = calibration_curve(right, claimed, n_bins=bins, strategy="uniform")
    full = [b for b in found.bins if b.videos]
    np.testing.assert_allclose([b.accuracy.value for b in full], accuracy, rtol=1e-12)
    np.testing.assert_allclose([b.confidence for b in full], confidence, rtol=1e-12)
    weights = np.bincount(np.ceil(claimed * bins).astype(int) - 1, minlength=bins)
    assert [b.videos for b in found.bins] == weights.tolist()
    assert found.ece == pytest.approx((weights[weights > 0] / count) @ np.abs(accuracy - confidence), rel=1e-12)
    assert found.mce == pytest.approx(np.abs(accuracy - confidence).max(), rel=1e-12)

    for norm, ours in (("l1", found.ece), ("max", found.mce)):
        peer = multiclass_calibration_error(
            torch.from_numpy(p), torch.from_numpy(labels), num_classes=classes, n_bins=bins, norm=norm
        )
        assert ours == pytest.approx(float(peer), rel=1e-5)
    assert found.nll == pytest.approx(metrics.log_loss(labels, p, labels=np.arange(classes)), rel=1e-6)
    assert (found.confidence, found.accuracy) == (pytest.approx(claimed.mean()), right.mean())


def test_bins_are_open_below_and_closed_above():
    def claims(probability):
        return VideoResult(0, "", 0, None, (0, 1), (probability, 0.0), 0, probability, (0,), (0,), (0,))

    edges = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0 + 1e-7]  # a mean of float32 outputs may be rounded to more than 1
    found = calibration([claims(edge) for edge in edges], bins=4)
    assert [b.videos for b in found.bins] == [2, 1, 1, 2]
    assert [(b.low, b.high) for b in found.bins] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert math.isnan(calibration([claims(0.9)], bins=4).bins[0].confidence)


def test_chance_makes_the_ece_of_a_calibrated_network():
    """Each bin's sum of right - claimed is nearly normal, of variance sum p (1 - p), so that the mean of its size is
    sqrt(2 / pi) times the root of that."""
    rng = np.random.default_rng(0)
    count = 20_000
    claimed = rng.uniform(0.2, 1, size=count)
    right = rng.random(count) < claimed
    results = [
        VideoResult(i, "", 0, None, (0, 1) if r else (1, 0), (p, 0.0), 0 if r else 1, p, (0,), (0,), (0,))
        for i, (p, r) in enumerate(zip(claimed.tolist(), right.tolist(), strict=True))
    ]
    found = calibration(results)
    variances = [np.sum(c * (1 - c)) for b in found.bins for c in [claimed[(claimed > b.low) & (claimed <= b.high)]]]
    expected = math.sqrt(2 / math.pi) * np.sqrt(variances).sum() / count
    spread = math.sqrt((1 - 2 / math.pi) * np.sum(variances)) / count
    # 2000 draws; and the normal approximation, good to about 1 / (bin's videos), more than 800 here.
    assert found.ece_by_chance.value == pytest.approx(expected, abs=5 * spread / math.sqrt(2000) + expected / 800)
    assert found.ece_by_chance.low < found.ece < found.ece_by_chance.high
    overconfident = [
        VideoResult(i, "", 0, None, r.classes, (min(1.0, p * 1.1), 0.0), r.label_rank, p, (0,), (0,), (0,))
        for i, (r, p) in enumerate(zip(results, claimed.tolist(), strict=True))
    ]
    found = calibration(overconfident)
    assert found.ece > 2 * found.ece_by_chance.high
