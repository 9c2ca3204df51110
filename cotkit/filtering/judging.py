"""Judges teacher rows, each by itself, in this process or on all cores. The rows come back in order."""

from __future__ import annotations

import os
import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
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
from cotkit.filtering.token_count import Frame, read_frame, token_counter

CHUNK = 200  # rows given to a process at once
CHUNKS_AHEAD = 3  # chunks under way per process; more would only fill the memory
# Questions whose kept targets are remembered for `near_duplicate`. A teacher writes the samples of one question together.
REMEMBERED = 1000

ROW_RULES = tuple(name for name in rules.RULES if name != "near_duplicate")  # those that need one row only

_TIMES = re.compile(r"\s[x×]\s|[×·∗]|\\(?:times|cdot)")
_NOT_ARITHMETIC = re.compile(r"[^\d.+\-*/=()%^]")


@dataclass(frozen=True)
class JudgingPlan:
    """What a process needs to judge rows."""

    parameters: Parameters
    names: tuple[str, ...] = ROW_RULES
    student_model: str | None = None
    tests: TestQuestions | None = None
    measure_raw: bool = False  # a training set takes untouched responses
    measure_complete: bool = False  # a training set takes only complete rows
    frame: Frame | None = None  # of the student's tokenizer, so that not every process reads it


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What was found in one row."""

    words: int
    rejection: Rejection | None = None
    raw_trainable: bool = False  # training can take the untouched response
    # The others are of kept rows.
    target: str = ""
    tokens: int | None = None
    changes: Sequence[str] = ()
    equations: int = 0  # equal for rows with the same set of equations
    complete: bool = False  # calculates every result that the reference solution calculates


class RowJudge:
    """Judges rows by every rule that needs only the row."""

    def __init__(self, plan: JudgingPlan) -> None:
        self._plan = plan
        self._rules = {name: rules.RULES[name].bound(plan.parameters) for name in plan.names}
        self._count_tokens = token_counter(plan.student_model, plan.frame)

    def __call__(self, row: Row) -> RowOutcome:
        plan = self._plan
        record = Record(row, plan.parameters, self._count_tokens, plan.tests)
        rejection = rules.judge(record, self._rules)
        outcome = RowOutcome(record.words, rejection, plan.measure_raw and self._raw_trainable(row))
        if rejection is not None:
            return outcome
        complete = plan.measure_complete and computes_all_results(row["solution"], record.text)
        key = equations_key(record.steps)
        target, changes = record.target
        return replace(outcome, target=target, tokens=record.tokens, changes=changes, equations=key, complete=complete)

    def _raw_trainable(self, row: Row) -> bool:
        """Whether training can take the response as it is: some text, no control tokens, not too long."""
        response, most = row["response"].strip(), self._plan.parameters.max_tokens
        if not response or CONTROL_TOKEN.search(response):
            return False
        return most is None or self._count_tokens is None or self._count_tokens(row, response) <= most


def equations_key(steps: Iterable[Step]) -> int:
    """A 64-bit number that two texts share if they write the same set of equations, in any words and order."""
    return hash64("\n".join(sorted({_bare_equation(step.text) for step in steps})))


@lru_cache(maxsize=4096)  # samples of one question write the same equations
def _bare_equation(text: str) -> str:
    return _NOT_ARITHMETIC.sub("", _TIMES.sub("*", text))


class NearDuplicates:
    """The rule `near_duplicate`, which compares a row with the kept samples of its question."""

    def __init__(self, max_similarity: float) -> None:
        self._max_similarity = max_similarity
        self._kept: OrderedDict[str, list[str]] = OrderedDict()

    def __call__(self, row: Row, outcome: RowOutcome) -> RowOutcome:
        if outcome.rejection is not None:
            return outcome
        kept = self._kept.setdefault(row["id"], [])
        detail = rules.find_similar(outcome.target, kept, self._max_similarity) if kept else None
        if detail is not None:
            return replace(outcome, rejection=Rejection("near_duplicate", detail))
        kept.append(outcome.target)
        self._kept.move_to_end(row["id"])
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return outcome


_process_judge: list[RowJudge] = []  # of a worker process


def _start_process(plan: JudgingPlan) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has its own process already
    _process_judge.append(RowJudge(plan))


def _judge_chunk(rows: list[Row]) -> list[RowOutcome]:
    return [_process_judge[0](row) for row in rows]


def judge_rows(rows: Iterable[Row], plan: JudgingPlan, workers: int) -> Iterator[tuple[Row, RowOutcome]]:
    """Yields every row with its outcome, in order, as a stream. Uses this process if `workers` is 1."""
    spawn = get_context("spawn")  # a fork would copy locks that other threads hold
    if plan.student_model is not None:
        with ProcessPoolExecutor(1, spawn) as pool:  # a process that ends, since what it imports is large
            plan = replace(plan, frame=pool.submit(read_frame, plan.student_model).result())
    if workers == 1:
        judge = RowJudge(plan)
        yield from ((row, judge(row)) for row in rows)
        return
    rows = iter(rows)
    waiting: deque[tuple[list[Row], Future[list[RowOutcome]]]] = deque()
    pool: Any = ProcessPoolExecutor(workers, spawn, _start_process, (plan,))
    try:
        while True:
            while len(waiting) < workers * CHUNKS_AHEAD and (chunk := list(islice(rows, CHUNK))):
                waiting.append((chunk, pool.submit(_judge_chunk, chunk)))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            yield from zip(chunk, future.result(), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
