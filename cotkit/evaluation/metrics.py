"""The two outputs of score.py: a record per item, and a summary that is added up question by question.

Memory holds the samples of one question and some counters, so files of any length can be scored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

from cotkit.core.datasets import AnswerKind, kind_of
from cotkit.core.finish_reasons import canonical, is_failed
from cotkit.core.jsonl import Row
from cotkit.equations.checker import find_steps
from cotkit.evaluation import stats
from cotkit.grading.grader import VERDICTS, Grade
from cotkit.grading.voting import answer_classes

SCHEMA = 3  # of summaries; another number is refused

CORRECT = "the gold answer"  # the class of all correct answers in a vote; wrong answers are in classes "answer ..."


def score_row(row: Row, grade: Grade, protocol: str, critic: float | None = None) -> Row:
    """One per-item record. Words are separated by white space; the original protocol counts those of the complete text.

    `steps` counts the equations up to the answer that can be checked, `steps_right` the true ones.
    """
    end = len(row["response"]) if protocol == "original" else grade.end
    reasoning = row["response"][:end]
    steps = find_steps(reasoning)
    return {
        "id": row["id"],
        "sample": row["sample"],
        "extracted": grade.extracted,
        "verdict": grade.verdict,
        "words": len(row["response"].split()),
        "words_to_answer": len(reasoning.split()),
        "critic": critic,
        "finish_reason": row["finish_reason"],
        "completion_tokens": row.get("completion_tokens"),
        "steps": len(steps),
        "steps_right": sum(step.holds for step in steps),
    }


def tokens_to_answer(score: Row) -> float | None:
    """Completion tokens of a prediction up to the end of its answer; None if it is missing or its tokens are unknown.

    Engines count the tokens of complete texts, so text beyond the answer takes away its share of the words.
    """
    tokens, reason = score.get("completion_tokens"), score.get("finish_reason", "unknown")
    if tokens is None or reason == "missing" or is_failed(reason):
        return None
    return tokens * score["words_to_answer"] / score["words"] if score["words"] else float(tokens)


@dataclass
class Accuracy:
    """Counts questions by how many of their `samples` are correct; accuracy, avg@k and pass@k need nothing else."""

    samples: int
    questions: Counter[int] = field(default_factory=Counter)

    def describe(self) -> Row:
        """The share of correct answers and its 95 % interval."""
        total = self.questions.total()
        mean, error = self.mean()
        low, high = stats.clustered_wilson(mean, error, total, total * self.samples)
        return {"accuracy": mean, "accuracy_low": low, "accuracy_high": high}

    def mean(self) -> tuple[float, float]:
        """(mean, standard error), clustered by question."""
        return stats.clustered_mean({right / self.samples: number for right, number in self.questions.items()})

    def pass_at(self, k: int) -> float:
        """Unbiased pass@k, averaged over questions."""
        chances = (number * stats.pass_at_k(self.samples, right, k) for right, number in sorted(self.questions.items()))
        return sum(chances) / self.questions.total()


class Strata:
    """Finds the groups of a problem: MATH's level and subject, and the quartile of its solution's length in words."""

    def __init__(self, problems: Iterable[Row]) -> None:
        counts = Counter(length for problem in problems if (length := _solution_words(problem)))
        lengths = sorted(counts)
        cumulative = list(accumulate(counts[length] for length in lengths))
        quarters = (counts.total() * quarter // 4 for quarter in (1, 2, 3))
        self._bounds = sorted({lengths[bisect_right(cumulative, quarter)] for quarter in quarters}) if lengths else []

    def of(self, problem: Row) -> dict[str, str]:
        """Kind of group -> name of the problem's group. Sorted names are in the order in which to show them."""
        groups = {kind: str(problem[kind]) for kind in ("level", "subject") if kind in problem}
        length = _solution_words(problem)
        if length and self._bounds:
            index = bisect_right(self._bounds, length)
            low = self._bounds[index - 1] if index else 1
            high = f"to {self._bounds[index] - 1}" if index < len(self._bounds) else "and more"
            groups["solution_length"] = f"{index + 1}: {low} {high} words"
        return groups


def _solution_words(problem: Row) -> int:
    return len(problem["solution"].split())


def vote(scores: list[Row], kind: AnswerKind) -> float:
    """maj@k of one question. Equivalent answers, by the grader's rules, are one class; so are all correct answers."""
    wrong = answer_classes(
        (None if score["verdict"] in ("correct", "no_answer", "truncated") else score["extracted"] for score in scores),
        kind,
    )
    classes = [
        CORRECT if score["verdict"] == "correct" else None if name is None else f"answer {name}"
        for score, name in zip(scores, wrong, strict=True)
    ]
    return stats.maj_at_k(classes, [score["verdict"] == "correct" for score in scores])


class ScoreTally:
    """Adds up the summary, one question at a time."""

    def __init__(self, dataset: str, protocol: str, samples: int, strata: Strata) -> None:
        self.dataset, self.protocol, self.samples, self._strata = dataset, protocol, samples, strata
        # The original protocol has no equivalence of wrong answers, so it has no majority.
        self.has_votes = samples > 1 and protocol == "default"
        self.accuracy = Accuracy(samples)
        self.groups: dict[str, dict[str, Accuracy]] = defaultdict(lambda: defaultdict(partial(Accuracy, samples)))
        self.verdicts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.votes = 0.0

    def add(self, problem: Row, scores: list[Row]) -> None:
        """Adds all samples of one question."""
        right = sum(score["verdict"] == "correct" for score in scores)
        self.accuracy.questions[right] += 1
        for kind, name in self._strata.of(problem).items():
            self.groups[kind][name].questions[right] += 1
        if self.has_votes:
            self.votes += vote(scores, kind_of(problem, problem["id"]))
        for score in scores:
            self._add_item(score)

    def _add_item(self, score: Row) -> None:
        self.verdicts[score["verdict"]] += 1
        self.reasons[canonical(score["finish_reason"]) or score["finish_reason"]] += 1
        if score["finish_reason"] == "missing" or is_failed(score["finish_reason"]):
            return
        self.sums.update({key: score[key] for key in ("words", "words_to_answer", "steps", "steps_right")})
        self.sums.update(runaway=score["words"] > score["words_to_answer"], with_steps=score["steps"] > 0)
        if score["completion_tokens"] is not None:
            self.sums.update(tokens=score["completion_tokens"], with_tokens=1)

    def summary(self) -> Row:
        """All figures. Shares are from 0 to 1; means of words and tokens are over the existing predictions."""
        total, sums = self.verdicts.total(), self.sums
        missing = self.reasons["missing"] + self.reasons["error"]
        made = total - missing
        ended = made - self.reasons["unknown"]  # those of which the engine said how they ended
        return {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "protocol": self.protocol,
            "n": total,
            "questions": self.accuracy.questions.total(),
            "samples": self.samples,
            "missing": missing,
            "failed": self.reasons["error"],
            **self.accuracy.describe(),
            "at_k": self._at_k(),
            "verdicts": {verdict: self.verdicts[verdict] for verdict in VERDICTS},
            "finish_reasons": dict(sorted(self.reasons.items())),
            "ended_with_eos": _share(self.reasons["stop"], ended),
            "stopped_at_answer": _share(self.reasons["answer"], ended),
            "looped": _share(self.reasons["loop"], ended),
            "truncated": _share(self.reasons["length"], ended),
            "word_count": _share(sums["words"], made),
            "words_to_answer": _share(sums["words_to_answer"], made),
            "runaway_text": _share(sums["runaway"], made),
            "runaway_words": _share(sums["words"] - sums["words_to_answer"], sums["words"]),
            "completion_tokens": _share(sums["tokens"], sums["with_tokens"]),
            "steps": {
                "outputs": sums["with_steps"],
                "checked": sums["steps"],
                "right": sums["steps_right"],
                "share_right": _share(sums["steps_right"], sums["steps"]),
            },
            "strata": {
                kind: {
                    name: {"questions": group.questions.total(), **group.describe()}
                    for name, group in sorted(groups.items())
                }
                for kind, groups in sorted(self.groups.items())
            },
        }

    def _at_k(self) -> Row | None:
        """avg@k, maj@k, and pass@k for k up to half the samples (above, it varies too much); None for one sample."""
        if self.samples == 1:
            return None
        mean, error = self.accuracy.mean()
        powers = [2**power for power in range(self.samples.bit_length()) if 2 ** (power + 1) <= self.samples]
        return {
            "k": self.samples,
            "avg": mean,
            "avg_error": error,
            "pass": {str(k): self.accuracy.pass_at(k) for k in powers},
            "maj": self.votes / self.accuracy.questions.total() if self.has_votes else None,
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def one_line(summary: Row) -> str:
    """The summary for the terminal."""
    counts = ", ".join(f"{name} {number}" for name, number in summary["verdicts"].items() if number)
    failed = f", {summary['failed']} of them failed requests" if summary["failed"] else ""
    missing = f", {summary['missing']} without a prediction (counted as wrong{failed})" if summary["missing"] else ""
    return (
        f"{summary['dataset']}: accuracy {summary['accuracy']:.3f} "
        f"[{summary['accuracy_low']:.3f}, {summary['accuracy_high']:.3f}] of {summary['n']}; words "
        f"{summary['word_count'] or 0:.0f}, to the answer {summary['words_to_answer'] or 0:.0f}; {counts}{missing}"
    )
