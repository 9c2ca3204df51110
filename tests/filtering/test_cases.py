"""The filter on the committed cases: responses that once were judged wrongly, each reduced to its kind."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import SAMPLE_DATA, problem, read_rows

from cotkit.filtering.judging import JudgingPlan, RowJudge, RowOutcome
from cotkit.filtering.records import Parameters, folded
from cotkit.filtering.text_quality import leftover


def judged(row: dict[str, Any]) -> RowOutcome:
    return RowJudge(JudgingPlan(Parameters()))(row)


@pytest.mark.parametrize("row", read_rows(SAMPLE_DATA / "cases/teacher_think_tags.jsonl"), ids=lambda row: row["tag"])
def test_no_foreign_tag_or_turn_mark_gets_into_a_target(row: dict[str, Any]):
    outcome = judged(row)
    reason = outcome.rejection and outcome.rejection.reason
    # Only the answer follows the thought that holds the solution.
    assert reason in (None, "leftover_markup") or (row["tag"], reason) == ("reasoning", "length")
    assert leftover(outcome.target, folded(outcome.target), str) is None
    assert "first sum" not in outcome.target


@pytest.mark.parametrize("case", read_rows(SAMPLE_DATA / "cases/steps.jsonl"), ids=lambda case: case["id"])
def test_steps_are_judged_as_people_write_them(case: dict[str, Any]):
    asked = re.search(r"question: '([^']*)'", case["why"])
    row = problem(0, id=case["id"], answer=case["answer"], question=asked[1] if asked else "How many?", solution="")
    row |= {"response": case["response"], "sample": 0, "thinking": "", "finish_reason": "stop"}
    rejection = judged({**row, "prompt_tokens": 0, "completion_tokens": 0}).rejection
    assert (rejection and rejection.reason) == ("wrong_steps" if case["expected"] == "reject" else None)
