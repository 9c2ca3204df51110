"""The selection `aligned`: of each question's samples the one with the lowest rank-surprisal ratio under the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_rows, refused
from filtering.test_filter import GOOD, run_filter, teacher_row

from cotkit.core.errors import UserError
from cotkit.filtering import alignment
from cotkit.filtering.options import read_options
from cotkit.filtering.training_sets import parse_set
from cotkit.generation import prompts
from cotkit.generation.chat_model import encode, load_tokenizer

SAMPLES = [
    GOOD,
    "He had 4 apples at first and bought one more, so 4+1=5 apples.\n#### 5",
    "Adding the new one to the 4 that he had gives 4+1=5.\n#### 5",
]


def by_hand(model_folder: Path, question: str, target: str) -> tuple[float, float]:
    """(mean rank, mean surprisal) by sorting the whole distribution of each token, one token after the other."""
    from transformers import AutoModelForCausalLM

    tokenizer, model = load_tokenizer(str(model_folder)), AutoModelForCausalLM.from_pretrained(model_folder).eval()
    ids = encode(tokenizer, prompts.student_messages(question), False)
    ranks, surprisals = [], []
    for token in tokenizer(target, add_special_tokens=False)["input_ids"]:
        with torch.no_grad():
            chances = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ranks.append(min(100, 1 + chances.argsort(descending=True).tolist().index(token)))
        surprisals.append(-chances[token].item())
        ids.append(token)
    return sum(ranks) / len(ranks), sum(surprisals) / len(surprisals)


@pytest.mark.slow
def test_rank_and_surprisal_are_those_computed_by_hand(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(alignment, "BATCH_TOKENS", 300)  # several batches with padding
    texts = [(f"What is {n}+1{' or so' * n}?", text) for n in range(3) for text in SAMPLES]
    for found, (question, target) in zip(alignment.measure(str(tiny_model), texts), texts, strict=True):
        assert found == pytest.approx(by_hand(tiny_model, question, target), rel=1e-3)


@pytest.mark.slow
def test_the_filter_takes_the_sample_with_the_lowest_ratio(tmp_path: Path, tiny_model: Path):
    rows = [teacher_row(4, text, sample=number) for number, text in enumerate(SAMPLES)]
    rows.append(teacher_row(6, "He had 6 and bought 1, so 6+1=7 apples.\n#### 7"))
    sets = ("--sets", "distilled", "aligned = kept aligned", "two = complete aligned 2", "--student_model", tiny_model)
    run_filter(tmp_path, rows, *sets)
    measured = {row["sample"]: row for row in read_rows(tmp_path / "kept.alignment.jsonl")}
    assert set(measured) == {0, 1, 2}  # question 6 has no choice
    ratios = {sample: row["rank"] / row["surprisal"] for sample, row in measured.items()}
    order = sorted(ratios, key=ratios.__getitem__)
    kept = {row["sample"]: row["target"] for row in read_rows(tmp_path / "kept.jsonl") if row["id"] == rows[0]["id"]}
    chosen = [row["output"] for row in read_rows(tmp_path / "datasets/aligned.jsonl")]
    assert len(chosen) == 2
    assert chosen[0] == kept[order[0]]
    two = {row["output"] for row in read_rows(tmp_path / "datasets/two.jsonl")}
    assert two >= {kept[order[0]], kept[order[1]]}
    assert kept[order[2]] not in two
    again = ("--sets", "distilled", "--select", "aligned", "--student_model", tiny_model, "--overwrite")
    run_filter(tmp_path, rows, *again)
    assert [row["output"] for row in read_rows(tmp_path / "datasets/distilled.jsonl")] == chosen


@pytest.mark.slow
def test_what_was_measured_once_is_not_measured_again(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    rows: list[dict[str, Any]] = [
        {"id": "a", "sample": number, "question": "What is 4+1?", "target": text} for number, text in enumerate(SAMPLES)
    ]
    cache = tmp_path / "cache.jsonl"
    first = alignment.rank_surprisal_ratios(str(tiny_model), rows, cache)
    assert len(set(first)) == 3
    with monkeypatch.context() as patch:
        patch.delattr(alignment, "load_model")
        assert alignment.rank_surprisal_ratios(str(tiny_model), rows[::-1], cache) == first[::-1]
        with pytest.raises(NameError):
            alignment.rank_surprisal_ratios(str(tiny_model), [{**rows[0], "target": "5\n#### 5"}], cache)


def test_aligned_needs_a_student_and_kept_rows():
    with pytest.raises(UserError, match="set near: aligned needs --student_model"):
        read_options(None, ["--input_path", "a", "--output_path", "b", "--sets", "near = complete aligned"])
    with pytest.raises(ValueError, match="aligned chooses among kept rows; write kept aligned or complete aligned"):
        parse_set("raw = teacher aligned")
    with pytest.raises(ValueError, match="nothing to select"):
        parse_set("g = gold aligned")
    assert str(parse_set("near = complete aligned 2")) == "near = complete aligned 2"


def test_a_refused_command_writes_nothing(tmp_path: Path):
    done = run_filter(tmp_path, [teacher_row(4, GOOD)], "--sets", "distilled", "near = kept aligned", check=False)
    refused(done, "aligned needs --student_model")
    assert not (tmp_path / "kept.jsonl").exists()
