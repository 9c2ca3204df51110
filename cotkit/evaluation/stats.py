"""Intervals, paired tests and sampling metrics for accuracies on a fixed set of questions.

Functions take lists and return floats, never NaN. Scores are per question and in [0, 1]: right or wrong, or the mean
over several samples of the question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from math import ceil, comb, fsum, log2, sqrt
from statistics import NormalDist, fmean
from typing import Literal

Verdict = Literal["better", "worse", "no difference shown", "inconclusive"]

ALPHA, POWER, CONFIDENCE = 0.05, 0.8, 0.95
WORTH = 0.05  # a difference that matters to a reader: five points, about what papers in this field claim
normal_quantile = NormalDist().inv_cdf
Z_95 = normal_quantile((1 + CONFIDENCE) / 2)


def wilson(successes: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """(low, high) of a share of `n` independent trials, 95 % unless another quantile `z` is given; (0.0, 1.0) when n is 0.

    Score interval of Wilson, JASA 22 (1927) 209-212. Unlike the normal interval it stays in [0, 1] and keeps its
    coverage near 0, near 1 and for small n. `n` may be fractional (see `clustered_wilson`).
    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    if n == 0:
        return 0.0, 1.0
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


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """The level at which Holm's procedure tests each p-value, in input order.

    The i-th smallest of m is tested at alpha / (m - i), until one is not below its level; all later ones keep that level.
    A p-value is below its level exactly if its adjusted value is below `alpha`, so an interval at this level belongs to
    the adjusted verdict.
    """
    levels, level, rejecting = [0.0] * len(p_values), alpha, True
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if rejecting:
            level = alpha / (len(p_values) - rank)
            rejecting = p_values[index] < level
        levels[index] = level
    return levels


def mean_interval(values: Sequence[float], low: float, high: float) -> tuple[float, float, float]:
    """(mean, 95 % interval by Student's t) of values between `low` and `high`; of a single value, the whole range."""
    from scipy.stats import t

    mean = fmean(values)
    if len(values) == 1:
        return mean, low, high
    error = sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    half = float(t.isf((1 - CONFIDENCE) / 2, len(values) - 1)) * error
    return mean, max(low, mean - half), min(high, mean + half)


def power_factor(alpha: float) -> float:
    """How many standard errors a difference must have to be shown at `alpha` with a power of 0.8."""
    return normal_quantile(1 - alpha / 2) + normal_quantile(POWER)


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


def verdict(difference: float, p_adjusted: float, detectable: float) -> Verdict:
    """What a comparison shows, by a rule that was fixed before any result was seen.

    1. "better" or "worse", by the sign of the difference: `p_adjusted` is below 0.05.
    2. "inconclusive": otherwise, if `detectable` (see `minimum_detectable_difference`) is above `WORTH`. A difference
       that matters would often have been missed.
    3. "no difference shown": otherwise. A difference of `WORTH` would have been shown with a power of 0.8.
    """
    if p_adjusted < ALPHA:
        return "better" if difference > 0 else "worse"
    return "inconclusive" if detectable > WORTH else "no difference shown"
