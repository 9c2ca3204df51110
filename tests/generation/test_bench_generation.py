"""The generation bench: its parts count the same rows, its table its ratios."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from conftest import ROOT

from cotkit.core.errors import UserError

bench = runpy.run_path(str(ROOT / "scripts/dev/bench_generation.py"))


@pytest.fixture
def words(data_root: Path, tiny_model: Path, tiny_adapter: Path) -> list[str]:
    words = ["--base_model", tiny_model, "--lora_path", tiny_adapter, "--data_root", data_root, "--dataset", "gsm8k"]
    return [str(word) for word in [*words, "--max_new_tokens", 6, "--batch_size", 3]]


def test_all_loops_write_the_same_tokens(words: list[str], capsys: pytest.CaptureFixture[str]):
    found = {}
    for part in ("plain", "sorted_plain", "library", "transformers_whole"):
        assert bench["main"]([*words, "--only", part]) == 0
        found[part] = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
        assert found[part].pop("seconds") > 0
        assert found[part].pop("cpu_seconds") > 0
        assert found[part].pop("mib") > 50
    assert found["plain"] == found["sorted_plain"] == found["library"] == found["transformers_whole"]
    assert found["plain"]["rows"] == 8


def test_a_row_ends_at_its_first_end_token(tiny_model: Path):
    from cotkit.generation import chat_model

    tokenizer = chat_model.load_tokenizer(str(tiny_model))
    x, end = tokenizer.encode("x")[0], tokenizer.eos_token_id
    done = bench["completed"](tokenizer, [x, end, end], [end])
    assert (done.text, done.finish_reason, done.completion_tokens) == ("x", "stop", 2)
    assert bench["completed"](tokenizer, [x, x], [end]).finish_reason == "length"


def test_parts_that_cannot_run_are_left_out_or_refused(words: list[str]):
    parser = bench["build_parser"]()
    assert bench["parts_of"](parser.parse(words)) == [
        "plain",
        "sorted_plain",
        "library",
        "transformers_whole",
        "transformers",
    ]
    with pytest.raises(UserError, match="raw_vllm needs --vllm_python"):
        bench["parts_of"](parser.parse([*words, "--parts", "plain,raw_vllm"]))
    with pytest.raises(UserError, match="no part 'plane'; did you mean 'plain'"):
        bench["parts_of"](parser.parse([*words, "--parts", "plane"]))


def test_the_table_holds_medians_and_their_ratios():
    slow = [
        {"rows": 4, "answers": 4, "tokens": 40, "seconds": second, "cpu_seconds": 7.0, "mib": 9}
        for second in (4.0, 5.0, 100.0)
    ]
    fast = [{**row, "seconds": row["seconds"] / 2} for row in slow]
    assert "| fast | 4 of 4 | 1.60 | 2.00 | 16 | 2.00 | 7.0 | 9 | 2.0, 2.5, 50.0 |" in bench["table"](
        {"slow": slow, "fast": fast}
    )
