"""Paired differences: against published values, against simulations whose truth is planted, and at their edges."""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from cotkit.evaluation.paired import OneSample, SeveralSamples, mean_of_runs
from cotkit.evaluation.stats import wilson

LEVELS = (0.05, 0.01, 0.0005)


def test_tango_published():
    # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850-2875: 1 against 7 of 21 children.
    assert OneSample(1, 7, 21).interval(0.05) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("wins", "losses", "n"), [(0, 0, 12), (3, 0, 40), (12, 5, 40), (40, 0, 40), (141, 111, 1319)])
def test_the_score_at_the_ends_of_the_interval_is_the_quantile(wins: int, losses: int, n: int):
    found = OneSample(wins, losses, n)
    for end, sign in zip(found.interval(0.05), (1, -1), strict=True):
        if abs(end) < 1:
            assert found._score(end) == pytest.approx(sign * 1.959964, abs=1e-5)


def test_swapping_the_systems_turns_the_interval_round():
    for wins, losses in ((5, 2), (0, 0), (9, 0), (20, 20)):
        low, high = OneSample(wins, losses, 40).interval(0.05)
        assert OneSample(losses, wins, 40).interval(0.05) == pytest.approx((-high, -low), abs=1e-9)


def test_the_verdict_s_interval_leaves_out_zero_exactly_if_the_exact_test_rejects():
    for wins, losses, alpha in product(range(25), range(25), LEVELS):
        found = OneSample(wins, losses, 60)
        low, high = found.verdict_interval(alpha)
        assert (low > 0 or high < 0) == (found.p < alpha), (wins, losses, alpha)
        assert -1 <= low <= found.difference <= high <= 1


def test_no_wins_and_no_losses_still_leave_something_open():
    for questions in (12, 40, 1319):
        low, high = OneSample(0, 0, questions).interval(0.05)
        assert low == pytest.approx(-high) and high == pytest.approx(wilson(0, questions)[1], abs=1e-9)
        low, high = SeveralSamples([[0.0] * questions] * 2, [[0.0] * questions]).interval(0.05)
        assert low < 0 < high


@pytest.mark.parametrize(
    ("n", "wins", "losses"),
    [(40, 0.05, 0.05), (40, 0.3, 0.1), (300, 0.02, 0.03), (300, 0.15, 0.11), (1319, 0.148, 0.113)],
)
def test_tango_covers_the_truth(n: int, wins: float, losses: float):
    rng = np.random.default_rng(11)
    drawn = rng.multinomial(n, [wins, losses, 1 - wins - losses], size=2000)
    known = {tuple(row): OneSample(*map(int, row[:2]), n).interval(0.05) for row in drawn}
    hits = sum(low <= wins - losses <= high for low, high in (known[tuple(row)] for row in drawn))
    assert 0.93 <= hits / 2000 <= 0.985


def test_several_samples_equal_the_paired_t_test_in_the_limit():
    """With many questions the two that are added do not count."""
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 5000))
    found, theirs = SeveralSamples([a.tolist()], [b.tolist()]), ttest_rel(a, b)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-3)
    assert found.interval(0.05) == pytest.approx(tuple(theirs.confidence_interval(0.95)), abs=1e-4)


def test_one_sample_as_several_is_bonett_and_price_s_interval():
    wins, losses, n = 12, 5, 200
    a = [1.0] * wins + [0.0] * (n - wins)
    b = [0.0] * wins + [1.0] * losses + [0.0] * (n - wins - losses)
    low, high = SeveralSamples([a], [b]).interval(0.05)
    centre = (wins - losses) / (n + 2)
    error = sqrt(((wins + losses + 2) / (n + 2) - centre**2) / (n + 1))
    half = float(t.isf(0.025, n + 1)) * error
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_test_and_interval_of_several_samples_say_the_same():
    rng = np.random.default_rng(5)
    for _ in range(300):
        a, b = (rng.binomial(4, rng.random((int(rng.integers(1, 4)), 12))) / 4 for _ in range(2))
        found = SeveralSamples(a.tolist(), b.tolist())
        for alpha in LEVELS:
            low, high = found.verdict_interval(alpha)
            assert (low > 0 or high < 0) == (found.p < alpha)


def test_runs_that_differ_widen_the_interval():
    """Methods whose runs deviate by 4 points: one run covers the truth far too seldom, three runs cover it."""
    rng, once, thrice, false = np.random.default_rng(9), 0, 0, 0
    for _ in range(400):
        difficulty = rng.uniform(0.2, 0.8, size=300)
        a, b = (
            [(rng.random(300) < difficulty + rng.normal(0, 0.04)).astype(float).tolist() for _ in range(3)]
            for _ in range(2)
        )
        low, high = SeveralSamples(a[:1], b[:1]).interval(0.05)
        once += low <= 0 <= high
        found = SeveralSamples(a, b)
        low, high = found.interval(0.05)
        thrice += low <= 0 <= high
        false += found.p < 0.05
    assert once < 340
    assert thrice >= 370 and false <= 30


def test_the_accuracy_of_several_runs_has_an_interval_at_its_edges_too():
    mean, low, high = mean_of_runs([[0.0] * 12] * 2, 0.05)
    assert (mean, low) == (0.0, 0.0) and high == pytest.approx(wilson(0, 12)[1])
    mean, low, high = mean_of_runs([[1.0] * 30] * 3, 0.05)
    assert (mean, high) == (1.0, 1.0) and low == pytest.approx(wilson(30, 30)[0])
    mean, low, high = mean_of_runs([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]], 0.05)
    assert mean == 0.5 and 0 < low < 0.2 and 0.8 < high < 1


def test_bad_counts_and_shapes_are_refused():
    for counts in ((-1, 3, 9), (5, 5, 9), (0, 0, 0)):
        with pytest.raises(ValueError):
            OneSample(*counts)
    for a, b in (([], [[1.0]]), ([[]], [[]]), ([[1.0]], [[1.0, 0.0]])):
        with pytest.raises(ValueError):
            SeveralSamples(a, b)
