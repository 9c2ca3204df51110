"""The kind of a problem's answer: from the table, or from the row itself."""

from __future__ import annotations

import pytest

from cotkit.core.datasets import KINDS, kind_of
from cotkit.core.errors import UserError


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_known_sets_need_no_kind_of_their_own(name: str):
    assert kind_of({"dataset": name}, "here") == KINDS[name]


def test_a_row_s_own_kind_comes_first():
    assert kind_of({"dataset": "bakery", "answer_kind": "choice"}, "here") == "choice"
    assert kind_of({"dataset": "gsm8k", "answer_kind": "latex"}, "here") == "latex"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"dataset": "bakery"}, "p.jsonl:3: unknown dataset 'bakery'; .*gsm8k.*'answer_kind'.*prepare_data.py"),
        ({"dataset": ["gsm8k"]}, "p.jsonl:3: unknown dataset"),
        ({}, "p.jsonl:3: unknown dataset None"),
        ({"dataset": "gsm8k", "answer_kind": "float"}, "p.jsonl:3: answer_kind must be one of number, .*'float'"),
        ({"dataset": "gsm8k", "answer_kind": None}, "p.jsonl:3: answer_kind must be one of"),
    ],
)
def test_an_unknown_kind_is_refused_by_line(row: dict[str, object], says: str):
    with pytest.raises(UserError, match=says):
        kind_of(row, "p.jsonl:3")
