"""The difference in accuracy of two systems on the same questions: estimate, test, and intervals at any level.

With one run and one sample per question only two counts matter: the wins and the losses (`OneSample`). Several samples
or several training runs give each question a mean (`SeveralSamples`). Both offer the same figures:

    difference          mean(a) - mean(b)
    p                   two-sided, of no difference
    interval(alpha)     at the level 1 - alpha, the best estimate of where the difference lies
    verdict_interval(alpha)   excludes 0 exactly if p < alpha
    detectable(alpha)   the smallest difference that such a test shows with a power of 0.8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Protocol

from cotkit.evaluation.stats import mcnemar_exact, minimum_detectable_difference, normal_quantile, power_factor, wilson

if TYPE_CHECKING:
    import numpy as np

Interval = tuple[float, float]


class PairedDifference(Protocol):
    """What `OneSample` and `SeveralSamples` offer."""

    test: str
    interval_name: str

    @property
    def difference(self) -> float: ...
    @property
    def p(self) -> float: ...
    def interval(self, alpha: float) -> Interval: ...
    def verdict_interval(self, alpha: float) -> Interval: ...
    def detectable(self, alpha: float) -> float: ...


@dataclass(frozen=True)
class OneSample:
    """`wins` of `questions` are solved by the first system alone, `losses` by the second alone."""

    wins: int
    losses: int
    questions: int
    test = "McNemar's exact test"
    interval_name = "Tango's score interval"

    def __post_init__(self) -> None:
        if min(self.wins, self.losses) < 0 or not 0 < self.questions >= self.wins + self.losses:
            raise ValueError(f"{self.wins} wins and {self.losses} losses on {self.questions} questions")

    @property
    def difference(self) -> float:
        return (self.wins - self.losses) / self.questions

    @property
    def p(self) -> float:
        return mcnemar_exact(self.wins, self.losses)

    def interval(self, alpha: float) -> Interval:
        """Tango's score interval: Statistics in Medicine 17 (1998) 891-908.

        All differences that a score test at level `alpha` does not reject. Unlike the bootstrap it keeps its coverage
        with few questions or few wins and losses, and has a width where there are none.
        """
        from scipy.optimize import brentq

        z = normal_quantile(1 - alpha / 2)

        def excess(delta: float) -> float:
            return self._score(delta) - z

        def excess_above(delta: float) -> float:
            return self._score(delta) + z

        low = -1.0 if excess(-1.0) <= 0 else brentq(excess, -1.0, self.difference)
        high = 1.0 if excess_above(1.0) >= 0 else brentq(excess_above, self.difference, 1.0)
        return float(low), float(high)

    def _score(self, delta: float) -> float:
        """Tango's statistic (equation 9) at the difference `delta`; it falls as `delta` grows."""
        n, wins, losses = self.questions, self.wins, self.losses
        away = wins - losses - n * delta
        if away == 0:
            return 0.0
        # The maximum-likelihood share of losses, if the difference were delta: the root of 2n q^2 + b q + c = 0.
        b = -wins - losses + (2 * n - wins + losses) * delta
        c = -losses * delta * (1 - delta)
        share = (sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        return away / sqrt(variance) if variance > 0 else float("inf") if away > 0 else float("-inf")

    def verdict_interval(self, alpha: float) -> Interval:
        """From the exact intervals that belong to McNemar's exact test, so that both say the same about 0.

        Among the questions with a win or a loss, the share of wins has the interval of Clopper and Pearson (Biometrika
        26 (1934) 404-413), which excludes 1/2 exactly if the test rejects. The share of such questions has Wilson's. The
        ends of the product are wider than `interval`.
        """
        from scipy.stats import binomtest

        found = self.wins + self.losses
        low, high = 0.0, 1.0
        if found:
            exact = binomtest(self.wins, found).proportion_ci(1 - alpha, method="exact")
            low, high = float(exact.low), float(exact.high)
        fewest, most = wilson(found, self.questions, normal_quantile(1 - alpha / 2))
        low, high = 2 * low - 1, 2 * high - 1
        return low * (most if low < 0 else fewest), high * (most if high > 0 else fewest)

    def detectable(self, alpha: float) -> float:
        return minimum_detectable_difference(self.questions, (self.wins + self.losses) / self.questions, alpha)


@dataclass(frozen=True)
class SeveralSamples:
    """a[s][i] is the score in [0, 1] of question i in run s of the first system; b the same of the second.

    The error of the difference has up to three parts: the questions, and the runs of each system. The part of the
    questions takes in two more questions, one with a win and one with a loss of typical size, as Bonett and Price do for
    one sample (Journal of Educational and Behavioral Statistics 37 (2012) 479-488); without them, two systems that agree
    everywhere would have an interval without width. The part of a system's runs is `runs_part`. Student's t has the degrees of freedom of Satterthwaite, Biometrics Bulletin
    2 (1946) 110-114. Test and interval come from the same estimate, so both say the same about 0.

    Raises ValueError for no runs, no questions, or runs of unequal length.
    """

    a: Sequence[Sequence[float]]
    b: Sequence[Sequence[float]]
    interval_name = "Student's t over questions and runs"
    test = "the same t"

    def __post_init__(self) -> None:
        lengths = {len(run) for run in (*self.a, *self.b)}
        if not self.a or not self.b or len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"needs runs on the same questions: {len(self.a)} and {len(self.b)} of lengths {lengths}")

    @cached_property
    def _estimate(self) -> tuple[float, float, float, float]:
        """(difference, centre of the intervals, standard error, degrees of freedom)"""
        import numpy as np

        sides = [np.asarray(side, float) for side in (self.a, self.b)]
        differences = sides[0].mean(axis=0) - sides[1].mean(axis=0)
        nonzero = differences[differences != 0]
        typical = sqrt((nonzero**2).mean()) if len(nonzero) else 1.0
        padded = np.append(differences, [typical, -typical])
        parts = [(padded.var(ddof=1) / len(padded), len(padded) - 1), *(runs_part(side) for side in sides)]
        variance = sum(part for part, _ in parts)
        freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts if part)
        return float(differences.mean()), float(padded.mean()), sqrt(variance), float(freedom)

    @property
    def difference(self) -> float:
        return self._estimate[0]

    @property
    def p(self) -> float:
        from scipy.stats import t

        _, centre, error, freedom = self._estimate
        return float(2 * t.sf(abs(centre) / error, freedom))

    def interval(self, alpha: float) -> Interval:
        from scipy.stats import t

        _, centre, error, freedom = self._estimate
        half = float(t.isf(alpha / 2, freedom)) * error
        return max(-1.0, centre - half), min(1.0, centre + half)

    verdict_interval = interval

    def detectable(self, alpha: float) -> float:
        return min(1.0, self._estimate[2] * power_factor(alpha))


def runs_part(scores: np.ndarray) -> tuple[float, int]:
    """(variance of the mean over runs that is due to the runs, its degrees of freedom); scores[s][i].

    (0, 1) for a single run: it says nothing about another one. The variance of the runs' means holds a part that is due to
    the questions too. It is not taken out, since with two or three runs that would leave too little too often.
    """
    runs = len(scores)
    return (float(scores.mean(axis=1).var(ddof=1)) / runs, runs - 1) if runs > 1 else (0.0, 1)


def mean_of_runs(scores: Sequence[Sequence[float]], alpha: float) -> tuple[float, float, float]:
    """(mean, low, high) of the accuracy of a system with several runs; scores[s][i] as in `SeveralSamples`.

    Wilson's interval, with the number of independent trials that would have the same error (see `clustered_wilson` in
    stats.py) and Student's t in place of the normal quantile. Where all questions score alike, each counts as one trial.
    """
    import numpy as np
    from scipy.stats import t

    values = np.asarray(scores, float)
    runs, questions = values.shape
    mean = float(values.mean())
    by_question = float(values.mean(axis=0).var(ddof=1)) / questions if questions > 1 else 0.25
    by_run, degrees = runs_part(values)
    variance = by_question + by_run
    if not variance or mean in (0.0, 1.0):
        return mean, *wilson(mean * questions, questions, normal_quantile(1 - alpha / 2))
    freedom = variance**2 / (by_question**2 / max(questions - 1, 1) + by_run**2 / degrees)
    trials = min(mean * (1 - mean) / variance, runs * questions)
    return mean, *wilson(mean * trials, trials, float(t.isf(alpha / 2, freedom)))
