"""Several samples of a question, the minimum detectable difference, and the verdict."""

import math
from collections import Counter
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from scipy.stats import binom

from cotkit.evaluation import stats


def test_clustered_mean():
    assert stats.clustered_mean({1.0: 1, 0.0: 1, 0.5: 1}) == pytest.approx((0.5, 0.5 / math.sqrt(3)), abs=1e-12)
    assert stats.clustered_mean({1.0: 1}) == (1.0, 0.5)


def test_the_error_of_a_clustered_mean_is_its_true_spread():
    rng, means, errors = np.random.default_rng(8), [], []
    for _ in range(1000):
        scores = rng.random((40, 16)) < rng.beta(0.6, 0.9, size=(40, 1))
        mean, error = stats.clustered_mean(Counter(scores.mean(axis=1).tolist()))
        means.append(mean)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.08)


@pytest.mark.parametrize("n, c", list(product([4, 7], range(5))))
def test_pass_at_k_is_the_mean_over_subsets(n, c):
    for k in range(1, n + 1):
        chosen = [any(sample < c for sample in subset) for subset in combinations(range(n), k)]
        assert stats.pass_at_k(n, c, k) == pytest.approx(np.mean(chosen), abs=1e-12)


def test_pass_at_k_edges():
    assert stats.pass_at_k(200, 0, 100) == 0.0 and stats.pass_at_k(200, 101, 100) == 1.0
    assert stats.pass_at_k(10, 3, 1) == pytest.approx(0.3, abs=1e-12)
    # Against the running product of Chen et al., arXiv 2107.03374, figure 3.
    assert stats.pass_at_k(200, 13, 10) == pytest.approx(1 - np.prod(1 - 10 / np.arange(188, 201)), abs=1e-9)
    for n, c, k in [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)]:
        with pytest.raises(ValueError):
            stats.pass_at_k(n, c, k)


@pytest.mark.parametrize(
    "classes, correct, expected",
    [
        (["18", "18", "7"], [True, True, False], 1.0),
        (["7", "18", "7"], [False, True, False], 0.0),
        (["18", "7"], [True, False], 0.5),
        (["a", "b", "c"], [False, True, False], 1 / 3),
        (["a", "a", "b", "b", "c"], [True, True, False, False, False], 0.5),
        ([None, None, "18"], [False, False, True], 1.0),
        ([None, None], [False, False], 0.0),
        ([0, 0, 1], [True, True, False], 1.0),
        ([], [], 0.0),
    ],
)
def test_maj_at_k(classes, correct, expected):
    assert stats.maj_at_k(classes, correct) == pytest.approx(expected)


def test_maj_at_k_needs_a_verdict_for_each_sample():
    with pytest.raises(ValueError):
        stats.maj_at_k(["a", "b"], [True])


@pytest.mark.parametrize("n, discordance", [(1319, 0.26), (500, 0.25), (200, 0.4), (5000, 0.1)])
def test_minimum_detectable_difference_solves_connors_formula(n, discordance):
    d = stats.minimum_detectable_difference(n, discordance)
    needed = (1.959963984540054 * math.sqrt(discordance) + 0.8416212335729143 * math.sqrt(discordance - d * d)) ** 2
    assert needed / d**2 == pytest.approx(n, rel=1e-9)


@pytest.mark.parametrize("n, discordance", [(1319, 0.26), (500, 0.25), (60, 0.05)])
def test_minimum_detectable_difference_has_the_power_it_claims(n, discordance):
    """Power of the exact test, summed over all outcomes: it is conservative, so a little under the 80 % asked for."""
    d = stats.minimum_detectable_difference(n, discordance)
    discordance = max(discordance, d)
    power = 0.0
    for pairs in range(n + 1):
        weight = binom.pmf(pairs, n, discordance)
        if weight < 1e-9:
            continue
        critical = binom.ppf(0.025, pairs, 0.5)  # the largest tail of at most 2.5 %
        critical = critical if binom.cdf(critical, pairs, 0.5) <= 0.025 else critical - 1
        power += weight * binom.cdf(critical, pairs, (discordance - d) / (2 * discordance))
    assert 0.72 <= power <= 0.83


def test_minimum_detectable_difference_of_the_usual_test_sets():
    """The ranges to expect: gsm8k 3 to 4 points, math500 5 to 7, amc23 17 to 24, aime 20 to 28."""
    for n, low, high in [(1319, 0.03, 0.04), (500, 0.05, 0.07), (40, 0.17, 0.24), (30, 0.20, 0.28)]:
        assert all(low <= stats.minimum_detectable_difference(n, share) <= high for share in (0.17, 0.24))


def test_minimum_detectable_difference_edges():
    shares = [stats.minimum_detectable_difference(n, 0.25) for n in range(3000)]
    assert all(0 < later <= earlier <= 1 for earlier, later in pairwise(shares))
    assert stats.minimum_detectable_difference(30, 0.0) == 6 / 30
    assert stats.minimum_detectable_difference(0, 0.2) == 1.0
    for kwargs in ({"discordance": 1.2}, {"discordance": 0.2, "alpha": 1.0}, {"discordance": 0.2, "alpha": 0.0}):
        with pytest.raises(ValueError):
            stats.minimum_detectable_difference(100, **kwargs)


@pytest.mark.parametrize(
    "difference, p, detectable, expected",
    [
        (0.06, 0.01, 0.04, "better"),
        (-0.06, 0.01, 0.04, "worse"),
        (0.03, 0.07, 0.04, "no difference shown"),
        (0.0, 1.0, 0.04, "no difference shown"),
        (0.0, 1.0, 0.25, "inconclusive"),
        (0.1, 0.4, 0.25, "inconclusive"),
        (0.4, 0.001, 0.25, "better"),
        (-0.4, 0.001, 0.25, "worse"),
    ],
)
def test_verdict(difference, p, detectable, expected):
    assert stats.verdict(difference, p, detectable) == expected
