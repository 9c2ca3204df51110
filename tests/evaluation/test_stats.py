"""Intervals and tests: against scipy, against published values, and against simulations whose truth is planted."""

import math
import random
import tracemalloc

import numpy as np
import pytest
from scipy.stats import binomtest

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


def paired_data_sets(rng, n, repetitions, wins, losses):
    """Paired 0/1 scores of `repetitions` data sets, questions drawn anew: the given shares are wins and losses of b against a."""
    kind = rng.choice(4, size=(repetitions, n), p=[wins, losses, 0.4, 0.6 - wins - losses])
    return np.isin(kind, [1, 2]).astype(float), np.isin(kind, [0, 2]).astype(float)


@pytest.mark.parametrize("n, wins, losses", [(300, 0.15, 0.11), (150, 0.1, 0.1), (1319, 0.148, 0.113)])
def test_paired_bootstrap_covers_the_truth(n, wins, losses):
    a, b = paired_data_sets(np.random.default_rng(11), n, 1000, wins, losses)
    hits = 0
    for i in range(1000):
        _, low, high = stats.paired_bootstrap(list(b[i]), list(a[i]), seed=i, repetitions=1000)
        hits += low <= wins - losses <= high
    assert 930 <= hits <= 970


def test_paired_bootstrap_covers_means_over_samples():
    rng, hits = np.random.default_rng(12), 0
    for i in range(1000):
        a, b = (rng.binomial(4, rng.beta(2, 2 + lift, size=120)) / 4 for lift in (0.0, 1.0))
        _, low, high = stats.paired_bootstrap(list(a), list(b), seed=i, repetitions=1000)
        hits += low <= 2 / 4 - 2 / 5 <= high
    assert 930 <= hits <= 970


def test_no_difference_is_seldom_significant():
    a, b = paired_data_sets(np.random.default_rng(13), 600, 1000, 0.13, 0.13)
    by_test = by_interval = 0
    for i in range(1000):
        wins, losses = int((b[i] > a[i]).sum()), int((b[i] < a[i]).sum())
        _, low, high = stats.paired_bootstrap(list(b[i]), list(a[i]), seed=i, repetitions=1000)
        by_test += stats.mcnemar_exact(wins, losses) < 0.05
        by_interval += low > 0 or high < 0
    assert by_test <= 60
    assert by_interval <= 70


def test_paired_bootstrap_equals_resampling_indices():
    rng = np.random.default_rng(3)
    a, b = rng.random(80), rng.random(80) ** 2
    difference, low, high = stats.paired_bootstrap(list(a), list(b), seed=1, repetitions=20_000)
    index = rng.integers(80, size=(20_000, 80))
    expected = np.quantile((a - b)[index].mean(axis=1), [0.025, 0.975])
    assert difference == pytest.approx((a - b).mean(), abs=1e-12)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.005)


def test_paired_bootstrap_is_deterministic_in_any_order():
    rng = random.Random(2)
    pairs = [(rng.random() < 0.5, rng.random() < 0.6) for _ in range(200)]
    a, b = (list(map(float, side)) for side in zip(*pairs, strict=True))
    first = stats.paired_bootstrap(a, b, seed=7)
    assert stats.paired_bootstrap(a, b, seed=7) == first != stats.paired_bootstrap(a, b, seed=8)
    rng.shuffle(pairs)
    shuffled_a, shuffled_b = (list(map(float, side)) for side in zip(*pairs, strict=True))
    assert stats.paired_bootstrap(shuffled_a, shuffled_b, seed=7) == first
    swapped = stats.paired_bootstrap(b, a, seed=7)
    assert swapped[0] == pytest.approx(-first[0])


def test_chunks_change_nothing(monkeypatch):
    rng = random.Random(4)
    a, b = [[rng.random() for _ in range(50)] for _ in range(2)]
    whole = stats.paired_bootstrap(a, b, seed=1, repetitions=300)
    monkeypatch.setattr(stats, "CHUNK_CELLS", 700)
    assert stats.paired_bootstrap(a, b, seed=1, repetitions=300) == pytest.approx(whole, abs=1e-12)


def test_bootstrap_memory_is_bounded():
    a, b = np.random.default_rng(1).random((2, 20_000)).tolist()
    tracemalloc.start()
    stats.paired_bootstrap(a, b, seed=1, repetitions=500)  # 80 MB if drawn at once
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000


def test_bootstrap_edges():
    assert stats.paired_bootstrap([1.0], [0.0], seed=1) == (1.0, 1.0, 1.0)
    assert stats.paired_bootstrap([0.5] * 9, [0.5] * 9, seed=1) == (0.0, 0.0, 0.0)
    for a, b in [([], []), ([1.0], [1.0, 0.0])]:
        with pytest.raises(ValueError):
            stats.paired_bootstrap(a, b, seed=1)
        with pytest.raises(ValueError):
            stats.clustered_bootstrap([a], [b], seed=1)
    with pytest.raises(ValueError):
        stats.clustered_bootstrap([], [[1.0]], seed=1)
    with pytest.raises(ValueError):
        stats.paired_bootstrap([1.0], [0.0], seed=1, repetitions=0)


def test_clustered_bootstrap_of_one_run_is_the_paired_one():
    a, b = (side[0].tolist() for side in paired_data_sets(np.random.default_rng(6), 250, 1, 0.2, 0.1))
    clustered = stats.clustered_bootstrap([b], [a], seed=1)
    paired = stats.paired_bootstrap(b, a, seed=1)
    assert clustered == stats.clustered_bootstrap([b], [a], seed=1)
    assert clustered[:3] == pytest.approx(paired, abs=0.01)


def test_clustered_bootstrap_sees_the_runs():
    """Runs that differ by 4 points: resampling questions alone covers the truth far too seldom, three runs cover it."""
    rng, once, thrice = np.random.default_rng(9), 0, 0
    for i in range(400):
        difficulty = rng.uniform(0.2, 0.8, size=300)
        a, b = (
            [(rng.random(300) < difficulty + rng.normal(0, 0.04)).astype(float).tolist() for _ in range(3)]
            for _ in range(2)
        )
        low, high = stats.clustered_bootstrap(a[:1], b[:1], seed=i, repetitions=400)[1:3]
        once += low <= 0 <= high
        low, high = stats.clustered_bootstrap(a, b, seed=i, repetitions=400)[1:3]
        thrice += low <= 0 <= high
    assert once < 340
    assert thrice >= 370


def test_clustered_bootstrap_takes_unequal_numbers_of_runs():
    difference, low, high, p_value = stats.clustered_bootstrap([[1, 0, 1, 1]], [[0, 0, 1, 1], [1, 0, 0, 0]], seed=1)
    assert difference == pytest.approx(0.75 - 0.375)
    assert -1 <= low <= difference <= high <= 1
    assert 0 < p_value <= 1
