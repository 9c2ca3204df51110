"""Intervals, paired tests and sampling metrics for accuracies measured on a fixed set of questions.

Plain lists in, plain floats out; no result is ever NaN. numpy and scipy are imported by the functions that use them.
Scores are per question and in [0, 1]: right or wrong, or the mean over several samples of one question.
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

CHUNK_CELLS = 1_000_000  # counts drawn at a time by a bootstrap: 8 MB of int64, whatever the number of questions
WORTH = 0.05  # the difference a reader is assumed to care about: five points, about what papers in this field claim


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of a share of `n` independent trials; (0.0, 1.0) when n is 0.

    Score interval of Wilson, JASA 22 (1927) 209-212: unlike the normal one it stays in [0, 1] and keeps its coverage
    near 0, near 1 and for small n. An effective number of trials (see `clustered_wilson`) need not be whole.
    Raises ValueError unless 0 <= successes <= n and 0 < confidence < 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    z = _normal_quantile((1 + _checked_share(confidence, "confidence")) / 2)
    if n == 0:
        return 0.0, 1.0
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At both ends the bound is exact; floating point would leave 1e-17 beyond it.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def clustered_wilson(mean: float, error: float, questions: int, trials: int) -> tuple[float, float]:
    """(low, high) of a mean over `trials` answers to fewer `questions`, with its clustered standard `error`.

    Wilson's interval for as many independent trials as would have that error, mean (1 - mean) / error^2: Korn and
    Graubard, Survey Methodology 24 (1998) 193-201, who use it with another interval. Samples of one question tell at
    least as much as one of them and at most as much as independent trials, so that number lies from `questions` to
    `trials`. With one sample a question it is Wilson's interval itself.
    """
    effective = mean * (1 - mean) / error**2 if error else trials if 0 < mean < 1 else questions
    effective = min(max(effective, questions), trials)
    return wilson(mean * effective, effective)


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided exact p-value that two systems are equally good, from the questions on which they differ.

    `fixed` questions only the second system solves, `broken` only the first. Under no difference each is a fair coin:
    McNemar, Psychometrika 12 (1947) 153-157, with the exact binomial in place of chi-squared. No such question: 1.0.
    """
    from scipy.stats import binomtest

    if fixed < 0 or broken < 0:
        raise ValueError(f"counts must not be negative: {fixed}, {broken}")
    return float(binomtest(fixed, fixed + broken, 0.5).pvalue) if fixed + broken else 1.0


def sign_flip_exact(differences: Sequence[int]) -> float:
    """Two-sided exact p-value that paired differences, in whole units (such as samples answered right), centre on 0.

    Under no difference each is as likely to have the other sign: Fisher's randomisation test (The Design of
    Experiments, 1935, section 21). Its distribution is the sum, over the distinct sizes v that occur m times, of
    v (2 Binomial(m, 1/2) - m); so it is computed whole, not sampled. Where all sizes are 1 it is McNemar's exact test.
    """
    import numpy as np
    from scipy.signal import convolve
    from scipy.stats import binom

    sizes = Counter(abs(value) for value in differences if value)
    if set(sizes) <= {1}:
        return mcnemar_exact(sum(value > 0 for value in differences), sum(value < 0 for value in differences))
    total = np.ones(1)  # total[i]: chance that the positive ones sum to i
    for size, count in sizes.items():
        part = np.zeros(size * count + 1)
        part[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        total = convolve(total, part)  # by whichever method is faster
    positive = sum(value for value in differences if value > 0)
    tail = min(positive, len(total) - 1 - positive)  # the distribution is symmetric
    return min(1.0, max(0.0, 2 * fsum(total[: tail + 1])))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in input order, controlling the chance of any false finding in the family.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65-70: the i-th smallest of m is multiplied by m - i (i from 0),
    then made monotone and capped at 1. An empty family gives an empty list.
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        _checked_share(p_values[index], "p-value", closed=True)
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], *, seed: int, repetitions: int = 10_000, confidence: float = 0.95
) -> tuple[float, float, float]:
    """(mean(a) - mean(b), low, high) by resampling questions; a[i] and b[i] are the scores of question i.

    The interval holds the central `confidence` of the resampled differences (percentile interval).
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3. Drawing n questions with replacement
    is drawing multinomial counts of the distinct differences, which is what is done: the same distribution, less work
    (three distinct values where scores are 0 or 1), and a result that does not depend on the order of the questions.
    Raises ValueError for no questions or lists of unequal length.
    """
    import numpy as np

    _check_paired(len(a), len(b))
    values, counts = np.unique(np.asarray(a, float) - np.asarray(b, float), return_counts=True)

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        return rng.multinomial(len(a), counts / len(a), size=size) @ values / len(a)

    low, high = _percentiles(_draws(draw, len(values), seed, repetitions), confidence)
    return fmean(a) - fmean(b), low, high


def clustered_bootstrap(
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    *,
    seed: int,
    repetitions: int = 10_000,
    confidence: float = 0.95,
) -> tuple[float, float, float, float]:
    """(difference, low, high, p) of methods trained with several seeds: a[s][i] is the score of question i in run s.

    Questions (shared by a and b) and runs (of a and of b, each on its own; the numbers of runs may differ) are
    resampled together: the pigeonhole bootstrap of Owen, Annals of Applied Statistics 1 (2007) 386-411. With one run
    each it is the paired bootstrap, which knows nothing of the variance between runs. Measured coverage of a 95 %
    interval, 300 questions, runs that deviate by 0, 2 and 5 points: one run .95 .91 .67, three runs 1.0 .98 .94.
    p is the smallest two-sided level at which the interval excludes 0, never below 2 / (repetitions + 1).
    Raises ValueError for no runs, no questions or runs of unequal length.
    """
    import numpy as np

    if not a or not b:
        raise ValueError("no runs to compare")
    n = len(a[0])
    for run in (*a, *b):
        _check_paired(len(run), n)
    scores = np.concatenate([np.asarray(a, float), np.asarray(b, float)])
    values, counts = np.unique(
        scores, axis=1, return_counts=True
    )  # as in paired_bootstrap: questions that all runs score alike

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        by_run = rng.multinomial(n, counts / n, size=size) @ values.T / n
        means = []
        for runs in (by_run[:, : len(a)], by_run[:, len(a) :]):
            count = runs.shape[1]
            means.append((runs * rng.multinomial(count, np.full(count, 1 / count), size=size)).sum(axis=1) / count)
        return means[0] - means[1]

    draws = _draws(draw, len(counts), seed, repetitions)
    low, high = _percentiles(draws, confidence)
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (repetitions + 1))
    return float(scores[: len(a)].mean() - scores[len(a) :].mean()), low, high, p_value


def avg_at_k(scores: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """(mean, standard error): scores[i] are the samples of question i; every question weighs the same.

    Raises ValueError for no questions or a question without samples. See `clustered_mean`.
    """
    if not scores or not all(scores):
        raise ValueError("avg@k needs at least one question and one sample of each")
    return clustered_mean(Counter(fmean(samples) for samples in scores))


def clustered_mean(means: Mapping[float, int]) -> tuple[float, float]:
    """(mean, standard error) of a score over questions; means[m] is how many questions have the mean m.

    The error is clustered by question (Miller, arXiv 2411.00640, section 2.2): samples of one question are not
    independent, question means are. For a single question it is 0.5, the largest deviation a score in [0, 1] can have.
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
    verdict of each sample. Tied winners are averaged. 0.0 when no sample has an answer.
    """
    votes = Counter(name for name in classes if name is not None)
    most = max(votes.values(), default=0)
    # Tied classes are of equal size, so the mean over their samples is the mean over the classes.
    winners = [right for name, right in zip(classes, correct, strict=True) if name is not None and votes[name] == most]
    return fmean(winners) if winners else 0.0


def minimum_detectable_difference(
    n_questions: int, discordance: float, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest difference in accuracy that McNemar's test on `n_questions` shows with the given power, in (0, 1].

    `discordance` is the share of questions on which exactly one system is right. Solves Connor, Biometrics 43 (1987)
    207-211, n d^2 = (z_alpha sqrt(discordance) + z_power sqrt(discordance - d^2))^2, for d (two-sided alpha). A
    difference cannot exceed the discordance, so where it would, d itself is taken for the discordance. No exact test
    is significant with fewer than 1 + log2(1 / alpha) discordant questions, all one way (6 at 0.05): d is never below
    that share.
    """
    _checked_share(discordance, "discordance", closed=True)
    z_alpha = _normal_quantile(1 - _checked_share(alpha, "alpha") / 2)
    z_power = _normal_quantile(_checked_share(power, "power"))
    root = n_questions + z_power**2 - z_alpha**2
    if n_questions < 1 or root < 0:
        return 1.0
    scale = n_questions + z_power**2
    shown = sqrt(discordance) * (z_alpha * sqrt(n_questions) + z_power * sqrt(root)) / scale
    if shown > discordance:
        shown = 1 - max(0.0, (sqrt(n_questions * root) - z_alpha * z_power) / scale) ** 2
    return min(1.0, max(shown, ceil(1 + log2(1 / alpha)) / n_questions))


def verdict(
    diff: float,
    low: float,
    high: float,
    p_adjusted: float,
    smallest: float,
    *,
    alpha: float = 0.05,
    worth: float = WORTH,
) -> Verdict:
    """What a comparison shows, by a rule fixed before looking.

    1. "better" (diff > 0) or "worse" (diff < 0): the adjusted p-value is below `alpha` and the interval [low, high]
       excludes 0 on that side; both, so that neither the test nor the bootstrap decides alone.
    2. "inconclusive": otherwise, when `smallest` (see `minimum_detectable_difference`) is above `worth`: a
       difference that matters would often have been missed too.
    3. "no difference shown": otherwise. A difference of `worth` would have been shown with the power asked for.
    """
    if p_adjusted < alpha and low > 0 and diff > 0:
        return "better"
    if p_adjusted < alpha and high < 0 and diff < 0:
        return "worse"
    return "inconclusive" if smallest > worth else "no difference shown"


def _draws(
    draw: Callable[[np.random.Generator, int], np.ndarray], cells: int, seed: int, repetitions: int
) -> np.ndarray:
    """`repetitions` draws; `cells` counts are held in memory for each."""
    import numpy as np

    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1, not {repetitions}")
    rng, step = np.random.default_rng(seed), max(1, CHUNK_CELLS // cells)
    return np.concatenate([draw(rng, min(step, repetitions - start)) for start in range(0, repetitions, step)])


def _percentiles(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    """The central `confidence` range of the draws."""
    import numpy as np

    tail = (1 - _checked_share(confidence, "confidence")) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _normal_quantile(share: float) -> float:
    return NormalDist().inv_cdf(share)


def _checked_share(value: float, name: str, *, closed: bool = False) -> float:
    if not (0 <= value <= 1 if closed else 0 < value < 1):
        raise ValueError(f"{name} must be {'in [0, 1]' if closed else 'between 0 and 1'}, not {value}")
    return value


def _check_paired(left: int, right: int) -> None:
    if left != right or not left:
        raise ValueError(f"needs the same questions on both sides and at least one: {left} and {right}")
