"""Problem files: what is repaired when they are read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import problem, write_rows

from cotkit.core.errors import UserError
from cotkit.core.problems import read_problems
from cotkit.evaluation.join import Problems


def test_certain_damage_is_repaired_in_every_reader(tmp_path: Path):
    row = problem(1, question="Half of $\x0crac{1}{2}$?", solution="$\times$", answer="\x0crac{1}{4}")
    path = write_rows(tmp_path / "p.jsonl", [row, problem(2)])
    read, joined = read_problems(path), list(Problems(path, None))
    assert (
        read
        == joined
        == [
            {**row, "question": r"Half of $\frac{1}{2}$?", "solution": r"$\times$", "answer": r"\frac{1}{4}"},
            problem(2),
        ]
    )


def test_a_problem_without_an_id_gets_that_of_its_repaired_text(tmp_path: Path):
    rows = [problem(1, question=question) for question in ("Half of $\x0crac{1}{2}$?", r"Half of $\frac{1}{2}$?")]
    for row in rows:
        del row["id"]
    first, second = (read_problems(write_rows(tmp_path / "p.jsonl", [row]))[0]["id"] for row in rows)
    assert first == second


@pytest.mark.parametrize("field", ["question", "solution", "answer"])
def test_other_control_characters_are_refused_by_line(tmp_path: Path, field: str):
    path = write_rows(tmp_path / "p.jsonl", [problem(1), problem(2, **{field: "5 \x0crackers"})])
    with pytest.raises(UserError, match=rf"p.jsonl:2: {field} holds the control character U\+000C before 'rackers'"):
        read_problems(path)
