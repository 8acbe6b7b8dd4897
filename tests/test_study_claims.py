"""The exact rank tests of a study, and what its claims make of them."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from videogn.study.claims import Claim, claims_markdown, test_claims
from videogn.study.grid import Cell
from videogn.study.outcomes import CellResult, Outcome
from videogn.study.runs import Run
from videogn.study.statistics import shift_between, shift_from_zero

GN, BN, BRN = {"norm": "gn"}, {"norm": "bn"}, {"norm": "brn"}


def result(norm, errors, missing=0):
    cell = Cell({"norm": norm}, {})
    outcomes = tuple(
        Outcome(Run(cell, "result", seed, None, {}, Path(norm)), "done", {"top1": 1 - error / 100}, {}, None, 1.0)
        for seed, error in enumerate(errors)
    )
    return CellResult(cell, None, outcomes, missing)


def verdict(expect, of, against, margin=None):
    claim = Claim("x", (GN,), (BN,), expect, margin)
    return test_claims([claim], [result("gn", of), result("bn", against)])[0].text


# ---------------------------------------------------------------------------------------------------- two samples


@pytest.mark.parametrize(("m", "n"), [(4, 4), (5, 5), (5, 7), (12, 11)])
def test_p_value_of_two_samples_is_scipys(m, n):
    generator = np.random.default_rng(m)
    for shift in (0.0, 0.5, 1.5):
        a, b = generator.normal(size=m) + shift, generator.normal(size=n)
        expected = stats.mannwhitneyu(a, b, method="exact").pvalue
        assert shift_between(a, b).p_value == pytest.approx(expected, rel=1e-12)
        assert shift_between(b, a).p_value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("m", "n"), [(4, 4), (5, 5), (5, 6), (8, 8)])
def test_interval_holds_the_shifts_that_the_test_does_not_reject(m, n):
    generator = np.random.default_rng(10 * m + n)
    a, b = generator.normal(size=m) + 0.7, generator.normal(size=n)
    found = shift_between(a, b)

    def p_value(shift):
        return stats.mannwhitneyu(a - shift, b, method="exact").pvalue

    inside, outside = 1e-9, -1e-9
    assert p_value(found.low + inside) > 0.05 >= p_value(found.low + outside)
    assert p_value(found.high - inside) > 0.05 >= p_value(found.high - outside)


def test_five_against_five_by_hand():
    found = shift_between([11, 12, 13, 14, 15], [1.5, 2.6, 3.7, 4.8, 5.9])
    differences = sorted(x - y for x in (11, 12, 13, 14, 15) for y in (1.5, 2.6, 3.7, 4.8, 5.9))
    assert found.p_value == pytest.approx(2 / 252) == found.lowest_p
    # Of the 252 splits 1 + 1 + 2 have a U of 0, 1, 2 and 3 one of 3: 2 * 4 / 252 < 0.05 < 2 * 7 / 252.
    assert (found.low, found.high) == pytest.approx((differences[2], differences[-3]))
    assert found.level == pytest.approx(1 - 8 / 252)
    assert found.estimate == pytest.approx(differences[12])
    assert found.sizes == (5, 5)


def test_ties_of_two_samples_by_hand():
    # Pooled 1 2 2 3 have the ranks 1, 2.5, 2.5, 4. The splits' rank sums are 3.5, 3.5, 5, 5, 6.5, 6.5, their mean 5:
    # {2, 3} has 6.5, and four of the six splits are as far from it.
    assert shift_between([2, 3], [1, 2]).p_value == pytest.approx(4 / 6)
    assert shift_between([2, 2], [1, 3]).p_value == 1.0
    assert shift_between([7, 7, 7, 7], [7, 7, 7, 7]).p_value == 1.0
    # 1 1 1 5 5 have the ranks 2, 2, 2, 4.5, 4.5: no other of the ten splits has a rank sum as low as that of 1 1 1.
    assert shift_between([1, 1, 1], [5, 5]).p_value == pytest.approx(2 / 10)


def test_many_values_without_overflow():
    a, b = np.arange(40) + 0.5, np.arange(40) - 3.0
    found, expected = shift_between(a, b), stats.mannwhitneyu(a, b, method="exact").pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert 0.95 <= found.level < 0.953


def test_no_interval_for_three_against_three():
    found = shift_between([10, 11, 12], [1, 2, 3])
    assert found.low is found.high is found.level is None
    assert found.p_value == pytest.approx(2 / 20)


@pytest.mark.parametrize("step", [None, 0.5])
def test_interval_covers_as_often_as_it_says(step):
    """Of 1,500 intervals of normal values 96.8 % hold the true shift, give or take 4 standard errors; at least that
    many where values are rounded and tie."""
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(1500):
        a, b = generator.normal(size=5), generator.normal(size=5)
        if step:
            a, b = np.round(a / step) * step, np.round(b / step) * step
        found = shift_between(a + 2.0, b)
        held += found.low <= 2.0 <= found.high
    level, error = 1 - 8 / 252, math.sqrt(0.968 * 0.032 / 1500)
    assert held / 1500 > level - 4 * error
    assert step or held / 1500 < level + 4 * error


# ------------------------------------------------------------------------------------------------------ one sample


@pytest.mark.parametrize("n", [4, 6, 9, 15])
def test_p_value_of_one_sample_is_scipys(n):
    generator = np.random.default_rng(n)
    for shift in (0.0, 0.4, 1.5):
        a = generator.normal(size=n) + shift
        expected = stats.wilcoxon(a, method="exact").pvalue
        assert shift_from_zero(a).p_value == pytest.approx(expected, rel=1e-12)


def test_interval_of_one_sample_inverts_the_test():
    a = np.random.default_rng(1).normal(size=9)
    found = shift_from_zero(a)
    for end, sign in ((found.low, 1), (found.high, -1)):
        assert stats.wilcoxon(a - end - sign * 1e-9, method="exact").pvalue > 0.05
        assert stats.wilcoxon(a - end + sign * 1e-9, method="exact").pvalue <= 0.05


def test_one_sample_by_hand():
    found = shift_from_zero([1, 2, 4, 8, 16, 32])
    assert found.p_value == pytest.approx(2 / 64)
    assert (found.low, found.high, found.level) == (1, 32, pytest.approx(1 - 2 / 64))
    walsh = sorted((x + y) / 2 for x, y in itertools.combinations_with_replacement([1, 2, 4, 8, 16, 32], 2))
    assert found.estimate == walsh[10]
    five = shift_from_zero([1, 2, 3, 4, 5])  # 2 / 32 is more than 5 %
    assert five.p_value == pytest.approx(0.0625)
    assert five.low is None
    assert five.level is None


def test_ties_and_zeros_of_one_sample_by_hand():
    # -1 1 1 have the ranks 2, 2, 2 and, by the eight ways to sign them, the positive sums 0, 2, 2, 2, 4, 4, 4, 6.
    assert shift_from_zero([-1, 1, 1]).p_value == 1.0
    assert shift_from_zero([1, 1, 1]).p_value == pytest.approx(2 / 8)
    # The zero has rank 1 and no sign; 3 and 5 have the ranks 2 and 3, so that their four sums are 0, 2, 3, 5.
    assert shift_from_zero([0, 3, 5]).p_value == pytest.approx(2 / 4)
    assert shift_from_zero([0, -3, 5]).p_value == 1.0
    assert shift_from_zero([0, 0, 0]).p_value == 1.0


# ---------------------------------------------------------------------------------------------------------- claims

LOW, HIGH = [10.0, 10.5, 11.0, 11.5, 12.0], [20.0, 20.5, 21.0, 21.5, 22.5]


def test_verdicts():
    assert verdict("above", HIGH, LOW) == "supported"
    assert verdict("below", HIGH, LOW) == "contradicted"
    assert verdict("below", LOW, HIGH) == "supported"
    assert verdict("above", LOW, HIGH) == "contradicted"
    assert verdict("above", LOW, LOW) == verdict("below", LOW, LOW) == "not shown"
    # Sorted, the differences of LOW with itself begin with -2, -1.5, -1.5.
    found = shift_between(LOW, LOW)
    assert (found.low, found.high) == (-1.5, 1.5)
    assert verdict("within", LOW, LOW, 1.5) == "supported"
    assert verdict("within", LOW, LOW, 1.0) == "not shown"
    assert verdict("within", HIGH, LOW, 2.0) == verdict("within", LOW, HIGH, 2.0) == "contradicted"


def test_shift_is_in_points_of_error_of_the_first_less_the_second():
    [tested] = test_claims([Claim("x", (GN,), (BN,))], [result("gn", HIGH), result("bn", LOW)])
    assert tested.shift.estimate == pytest.approx(10.0)
    assert tested.shift.p_value == pytest.approx(2 / 252)


def test_a_rise_is_formed_seed_by_seed():
    rising = Claim("brn rises from gn", (GN, BRN))
    two = Claim("more than bn from gn", (GN, BRN), (BN,))
    results = [
        result("gn", [1, 2, 3, 4, 5, 6]),
        result("brn", [4, 4, 9, 5, 11, 9.5]),  # rises of 3, 2, 6, 1, 6, 3.5
        result("bn", [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
    ]
    alone, against = test_claims([rising, two], results)
    expected = shift_from_zero([3, 2, 6, 1, 6, 3.5])
    assert alone.shift == expected
    assert alone.verdict == "supported"
    assert against.shift == shift_between([3, 2, 6, 1, 6, 3.5], [0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_rounding_makes_no_difference_of_what_is_equal():
    lower, upper = [10.1, 20.3, 30.7, 40.9], [30.3, 40.5, 50.9, 61.1]  # each rise is 20.2, as decimals
    results = [result("gn", lower), result("bn", upper), result("in", lower[::-1]), result("brn", upper[::-1])]
    rises = [results[1].errors[seed] - results[0].errors[seed] for seed in range(4)]
    assert len(set(rises)) > 1
    [tested] = test_claims([Claim("x", (GN, BN), ({"norm": "in"}, BRN))], results)
    assert tested.shift.p_value == 1.0
    assert tested.shift.estimate == tested.shift.low == tested.shift.high == 0.0


def test_p_values_are_corrected_for_the_claims_that_were_tested():
    claims = [Claim("a", (GN,), (BN,)), Claim("b", (BN,), (GN,)), Claim("c", (GN,), (BRN,))]
    results = [result("gn", HIGH), result("bn", LOW), result("brn", LOW[:3], missing=2)]
    first, second, third = test_claims(claims, results)
    assert first.holm == second.holm == pytest.approx(2 * 2 / 252)
    assert third.holm is third.shift is None
    assert third.text == "not tested: 2 of 5 seeds are missing in brn"


def test_what_cannot_be_tested_says_why():
    results = [result("gn", LOW[:4], missing=1), result("bn", [], missing=5)]
    claims = [Claim("a", (GN,), (BN,)), Claim("b", (BRN,)), Claim("c", (GN, BN), (GN, BRN))]
    reasons = [tested.reason for tested in test_claims(claims, results)]
    assert reasons[0] == "1 of 5 seeds is missing in gn; 5 of 5 seeds are missing in bn"
    assert reasons[1] == "there are no runs of brn"
    assert reasons[2].endswith("gn is on both sides, which are then not independent")


def test_cells_of_the_same_runs_are_not_two_samples():
    bn = result("bn", LOW)
    gn = replace(bn, cell=result("gn", LOW).cell)
    (tested,) = test_claims([Claim("x", (GN,), (BN,), "within", 50)], [gn, bn])
    assert tested.text == "not tested: gn and bn are the same runs, and not independent"


def test_too_few_seeds_have_no_verdict():
    assert verdict("above", HIGH[:3], LOW[:3]) == (
        "not shown: of 3 against 3 seeds no 95 % interval exists; 4 against 4 would do"
    )
    assert verdict("above", HIGH[:4], LOW[:4]) == "supported"
    rise = test_claims([Claim("x", (GN, BN))], [result("gn", LOW), result("bn", HIGH)])[0]
    assert rise.text == "not shown: of 5 seeds no 95 % interval exists; 6 would do"
    assert rise.shift.p_value == pytest.approx(2 / 32)


def test_markdown_states_the_statistic():
    claims = [
        Claim("gn is worse | here", (GN,), (BN,)),
        Claim("brn is near", (BRN,), (BN,), "within", 2.0),
        Claim("gn to bn rises", (GN, BN)),
    ]
    text = claims_markdown(test_claims(claims, [result("gn", HIGH), result("bn", LOW), result("brn", LOW[1:], 1)]))
    rows = text.splitlines()
    assert rows[2] == (
        "| gn is worse \\| here | gn − bn | above 0 | 5 against 5 | +10.00 (+8.50 to +11.50; 96.8 %) | 0.0079 | 0.016 "
        "| supported |"
    )
    assert rows[3].endswith("| within ±2 | – | – | – | – | not tested: 1 of 5 seeds is missing in brn |")
    assert "| (gn → bn) | above 0 | 5 | -10.00 | 0.062 | 0.062 |" in rows[4]
    for words in ("Hodges and Lehmann", "rank-sum", "signed-rank", "tested, here 2", "conservative"):
        assert words in text
    assert claims_markdown([]) == ""


def test_markdown_says_when_the_correction_cannot_be_met():
    claims = [Claim(str(i), (GN,), (BN,)) for i in range(7)]
    text = claims_markdown(test_claims(claims, [result("gn", HIGH), result("bn", LOW)]))
    assert "no p (Holm) of this table can be below 0.056" in text  # 7 * 2 / 252
