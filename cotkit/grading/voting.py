"""Votes over several answers to one question: equivalent answers, by the grader's rules, count as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from cotkit.core.datasets import AnswerKind
from cotkit.grading.grader import equivalent


def answer_classes(answers: Iterable[str | None], kind: AnswerKind) -> list[str | None]:
    """For each answer the first one of the list that is equivalent to it. None, for no answer, stays None."""
    classes: list[str | None] = []
    known: list[str] = []
    for answer in answers:
        if answer is None:
            classes.append(None)
            continue
        same = next((name for name in known if equivalent(name, answer, kind)), None)
        if same is None:
            known.append(same := answer)
        classes.append(same)
    return classes


def winner(classes: Sequence[str | None]) -> tuple[str, int] | None:
    """The class with the most votes, and how many it has; None without an answer, and for a tie."""
    votes = Counter(name for name in classes if name is not None).most_common(2)
    if not votes or (len(votes) == 2 and votes[0][1] == votes[1][1]):
        return None
    return votes[0]
