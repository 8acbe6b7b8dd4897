"""Runs against each other: McNemar's test and Holm's correction against SciPy and definitions; which videos match."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from videogn.report.paired import compare, holm, match, mcnemar
from videogn.results import VideoResult


def tables(both, only_a, only_b, neither):
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


@pytest.mark.parametrize(
    ("only_a", "only_b"), [*itertools.product(range(7), repeat=2), (10, 25), (130, 170), (1500, 1700), (0, 1200)]
)
def test_p_value_equals_scipy(only_a, only_b):
    found = mcnemar(*tables(5, only_a, only_b, 9), resamples=10)
    assert (found.both, found.only_a, found.only_b, found.neither) == (5, only_a, only_b, 9)
    n = only_a + only_b
    peer = stats.binomtest(only_a, n).pvalue if n else 1.0
    assert found.p_value == pytest.approx(peer, rel=1e-9)
    assert found.difference == pytest.approx((only_a - only_b) / (n + 14))
    assert found.videos == n + 14


@pytest.mark.parametrize("counts", [(3, 4, 2, 1), (60, 14, 9, 17), (700, 90, 60, 150)])
def test_difference_agrees_with_a_paired_bootstrap_of_scipy(counts):
    a, b = tables(*counts)
    resamples = 4000
    found = mcnemar(a, b, resamples=resamples)
    drawn = stats.bootstrap(
        (a, b),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(1),
    ).bootstrap_distribution
    # Five standard errors of the difference between two shares of resamples where both are 0.025 or both 0.975.
    allowed = 5 * math.sqrt(2 * 0.025 * 0.975 / resamples)
    for point, tail in ((found.low, 0.025), (found.high, 0.975)):
        assert (drawn < point - 1e-9).mean() <= tail + allowed
        assert (drawn <= point + 1e-9).mean() >= tail - allowed


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("seed", range(4))
def test_holm_is_the_closure_of_bonferroni(count, seed):
    """A hypothesis is rejected when every set of hypotheses that holds it is, a set S by Bonferroni's |S| min p: so
    its corrected p-value is the largest of theirs (Marcus, Peritz & Gabriel 1976)."""
    rng = np.random.default_rng(seed)
    p = (rng.random(count) ** 3).round(1 + seed % 2).tolist()  # with ties
    sets = [s for size in range(1, count + 1) for s in itertools.combinations(range(count), size)]
    expected = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(count)]
    assert holm(p) == pytest.approx(expected)


def test_holm_of_nothing():
    assert holm([]) == []


def video(number, path, label=0, right=True, error=None):
    if error is not None:
        return VideoResult(number, path, label, error)
    rank = None if label < 0 else 0 if right else 1
    best = (label, 9) if right else (9, label)
    return VideoResult(number, path, label, None, best, (0.6, 0.4), rank, None if label < 0 else 0.5, (), (), ())


def listed(*paths, **kwargs):
    return [video(i, path, **kwargs) for i, path in enumerate(paths)]


def test_videos_match_by_path_whatever_their_order():
    a = listed("/d/cats/1.mp4", "/d/cats/2.mp4", "/d/dogs/1.mp4")
    b = listed("/d/dogs/1.mp4", "/d/cats/1.mp4", "/d/new/3.mp4")
    found = match(a, b)
    assert found.pairs.tolist() == [[0, 1], [2, 0]]
    assert (found.parts, found.only_a, found.only_b) == (0, 1, 1)
    assert found.example == ("/d/cats/1.mp4", "/d/cats/1.mp4")


@pytest.mark.parametrize("root", ["/mnt/other/val_256/", "", "C:\\data\\val\\"])
def test_videos_of_another_root_match_by_the_end_of_their_paths(root):
    a = listed("/d/cats/1.mp4", "/d/cats/2.mp4", "/d/dogs/1.mp4")
    rest = ["dogs/1.mp4", "cats/1.mp4"]
    b = listed(*[root + (r.replace("/", "\\") if "\\" in root else r) for r in rest])
    found = match(a, b)
    assert found.pairs.tolist() == [[0, 1], [2, 0]]
    assert (found.parts, found.only_a, found.only_b) == (2, 1, 0)
    assert match(b, a).pairs.tolist() == [[0, 2], [1, 0]]


def test_file_names_alone_are_enough_where_they_tell_the_videos_apart():
    a, b = listed("/d/cats/x.mp4", "/d/dogs/y.mp4"), listed("/e/felines/x.mp4", "/e/canines/y.mp4")
    assert match(a, b).parts == 1
    assert len(match(a, b).pairs) == 2


def test_a_path_that_is_listed_twice_is_two_videos():
    a, b = listed("a.mp4", "a.mp4", "b.mp4"), listed("b.mp4", "a.mp4")
    assert match(a, b).pairs.tolist() == [[0, 1], [2, 0]]
    moved = listed("/new/a.mp4", "/new/a.mp4", "/new/b.mp4")
    assert match(a, moved).pairs.tolist() == [[0, 0], [1, 1], [2, 2]]


def test_what_cannot_be_compared_is_counted():
    a = [
        video(0, "ok"),
        video(1, "failed in a", error="x"),
        video(2, "failed in b"),
        video(3, "label", label=3),
        video(4, "unlabelled", label=-1),
        video(5, "only a"),
        video(6, "failed in both", error="x"),
    ]
    b = [
        video(0, "ok"),
        video(1, "failed in a"),
        video(2, "failed in b", error=""),
        video(3, "label", label=4),
        video(4, "unlabelled", label=-1),
        video(6, "failed in both", error="x"),
        video(7, "only b"),
        video(8, "only b too"),
    ]
    found = match(a, b)
    assert found.pairs.tolist() == [[0, 0]]
    counted = (found.failed, found.relabelled, found.unlabelled, found.only_a, found.only_b)
    assert counted == (3, 1, 1, 1, 2)


@pytest.mark.parametrize("a", [[], listed("x/1.mp4", "y/1.mp4")])
def test_nothing_in_common(a):
    b = listed("z/2.mp4")
    found = match(a, b)
    assert (len(found.pairs), found.example, found.only_a, found.only_b) == (0, None, len(a), 1)
    (comparison,) = compare([a, b])
    assert (comparison.top1.p_value, comparison.top1.videos, comparison.holm) == (1.0, 0, 1.0)
    assert math.isnan(comparison.top1.difference)
    assert math.isnan(comparison.top1.low)


def test_deep_paths():
    deep = [f"{'d/' * 500}{side}/{'e/' * 500}1.mp4" for side in "ab"]
    assert match(listed(*deep), listed(*[f"/x/{path}" for path in reversed(deep)])).pairs.tolist() == [[0, 1], [1, 0]]


def test_all_pairs_of_three_runs():
    rng = np.random.default_rng(0)
    right = rng.random((3, 200)) < [[0.5], [0.6], [0.8]]
    runs = [[video(i, f"{n}/{i}.mp4", right=bool(r)) for i, r in enumerate(row)] for n, row in enumerate(right)]
    found = compare(runs)
    assert [(c.a, c.b) for c in found] == [(0, 1), (0, 2), (1, 2)]
    for c in found:
        assert c.top1.difference == pytest.approx(right[c.a].mean() - right[c.b].mean())
        assert c.top1.low < c.top1.difference < c.top1.high
        assert c.matching.parts == 1
        assert c.holm >= c.top1.p_value
    assert [c.holm for c in found] == holm([c.top1.p_value for c in found])


def test_one_run_is_compared_with_nothing():
    assert compare([listed("a")]) == compare([]) == []
