"""The filter's work on rows: each is judged by itself, in this process or on all cores, and comes back in order."""

from __future__ import annotations

import os
import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from typing import Any

from cotkit.core.jsonl import Row
from cotkit.core.problems import CONTROL_TOKEN
from cotkit.equations.checker import Step
from cotkit.equations.coverage import computes_all_results
from cotkit.filtering import rules
from cotkit.filtering.contamination import TestQuestions, hash64
from cotkit.filtering.records import Parameters, Record, Rejection
from cotkit.filtering.token_count import Frame, read_frame_alone, token_counter
from cotkit.grading.grader import Item, grade

# Rows handed to a process at once: enough that handing over costs little, few enough to keep all busy to the end.
CHUNK = 200
# Chunks under way a process; more would only fill the memory.
AHEAD = 3
# Questions whose kept samples are remembered for near-duplicates: a teacher writes the samples of one together.
REMEMBERED = 1000

BY_ITSELF = tuple(name for name in rules.RULES if name != "near_duplicate")

_TIMES = re.compile(r"\s[x×]\s|[×·∗]|\\(?:times|cdot)")
_NOT_ARITHMETIC = re.compile(r"[^\d.+\-*/=()%^]")


@dataclass(frozen=True)
class JudgingPlan:
    """What a process needs to judge rows.

    `raw` says whether a training set takes rows that are not kept, which are measured too then, and `complete` whether one
    takes only those that leave no step out; `frame` is that of the student's tokenizer, so that not every process has to
    read it.
    """

    parameters: Parameters
    names: tuple[str, ...] = BY_ITSELF
    student_model: str | None = None
    tests: TestQuestions | None = None
    raw: bool = False
    complete: bool = False
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What was found in one row.

    `equations` identifies the set of its equations; `raw_fits` says that the training can take the untouched response,
    `complete` that a kept row calculates every result that the reference solution calculates.
    """

    rejection: Rejection | None
    target: str
    tokens: int | None
    words: int
    changes: list[str]
    equations: int
    raw_fits: bool
    complete: bool = False


class RowJudge:
    """Judges rows by every rule that needs only the row."""

    def __init__(self, plan: JudgingPlan) -> None:
        self._plan = plan
        self._rules = {name: rules.RULES[name].bound(plan.parameters) for name in plan.names}
        self._count_tokens = token_counter(plan.student_model, plan.frame)

    def __call__(self, row: Row) -> RowOutcome:
        plan = self._plan
        verdict = grade(Item(row["id"], row["dataset"], row["answer"], row["response"], row["finish_reason"]))
        record = Record(row, verdict, plan.parameters, self._count_tokens, plan.tests)
        rejection = rules.judge(record, self._rules)
        raw_fits = plan.raw and self._raw_fits(row)
        if rejection is not None:
            return RowOutcome(rejection, "", None, record.words, [], 0, raw_fits)
        target, changes = record.canonical
        complete = plan.complete and computes_all_results(row["solution"], record.text)
        return RowOutcome(
            None, target, record.tokens, record.words, changes, equations_key(record.steps), raw_fits, complete
        )

    def _raw_fits(self, row: Row) -> bool:
        """Whether the training can take the response as it is: some text, no control tokens, not too long."""
        response, most = row["response"].strip(), self._plan.parameters.max_tokens
        if not response or CONTROL_TOKEN.search(response):
            return False
        return most is None or self._count_tokens is None or self._count_tokens(row, response) <= most


def equations_key(steps: Iterable[Step]) -> int:
    """64 bits that two texts share if they write the same set of equations, whatever words and order."""
    return hash64("\n".join(sorted({_bare_equation(step.text) for step in steps})))


@lru_cache(maxsize=4096)  # samples of one question write the same equations
def _bare_equation(text: str) -> str:
    return _NOT_ARITHMETIC.sub("", _TIMES.sub("*", text))


class NearDuplicates:
    """The rule `near_duplicate`, which needs the samples that were kept before; at most `REMEMBERED` questions back."""

    def __init__(self, parameters: Parameters, enabled: bool) -> None:
        self._parameters, self._enabled = parameters, enabled
        self._kept: OrderedDict[str, list[str]] = OrderedDict()

    def __call__(self, row: Row, outcome: RowOutcome) -> RowOutcome:
        if outcome.rejection is not None or not self._enabled:
            return outcome
        others = self._kept.setdefault(row["id"], [])
        if others:
            rejection = self._judge(row, outcome.target, others)
            if rejection is not None:
                return replace(outcome, rejection=rejection)
        others.append(outcome.target)
        self._kept.move_to_end(row["id"])
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return outcome

    def _judge(self, row: Row, target: str, others: list[str]) -> Rejection | None:
        detail = rules.near_duplicate_of(target, others, self._parameters.max_similarity)
        return None if detail is None else Rejection("near_duplicate", detail)


def _with_frame(plan: JudgingPlan) -> JudgingPlan:
    """Reads the tokenizer's frame in a process that ends, so that what it imports stays in none."""
    if plan.student_model is None:
        return plan
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return replace(plan, frame=pool.submit(read_frame_alone, plan.student_model).result())


_judge: list[RowJudge] = []


def _start_process(plan: JudgingPlan) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has a process of its own already
    _judge.append(RowJudge(plan))


def _judge_chunk(rows: list[Row]) -> list[RowOutcome]:
    return [_judge[0](row) for row in rows]


def judged(rows: Iterable[Row], plan: JudgingPlan, workers: int) -> Iterator[tuple[Row, RowOutcome]]:
    """Every row with its outcome, in order, as a stream; with one worker in this process."""
    if workers == 1:
        judge = RowJudge(_with_frame(plan))
        yield from ((row, judge(row)) for row in rows)
        return
    rows = iter(rows)
    waiting: deque[tuple[list[Row], Future[list[RowOutcome]]]] = deque()
    # Spawned, not forked: a fork would copy locks that other threads hold.
    pool: Any = ProcessPoolExecutor(workers, get_context("spawn"), _start_process, (_with_frame(plan),))
    try:
        while True:
            while len(waiting) < workers * AHEAD and (chunk := list(islice(rows, CHUNK))):
                waiting.append((chunk, pool.submit(_judge_chunk, chunk)))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            yield from zip(chunk, future.result(), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
