"""Grades responses: finds the final answer (extraction.py) and compares it with the gold answer (equivalence.py).

Only comparisons that need computer algebra go to worker processes, which can be killed (worker_pool.py).
docs/GRADING.md gives the conventions and the reason for each.
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from cotkit.core.datasets import AnswerKind
from cotkit.core.finish_reasons import is_looped, is_truncated
from cotkit.grading.equivalence import Decision, compare, compare_numbers, gold_problem
from cotkit.grading.extraction import Extraction, extract
from cotkit.grading.normalize import plain_number

if TYPE_CHECKING:
    from concurrent.futures import Future

    from cotkit.grading.worker_pool import GraderPool

VERDICTS = ("correct", "wrong", "no_answer", "truncated", "grader_timeout", "gold_unparsable")

MAX_WAITING = 1024  # grades that wait for the worker of an earlier item; bounds the memory of a stream
MAX_PLAIN = 40  # characters of a response that may be a plain number


@dataclass(frozen=True, slots=True)
class Item:
    """One response and its gold answer. `finish_reason` is the engine's, in its own spelling (core/finish_reasons.py)."""

    id: str
    kind: AnswerKind
    gold: str
    response: str
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one item: the extracted answer, how it was found, the rule that decided, where the answer ends."""

    id: str
    verdict: str
    extracted: str | None
    how: str
    rule: str
    end: int


@dataclass(frozen=True, slots=True)
class Task:
    """A comparison for a worker: the grade without its verdict, and (gold, answer, kind or protocol)."""

    template: Grade
    question: tuple[str, str, str]
    two_verdicts: bool = False  # a protocol in which a time-out is wrong

    def grade(self, outcome: Decision) -> Grade:
        verdict = "wrong" if self.two_verdicts and outcome.verdict != "correct" else outcome.verdict
        return replace(self.template, verdict=verdict, rule=outcome.rule)


def grade_many(items: Iterable[Item], workers: int | None = None) -> Iterator[Grade]:
    """Yields the grades in the order of `items`, with at most `workers` processes (default: one per core).

    A process is started only if an item needs computer algebra.
    """
    return run_tasks(map(_settle, items), workers)


def run_tasks(entries: Iterable[Grade | Task], workers: int | None = None) -> Iterator[Grade]:
    """Completes the tasks among `entries` in worker processes and yields all grades in order."""
    pool: GraderPool | None = None
    waiting: deque[Grade | tuple[Task, Future[Decision]]] = deque()
    try:
        for entry in entries:
            if isinstance(entry, Task):
                pool = pool or _new_pool(workers)
                waiting.append((entry, pool.submit(*entry.question)))
            elif waiting:
                waiting.append(entry)
            else:
                yield entry
            while waiting and (_is_ready(waiting[0]) or len(waiting) >= MAX_WAITING):
                yield _finish(waiting.popleft())
        while waiting:
            yield _finish(waiting.popleft())
    finally:
        if pool is not None:
            pool.close()


def grade(item: Item) -> Grade:
    """Grades one item as `grade_many` does. Its worker is shared and closed at exit."""
    entry = _settle(item)
    return entry if isinstance(entry, Grade) else entry.grade(_shared_pool().submit(*entry.question).result())


def find_answer(response: str, kind: AnswerKind, finish_reason: str) -> Extraction:
    """The answer that `grade` would compare with a gold answer. One that the token limit may have truncated is none."""
    found = extract(response, kind)
    if _is_unfinished(found, response, finish_reason):
        return replace(found, answer=None, end=len(response))
    return found


def equivalent(left: str, right: str, kind: AnswerKind) -> bool:
    """Is `right` correct if `left` is the gold answer?"""
    outcome = _compare(left, right, kind) or _shared_pool().submit(left, right, kind).result()
    return outcome.verdict == "correct"


def check_gold(gold: str, kind: AnswerKind) -> bool:
    """Can `gold` be read as an answer of this kind?"""
    return gold_problem(gold, kind) is None


def _settle(item: Item) -> Grade | Task:
    """The grade of an item that needs no computer algebra, else the task that completes it."""
    response, reason = item.response, item.finish_reason
    if len(response) < MAX_PLAIN and not _was_stopped(reason) and (settled := _settle_numbers(item)) is not None:
        return settled
    found = extract(response, item.kind)
    if (problem := _gold_problem(item.gold, item.kind)) is not None:
        return Grade(item.id, "gold_unparsable", found.answer, found.how, problem, found.end)
    if _is_unfinished(found, response, reason):
        return Grade(item.id, "truncated", None, found.how, "no_complete_answer", len(response))
    if found.answer is None:
        return Grade(item.id, "no_answer", None, found.how, "none", found.end)
    outcome = _compare(item.gold, found.answer, item.kind)
    if outcome is None:
        return Task(Grade(item.id, "", found.answer, found.how, "", found.end), (item.gold, found.answer, item.kind))
    return Grade(item.id, outcome.verdict, found.answer, found.how, outcome.rule, found.end)


def _settle_numbers(item: Item) -> Grade | None:
    """The grade of an item whose response and gold are both plain numbers, which need no search and no parsing."""
    answer = plain_number(item.response, item.kind == "number")
    outcome = compare_numbers(item.gold, answer, item.kind) if answer else None
    return outcome and Grade(item.id, outcome.verdict, answer, "bare", outcome.rule, len(item.response))


def _was_stopped(finish_reason: str) -> bool:
    """Did the limit or the stop rule for loops end the text, and not the model?"""
    return is_truncated(finish_reason) or is_looped(finish_reason)


def _is_unfinished(found: Extraction, response: str, finish_reason: str) -> bool:
    """Did the text end before its answer was complete?"""
    return found.how == "unclosed_think" or _was_stopped(finish_reason) and not _complete(found, response)


def _complete(found: Extraction, response: str) -> bool:
    """Was the answer of a truncated response written to its end? `#### 12` may be the beginning of `#### 1234`."""
    if found.how in ("answer_line", "statement"):
        return response.find("\n", found.end) >= 0
    return found.how in ("boxed", "answer_tag")


def _is_ready(entry: Grade | tuple[Task, Future[Decision]]) -> bool:
    return isinstance(entry, Grade) or entry[1].done()


def _finish(entry: Grade | tuple[Task, Future[Decision]]) -> Grade:
    return entry if isinstance(entry, Grade) else entry[0].grade(entry[1].result())


_compare = lru_cache(maxsize=16384)(compare)
_gold_problem = lru_cache(maxsize=16384)(gold_problem)


def _new_pool(workers: int | None) -> GraderPool:
    from cotkit.grading.worker_pool import GraderPool

    return GraderPool(workers)


@lru_cache(maxsize=1)
def _shared_pool() -> GraderPool:
    pool = _new_pool(1)
    atexit.register(pool.close)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_shared_pool.cache_clear)  # a fork does not copy the pool's threads
    return pool
