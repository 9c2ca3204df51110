"""How often intervals hold the truth and tests reject it falsely, where the truth is planted. Prints the tables of
docs/COMPARISON.md.

    python scripts/dev/study_intervals.py
    python scripts/dev/study_intervals.py --draws 2000

First table: one sample per question. Of all questions a share is discordant (exactly one of two systems is right), and the
first system wins a share of these. Second table: several samples or several training runs, whose true accuracies differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from cotkit.core import cli
from cotkit.core.markdown import Table
from cotkit.evaluation.paired import OneSample, SeveralSamples, mean_of_runs
from cotkit.evaluation.stats import ALPHA

QUESTIONS = (12, 30, 40, 300, 1319)
DISCORDANT = (0.02, 0.05, 0.1, 0.2, 0.4)
WINS = (0.5, 0.75, 1.0)  # share of the discordant questions that the first system wins
PER_CENT = "{:.1f}".format


def percentile_bootstrap(wins: int, losses: int, questions: int, rng: np.random.Generator) -> tuple[float, float]:
    """The interval that earlier versions reported."""
    drawn = rng.multinomial(questions, np.array([wins, losses, questions - wins - losses]) / questions, size=1000)
    return tuple(np.quantile((drawn[:, 0] - drawn[:, 1]) / questions, [ALPHA / 2, 1 - ALPHA / 2]))


def one_sample(draws: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """For each size and discordance: the lowest and highest coverage over `WINS`, and the false rejections."""

    @cache
    def figures(wins: int, losses: int, questions: int) -> tuple[tuple[float, float], ...]:
        found = OneSample(wins, losses, questions)
        bootstrap = percentile_bootstrap(wins, losses, questions, rng)
        return found.interval(ALPHA), found.verdict_interval(ALPHA), bootstrap, (found.p, 0.0)

    for questions in QUESTIONS:
        for discordant in DISCORDANT:
            coverage: list[list[float]] = [[], [], []]
            for share in WINS:
                won, lost = discordant * share, discordant * (1 - share)
                drawn = rng.multinomial(questions, [won, lost, 1 - discordant], size=draws)
                found = [figures(int(row[0]), int(row[1]), questions) for row in drawn]
                for at, hits in enumerate(coverage):
                    hits.append(sum(row[at][0] <= won - lost <= row[at][1] for row in found) / draws)
                if share == 0.5:
                    rejected = sum(row[3][0] < ALPHA for row in found) / draws
            cells = (f"{PER_CENT(100 * min(hits))} to {PER_CENT(100 * max(hits))}" for hits in coverage)
            yield [f"{questions}", f"{100 * discordant:.0f} %", *cells, PER_CENT(100 * rejected)]


Scores = Callable[[np.random.Generator, int], np.ndarray]


def runs_of(count: int, deviation: float, samples: int = 1, easy: float = 2.0, hard: float = 4.0) -> Scores:
    """Scores of `count` runs on questions of one difficulty each; a run's accuracy deviates from the method's."""

    def draw(rng: np.random.Generator, questions: int) -> np.ndarray:
        difficulty = rng.beta(easy, hard, size=questions)
        chance = np.clip(difficulty[None, :] + rng.normal(0, deviation, size=(count, 1)), 0, 1)
        return rng.binomial(samples, chance) / samples

    return draw


SETTINGS = {
    "1 run, 16 samples": (runs_of(1, 0.0, 16), 1 / 3),
    "1 run, 16 samples, hard": (runs_of(1, 0.0, 16, 0.1, 4.0), 0.1 / 4.1),
    "2 runs": (runs_of(2, 0.0), 1 / 3),
    "2 runs, deviation 2 points": (runs_of(2, 0.02), 1 / 3),
    "3 runs, deviation 2 points": (runs_of(3, 0.02), 1 / 3),
    "3 runs, deviation 5 points": (runs_of(3, 0.05), 1 / 3),
    "3 runs, accuracy 2 %": (runs_of(3, 0.0, 1, 0.1, 4.9), 0.02),
}


def several_samples(draws: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """For each setting: coverage of the difference of two equal methods, of an accuracy, and false rejections."""
    for name, (scores, truth) in SETTINGS.items():
        for questions in (12, 30, 300):
            covered = mean_covered = rejected = 0
            for _ in range(draws):
                # Both methods answer the same questions, so both are drawn from one state of difficulties.
                state = rng.integers(2**63)
                a, b = (_same_questions(scores, state, rng, questions) for _ in range(2))
                found = SeveralSamples(a, b)
                low, high = found.interval(ALPHA)
                covered += low <= 0 <= high
                rejected += found.p < ALPHA
                _, low, high = mean_of_runs(a, ALPHA)
                mean_covered += low <= truth <= high
            difference, mean, false = (PER_CENT(100 * count / draws) for count in (covered, mean_covered, rejected))
            yield [name, str(questions), difference, mean if len(a) > 1 else "", false]


def _same_questions(scores: Scores, state: int, rng: np.random.Generator, questions: int) -> list[list[float]]:
    class Mixed:
        """Difficulties come from `state`; everything else from `rng`."""

        beta = np.random.default_rng(state).beta
        normal, binomial = rng.normal, rng.binomial

    return scores(Mixed, questions).tolist()


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "seed")
    parser.add_argument(
        "--draws", type=cli.positive_int, default=4000, metavar="N", help="data sets per row (default 4000)"
    )
    args = parser.parse(argv)
    rng = np.random.default_rng(args.seed)
    header = ["questions", "discordant", "Tango's interval", "verdict's interval", "bootstrap", "McNemar rejects"]
    print("\n".join(Table(header, list(one_sample(args.draws, rng))).lines()), end="\n\n")
    header = ["scores", "questions", "difference", "accuracy", "t rejects"]
    print("\n".join(Table(header, list(several_samples(args.draws // 4, rng))).lines()))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
