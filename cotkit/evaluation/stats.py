"""Intervals, paired tests and sampling metrics for accuracies on a fixed set of questions.

Functions take lists and return floats, never NaN. Scores are per question and in [0, 1]: right or wrong, or the mean
over several samples of the question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import ceil, comb, fsum, log2, sqrt
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Verdict = Literal["better", "worse", "no difference shown", "inconclusive"]

ALPHA, POWER, CONFIDENCE = 0.05, 0.8, 0.95
WORTH = 0.05  # a difference that matters to a reader: five points, about what papers in this field claim
CHUNK_CELLS = 1_000_000  # counts that a bootstrap draws at a time: 8 MB of int64
normal_quantile = NormalDist().inv_cdf


def wilson(successes: float, n: float) -> tuple[float, float]:
    """(low, high), the 95 % interval of a share of `n` independent trials; (0.0, 1.0) when n is 0.

    Score interval of Wilson, JASA 22 (1927) 209-212. Unlike the normal interval it stays in [0, 1] and keeps its
    coverage near 0, near 1 and for small n. `n` may be fractional (see `clustered_wilson`).
    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile((1 + CONFIDENCE) / 2)
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # The bounds at 0 and n are exact; floating point would be off by 1e-17.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def clustered_wilson(mean: float, error: float, questions: int, trials: int) -> tuple[float, float]:
    """(low, high) of a mean over `trials` answers to fewer `questions`, with its clustered standard `error`.

    Wilson's interval for the number of independent trials that would have this error, mean (1 - mean) / error^2. Korn
    and Graubard, Survey Methodology 24 (1998) 193-201, use that number with another interval. It is kept between
    `questions` and `trials`, since samples of a question are worth at least one trial and at most one each. With one
    sample per question this is Wilson's interval.
    """
    effective = mean * (1 - mean) / error**2 if error else trials if 0 < mean < 1 else questions
    effective = min(max(effective, questions), trials)
    return wilson(mean * effective, effective)


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided exact p-value of no difference between two systems; 1.0 where they differ on no question.

    `wins` questions are solved by the first system alone, `losses` by the second alone. Without a difference each is a
    fair coin: McNemar, Psychometrika 12 (1947) 153-157, with the exact binomial in place of chi-squared.
    """
    from scipy.stats import binomtest

    if wins < 0 or losses < 0:
        raise ValueError(f"counts must not be negative: {wins}, {losses}")
    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def sign_flip_exact(differences: Sequence[int]) -> float:
    """Two-sided exact p-value of paired differences that centre on 0, in whole units such as correct samples.

    Without a difference each sign is equally likely: Fisher's randomisation test (The Design of Experiments, 1935,
    section 21). The sum is distributed as the sum, over the distinct sizes v that occur m times, of
    v (2 Binomial(m, 1/2) - m), so it is computed exactly, not sampled. Where all sizes are 1 it is McNemar's test.
    """
    import numpy as np
    from scipy.signal import convolve
    from scipy.stats import binom

    sizes = Counter(abs(value) for value in differences if value)
    if set(sizes) <= {1}:
        return mcnemar_exact(sum(value > 0 for value in differences), sum(value < 0 for value in differences))
    total = np.ones(1)  # total[i]: chance that the positive differences sum to i
    for size, count in sizes.items():
        part = np.zeros(size * count + 1)
        part[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        total = convolve(total, part)
    positive = sum(value for value in differences if value > 0)
    tail = min(positive, len(total) - 1 - positive)  # the distribution is symmetric
    return min(1.0, max(0.0, 2 * fsum(total[: tail + 1])))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in input order; they control the chance of any false finding in the family.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65-70: the i-th smallest of m is multiplied by m - i (i from 0),
    then made monotone and capped at 1. An empty family gives an empty list.
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if not 0 <= p_values[index] <= 1:
            raise ValueError(f"p-value must be in [0, 1], not {p_values[index]}")
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], *, seed: int, repetitions: int = 10_000
) -> tuple[float, float, float]:
    """(mean(a) - mean(b), low, high) by resampling questions; a[i] and b[i] are the scores of question i.

    The interval holds the central 95 % of the resampled differences (percentile interval): Efron and Tibshirani, An
    Introduction to the Bootstrap (1993), section 13.3. Multinomial counts of the distinct differences are drawn, which
    is the same distribution as n questions with replacement, takes less work (scores of 0 or 1 have three distinct
    differences), and does not depend on the order of the questions.
    Raises ValueError for no questions or lists of unequal length.
    """
    import numpy as np

    _check_same_questions(len(a), len(b))
    values, counts = np.unique(np.asarray(a, float) - np.asarray(b, float), return_counts=True)

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        return rng.multinomial(len(a), counts / len(a), size=size) @ values / len(a)

    return fmean(a) - fmean(b), *_central(_draws(draw, len(values), seed, repetitions))


def clustered_bootstrap(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, seed: int, repetitions: int = 10_000
) -> tuple[float, float, float, float]:
    """(difference, low, high, p) of methods trained with several seeds: a[s][i] is the score of question i in run s.

    Questions (shared by a and b) and runs (of a and of b separately; their numbers may differ) are resampled together:
    the pigeonhole bootstrap of Owen, Annals of Applied Statistics 1 (2007) 386-411. With one run each it is the paired
    bootstrap, which cannot see the variance between runs. Measured coverage of a 95 % interval with 300 questions and
    runs that deviate by 0, 2 and 5 points: one run .95 .91 .67, three runs 1.0 .98 .94.
    p is the smallest two-sided level at which the interval excludes 0, never below 2 / (repetitions + 1).
    Raises ValueError for no runs, no questions or runs of unequal length.
    """
    import numpy as np

    if not a or not b:
        raise ValueError("no runs to compare")
    n = len(a[0])
    for run in (*a, *b):
        _check_same_questions(len(run), n)
    scores = np.concatenate([np.asarray(a, float), np.asarray(b, float)])
    # As in paired_bootstrap, but of questions that all runs score alike.
    values, counts = np.unique(scores, axis=1, return_counts=True)

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        by_run = rng.multinomial(n, counts / n, size=size) @ values.T / n
        means = []
        for runs in (by_run[:, : len(a)], by_run[:, len(a) :]):
            count = runs.shape[1]
            means.append((runs * rng.multinomial(count, np.full(count, 1 / count), size=size)).sum(axis=1) / count)
        return means[0] - means[1]

    draws = _draws(draw, len(counts), seed, repetitions)
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (repetitions + 1))
    return float(scores[: len(a)].mean() - scores[len(a) :].mean()), *_central(draws), p_value


def clustered_mean(means: Mapping[float, int]) -> tuple[float, float]:
    """(mean, standard error) of a score over questions; means[m] is the number of questions with the mean m.

    The error is clustered by question (Miller, arXiv 2411.00640, section 2.2): question means are independent, samples
    of one question are not. For a single question it is 0.5, the largest deviation that a score in [0, 1] can have.
    """
    questions = sum(means.values())
    mean = fsum(value * count for value, count in means.items()) / questions
    if questions == 1:
        return mean, 0.5
    variance = fsum(count * (value - mean) ** 2 for value, count in means.items()) / (questions - 1)
    return mean, sqrt(variance / questions)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that at least one of k samples is right, from c right of n: 1 - C(n-c, k) / C(n, k).

    Chen et al., arXiv 2107.03374, equation 1. Its variance is large near n = k: report it for n >= 2k.
    Raises ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@{k} needs at least {k} samples (n={n}) and 0 <= c={c} <= n")
    return 1 - comb(n - c, k) / comb(n, k)


def maj_at_k(classes: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """Score in [0, 1] of the majority vote over one question's samples.

    `classes` are the grader's equivalence classes of the answers (None: no answer, which never wins), `correct` the
    verdict of each sample. Tied winners are averaged. The score is 0.0 when no sample has an answer.
    """
    votes = Counter(name for name in classes if name is not None)
    most = max(votes.values(), default=0)
    # Tied classes are of equal size, so the mean over their samples is the mean over the classes.
    winners = [right for name, right in zip(classes, correct, strict=True) if name is not None and votes[name] == most]
    return fmean(winners) if winners else 0.0


def minimum_detectable_difference(n_questions: int, discordance: float, alpha: float = ALPHA) -> float:
    """Smallest difference in accuracy that McNemar's test on `n_questions` shows with a power of 0.8, in (0, 1].

    `discordance` is the share of questions on which exactly one system is right. Solves Connor, Biometrics 43 (1987)
    207-211, n d^2 = (z_alpha sqrt(discordance) + z_power sqrt(discordance - d^2))^2, for d (two-sided alpha). A
    difference cannot exceed the discordance; where the solution would, d is used as the discordance. No exact test is
    significant with fewer than 1 + log2(1 / alpha) discordant questions, all in one direction (6 at 0.05), so d is
    never below that share. Raises ValueError for a discordance outside [0, 1] or an alpha outside (0, 1).
    """
    if not (0 <= discordance <= 1 and 0 < alpha < 1):
        raise ValueError(f"discordance must be in [0, 1] and alpha between 0 and 1, not {discordance} and {alpha}")
    z_alpha, z_power = normal_quantile(1 - alpha / 2), normal_quantile(POWER)
    root = n_questions + z_power**2 - z_alpha**2
    if n_questions < 1 or root < 0:
        return 1.0
    scale = n_questions + z_power**2
    shown = sqrt(discordance) * (z_alpha * sqrt(n_questions) + z_power * sqrt(root)) / scale
    if shown > discordance:
        shown = 1 - max(0.0, (sqrt(n_questions * root) - z_alpha * z_power) / scale) ** 2
    return min(1.0, max(shown, ceil(1 + log2(1 / alpha)) / n_questions))


def verdict(difference: float, low: float, high: float, p_adjusted: float, detectable: float) -> Verdict:
    """What a comparison shows, by a rule that was fixed before any result was seen.

    1. "better" or "worse": `p_adjusted` is below 0.05 and the interval [low, high] excludes 0 on the side of the
       difference. Test and bootstrap must agree.
    2. "inconclusive": otherwise, if `detectable` (see `minimum_detectable_difference`) is above `WORTH`. A difference
       that matters would often have been missed.
    3. "no difference shown": otherwise. A difference of `WORTH` would have been shown with a power of 0.8.
    """
    if p_adjusted < ALPHA and low > 0 and difference > 0:
        return "better"
    if p_adjusted < ALPHA and high < 0 and difference < 0:
        return "worse"
    return "inconclusive" if detectable > WORTH else "no difference shown"


def _draws(
    draw: Callable[[np.random.Generator, int], np.ndarray], cells: int, seed: int, repetitions: int
) -> np.ndarray:
    """`repetitions` draws; each holds `cells` counts in memory."""
    import numpy as np

    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1, not {repetitions}")
    rng, step = np.random.default_rng(seed), max(1, CHUNK_CELLS // cells)
    return np.concatenate([draw(rng, min(step, repetitions - start)) for start in range(0, repetitions, step)])


def _central(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of the draws."""
    import numpy as np

    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _check_same_questions(left: int, right: int) -> None:
    if left != right or not left:
        raise ValueError(f"needs the same questions on both sides and at least one: {left} and {right}")
