"""Intervals and tests of one sample, against scipy and published values."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from cotkit.evaluation import stats


@pytest.mark.parametrize("n", [1, 7, 30, 500, 1319])
def test_wilson_equals_scipy(n):
    for successes in {0, 1, n // 3, n - 1, n}:
        theirs = binomtest(successes, n).proportion_ci(0.95, method="wilson")
        assert stats.wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize(
    "successes, n, low, high",  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published(successes, n, low, high):
    assert stats.wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_edges():
    assert stats.wilson(0, 0) == (0.0, 1.0)
    assert stats.wilson(0, 10)[0] == 0.0 and stats.wilson(10, 10)[1] == 1.0
    for successes, n in [(-1, 3), (4, 3), (1, 0)]:
        with pytest.raises(ValueError):
            stats.wilson(successes, n)


@pytest.mark.parametrize("wins, losses, p", [(168, 184, 0.42), (141, 111, 0.068), (195, 149, 0.015)])
def test_mcnemar_of_the_original_experiment(wins, losses, p):
    assert float(f"{stats.mcnemar_exact(wins, losses):.2g}") == p
    assert stats.mcnemar_exact(wins, losses) == pytest.approx(stats.mcnemar_exact(losses, wins), abs=1e-12)


@pytest.mark.parametrize("wins, losses", [(0, 0), (0, 1), (5, 0), (6, 0), (3, 3), (10, 2), (141, 111), (400, 300)])
def test_mcnemar_is_twice_the_exact_tail(wins, losses):
    n = wins + losses
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1))
    assert stats.mcnemar_exact(wins, losses) == pytest.approx(min(1.0, 2 * tail / 2**n), abs=1e-9)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError):
        stats.mcnemar_exact(-1, 3)


def test_holm():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-12)
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert stats.holm([0.02]) == [0.02] and stats.holm([]) == []
    assert stats.holm([0.02, 0.02, 0.02]) == pytest.approx([0.06] * 3)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError):
            stats.holm([0.5, bad])


def test_holm_keeps_the_family_error():
    rng = np.random.default_rng(5)
    false_findings = sum(min(stats.holm(list(rng.random(6)))) < 0.05 for _ in range(2000))
    assert false_findings <= 130  # 100 expected, standard deviation below 10


def test_holm_levels_say_what_the_adjusted_values_say():
    rng = np.random.default_rng(6)
    for _ in range(500):
        p_values = (rng.random(7) ** 6).tolist()
        for p, adjusted, level in zip(p_values, stats.holm(p_values), stats.holm_levels(p_values), strict=True):
            assert (adjusted < 0.05) == (p < level)
    assert stats.holm_levels([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])
    assert stats.holm_levels([0.2]) == [0.05] and stats.holm_levels([]) == []


def test_mean_interval_equals_scipy():
    values = np.random.default_rng(2).normal(3, 0.4, size=40)
    theirs = ttest_1samp(values, 0).confidence_interval(0.95)
    assert stats.mean_interval(values.tolist(), 1, 5) == pytest.approx((values.mean(), theirs.low, theirs.high))
    assert stats.mean_interval([1.0, 5.0], 1, 5) == (3.0, 1, 5)
    assert stats.mean_interval([4.0], 1, 5) == (4.0, 1, 5)
