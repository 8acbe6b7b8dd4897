"""Numbers of a report against scikit-learn and SciPy, and against definitions written out."""

import math
import warnings

import numpy as np
import pytest
import torch
from random_videos import draw
from scipy import stats
from sklearn import metrics

from videogn.evaluation import VideoAccuracy, judge
from videogn.report.calibration import calibration
from videogn.report.statistics import (
    accuracy_by_clips,
    bootstrap_interval,
    bootstrap_ratio,
    confident_mistakes,
    confusion,
    correct,
    failed,
    headline,
    judged,
    most_confused,
    per_class,
    wilson,
)
from videogn.results import VideoResult

# videos, classes, whether probabilities are so coarse that many are equal
CASES = [(200, 12, False), (200, 12, True), (7, 30, False), (40, 6, True), (1, 5, False), (50, 3, True)]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


@pytest.mark.parametrize("seed", range(3))
def test_top_k_equals_scikit_learn(case, seed):
    count, classes, coarse = case
    p, labels, results = draw(count, classes, coarse, seed)
    found = headline(results, resamples=10)
    views, of_views = p.reshape(-1, classes), np.repeat(labels, p.shape[1])
    for k, top, clip_top in ((1, found.top1, found.clip_top1), (5, found.top5, found.clip_top5)):
        for value, scores, of in ((top.value, p.mean(axis=1), labels), (clip_top.value, views, of_views)):
            # Of equal scores scikit-learn takes the higher number; in reversed order that is ours.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that k reaches the number of classes
                peer = metrics.top_k_accuracy_score(classes - 1 - of, scores[:, ::-1], k=k, labels=np.arange(classes))
            assert value == pytest.approx(peer, abs=1e-12)
    if not coarse:
        peer = metrics.log_loss(labels, p.mean(axis=1), labels=np.arange(classes))
        assert found.loss.value == pytest.approx(peer, rel=1e-6)


def test_headline_equals_what_the_evaluation_logs():
    _, _, results = draw(60, 9, seed=5)
    results[3] = VideoResult(3, "v/3.mp4", 2, error="no frames")
    metric = VideoAccuracy()
    for result in results:
        metric.update(result)
    theirs, ours = metric.compute(), headline(results, resamples=10)
    for name in ("top1", "top5", "clip_top1", "clip_top5"):
        assert getattr(ours, name).value == getattr(theirs, name)
    assert ours.loss.value == pytest.approx(theirs.loss, rel=1e-14)
    assert (ours.videos, ours.failed, ours.unlabelled, ours.judged) == (60, 1, 0, 59)


@pytest.mark.parametrize("seed", range(3))
def test_classes_and_confusion_equal_scikit_learn(case, seed):
    count, classes, coarse = case
    p, labels, results = draw(count, classes, coarse, seed)
    predicted = p.mean(axis=1).argmax(axis=1)
    matrix = confusion(results, classes)
    assert np.array_equal(matrix, metrics.confusion_matrix(labels, predicted, labels=np.arange(classes)))
    recall = metrics.recall_score(labels, predicted, labels=np.arange(classes), average=None, zero_division=np.nan)
    rows = per_class(results, classes)
    np.testing.assert_allclose([row.accuracy.value for row in rows], recall, rtol=1e-12)
    assert [row.number for row in rows] == list(range(classes))
    assert [row.videos for row in rows] == [int((labels == c).sum()) for c in range(classes)]
    assert rows[-1].videos == 0
    assert math.isnan(rows[-1].accuracy.low)


def test_one_class():
    _, _, results = draw(5, 1)
    found = headline(results)
    assert (found.top1.value, found.top1.low, found.top5.value, found.loss.value) == (1, 1, 1, 0)
    assert confusion(results, 1).tolist() == [[5]]
    assert most_confused(confusion(results, 1)) == []
    assert calibration(results).ece == 0


def test_most_confused_pairs_as_counted_one_by_one():
    _, labels, results = draw(300, 8, skill=0.5)
    pairs = most_confused(confusion(results, 8), most=100)
    counted = {}
    for result in results:
        if result.classes[0] != result.label:
            counted[result.label, result.classes[0]] = counted.get((result.label, result.classes[0]), 0) + 1
    assert {(pair.true, pair.predicted): pair.count for pair in pairs} == counted
    assert all(pair.share == pair.count / (labels == pair.true).sum() for pair in pairs)
    assert [(pair.count, pair.share) for pair in pairs] == sorted(
        ((pair.count, pair.share) for pair in pairs), reverse=True
    )
    assert most_confused(confusion(results, 8), most=3) == pairs[:3]


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("total", [1, 2, 7, 100, 20_000])
def test_wilson_equals_scipy(total, confidence):
    for successes in {0, 1, total // 3, total - 1, total}:
        peer = stats.binomtest(successes, total).proportion_ci(confidence, method="wilson")
        ours = wilson(successes, total, confidence)
        assert (ours.low, ours.high) == (pytest.approx(peer.low, abs=1e-12), pytest.approx(peer.high, abs=1e-12))
        assert 0 <= ours.low <= ours.value <= ours.high <= 1


# -- bootstrap -------------------------------------------------------------------------------------------------------

RESAMPLES = 4000


def slack(tail, *resamples):
    """Five standard errors of the share of resamples below a point where the true share is ``tail``: such shares are
    binomial, with variance tail (1 - tail) / resamples, and those of two independent sets of resamples add up."""
    return 5 * math.sqrt(tail * (1 - tail) * sum(1 / n for n in resamples))


def assert_quantile(point, tail, below, up_to, allowed):
    """``point`` is a ``tail`` quantile: the share below it is not more, the share up to it not less."""
    assert below(point) <= tail + allowed, (point, below(point))
    assert up_to(point) >= tail - allowed, (point, up_to(point))


@pytest.mark.parametrize(("right", "count"), [(1, 3), (5, 11), (70, 100), (199, 200), (14_000, 20_000)])
def test_interval_of_an_accuracy_has_the_quantiles_of_the_binomial_distribution(right, count):
    """A resample of n videos of which a share p is right has binomial (n, p) right ones."""
    interval = bootstrap_interval(np.arange(count) < right, resamples=RESAMPLES)
    exact = stats.binom(count, right / count)
    for point, tail in ((interval.low, 0.025), (interval.high, 0.975)):
        # A quantile between two resamples may lie between two possible accuracies.
        assert_quantile(
            round(point * count, 6),
            tail,
            lambda x: exact.cdf(math.ceil(x) - 1),
            lambda x: exact.cdf(math.ceil(x)),
            slack(tail, RESAMPLES),
        )
    assert interval.value == right / count


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [10, 60, 800])
def test_intervals_agree_with_scipy(count, seed, confidence):
    """Of losses, and of right clips among videos with different numbers of them."""
    rng = np.random.default_rng(seed)
    clips = rng.integers(1, 5, size=count)
    right = rng.binomial(clips, rng.random(count))
    loss = rng.exponential(size=count)
    for (a, b), ours in (
        ((loss, np.ones(count)), bootstrap_interval(loss, confidence, RESAMPLES)),
        ((right, clips), bootstrap_ratio(right, clips, confidence, RESAMPLES)),
    ):
        peer = stats.bootstrap(
            (a, b),
            lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
            paired=True,
            confidence_level=confidence,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(seed + 100),
        )
        drawn = peer.bootstrap_distribution
        assert ours.value == pytest.approx(a.sum() / b.sum(), rel=1e-12)
        for point, tail in ((ours.low, (1 - confidence) / 2), (ours.high, (1 + confidence) / 2)):
            assert_quantile(
                point,
                tail,
                lambda x, drawn=drawn: (drawn < x - 1e-9).mean(),
                lambda x, drawn=drawn: (drawn <= x + 1e-9).mean(),
                slack(tail, RESAMPLES, RESAMPLES),
            )


def test_clips_of_a_video_stay_together():
    """Ten clips that are all right or all wrong say no more than one: the interval is that of videos, not of clips."""
    right = np.arange(100) < 60
    videos = bootstrap_interval(right)
    clips = bootstrap_ratio(10 * right, np.full(100, 10))
    assert (clips.low, clips.high) == (videos.low, videos.high)


def test_intervals_are_reproducible():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_many_chunks_are_one_bootstrap(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(values, resamples=100)
    monkeypatch.setattr("videogn.report.statistics._CHUNK", 700)
    assert bootstrap_interval(values, resamples=100) == whole


# -- clips, mistakes, what does not count ---------------------------------------------------------------------------


def test_accuracy_against_clips():
    p, labels, results = draw(90, 7, clips=10, skill=0.7)
    points = accuracy_by_clips(results, resamples=500)
    assert [point.clips for point in points] == list(range(1, 11))
    assert points[-1].accuracy == headline(results, resamples=500).top1
    middle = (p[:, 4].argmax(axis=1) == labels).mean()
    ends = (p[:, [0, 9]].mean(axis=1).argmax(axis=1) == labels).mean()
    three = (p[:, [0, 5, 9]].mean(axis=1).argmax(axis=1) == labels).mean()  # 4.5 is rounded up
    assert [point.accuracy.value for point in points[:3]] == [middle, ends, three]
    assert all(point.videos == 90 and point.accuracy.low < point.accuracy.value for point in points)


def test_most_confident_mistakes():
    _, _, results = draw(100, 6, skill=0.5)
    found = confident_mistakes(results, most=5)
    wrong = [(r.probabilities[0], r.id) for r in results if r.classes[0] != r.label]
    assert [(r.probabilities[0], r.id) for r in found] == sorted(wrong, reverse=True)[:5]
    twice = [found[0], VideoResult(**{**vars(found[0]), "id": 0})]
    assert [r.id for r in confident_mistakes(twice)] == [0, found[0].id]


def test_failed_and_unlabelled_videos_are_in_no_score():
    p, _, results = draw(30, 6)
    alone = headline(results)
    unknown = judge(30, "u.mp4", -1, torch.from_numpy(p[0]), num_clips=4)
    broken = VideoResult(31, "b.mp4", 2, error="")
    more = [unknown, *results, broken]
    assert headline(more) == type(alone)(32, 1, 1, *[getattr(alone, f) for f in list(vars(alone))[3:]])
    assert judged(more) == results
    assert failed(more) == [broken]
    assert confusion(more, 6).sum() == sum(row.videos for row in per_class(more, 6)) == 30
    assert str(calibration(more)) == str(calibration(results))
    assert accuracy_by_clips(more) == accuracy_by_clips(results)
    assert unknown not in confident_mistakes(more)


def test_nothing_decoded_is_nan_everywhere_and_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for results in ([], [VideoResult(0, "a", 1, error="no frames")]):
            found = headline(results)
            assert all(math.isnan(x) for x in (found.top1.value, found.top1.low, found.loss.high, found.clip_top5.low))
            assert found.failed == len(results)
            assert math.isnan(calibration(results).ece)
            assert math.isnan(calibration(results).bins[3].accuracy.value)
            assert confusion(results, 3).tolist() == [[0] * 3] * 3
            assert (
                most_confused(confusion(results, 3)) == accuracy_by_clips(results) == confident_mistakes(results) == []
            )
            assert correct(judged(results)).shape == (0,)
