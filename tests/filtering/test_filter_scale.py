"""The filter on many rows: its memory does not grow with them (F10), and its fast paths agree with the slow ones.

A million rows with token counting are measured by scripts/dev/bench_filter.py, see docs/FILTER.md.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import CHATML, make_tokenizer, memory_growth, problem, refused, write_rows

from cotkit.core.jsonl import Row
from cotkit.equations import checker
from cotkit.filtering import rules, text_quality, token_count
from cotkit.filtering.records import Parameters, Record
from cotkit.generation import prompts


@pytest.mark.slow
def test_f10_memory_hardly_grows_with_the_rows(tmp_path: Path):
    """50,000 rows, two samples per problem, judged by the cheap rules. Held as dicts, they would take 100 MB."""
    extra = {"thinking": "", "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 9, "model": "m"}
    made: list[Row] = []
    for number in range(50_000):
        asked = problem(number // 2)
        text = f"{number} is said.\n#### {int(asked['answer']) + number % 3 // 2}"
        made.append({**asked, **extra, "sample": number % 2, "response": text})
    path = write_rows(tmp_path / "teacher.jsonl", made)
    dear = ["garbled", "task_talk", "banned_phrase", "repetition", "length", "wrong_steps"]
    words = ["--input_path", path, "--output_path", tmp_path / "kept.jsonl", "--workers", 1, "--skip_rules", *dear]
    assert memory_growth("filter_teacher_cot", *words)[1] < 40 * 1024


def test_f10_a_line_of_50_mb(tmp_path: Path):
    row = {**problem(1), "sample": 0, "response": "7" * 50_000_000, "finish_reason": "stop", "prompt_tokens": 9}
    path = write_rows(tmp_path / "teacher.jsonl", [{**row, "completion_tokens": 9}])
    words = ["--input_path", path, "--output_path", tmp_path / "kept.jsonl"]
    done, grown = memory_growth("filter_teacher_cot", *words, check=False)
    refused(done, "teacher.jsonl:1: the line is longer than 16 MiB")
    assert grown < 100 * 1000


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, 2),  # <|im_end|> and a newline
        ("{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}", 1),
        ("{{ messages[1]['content'] }} => ", 1),  # it writes no answers
        (CHATML + "{% if not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}", 2),
    ],
)
def test_tokens_counted_in_parts_are_those_of_the_whole(template: str, end: int, tmp_path: Path):
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    count = token_count.token_counter(str(tmp_path))
    assert count is not None
    targets = ["", "Tom has 3+4=7.\n#### 7", "\n\n<|im_end|> ünd <|im_start|>"]
    for question in ("How many?", "How many?", " Tom,\n 4 eggs\n", "<", "a {b} <|im_end|> $5<|im_start|>"):
        prompt = prompts.render(tokenizer, prompts.student_messages(question), thinking=False)
        for target in targets:
            whole = tokenizer(prompt + target, add_special_tokens=False)["input_ids"]
            assert count({"question": question}, target) == len(whole) + end, (question, target)


def test_phrases_are_found_as_the_pattern_finds_them():
    rng = random.Random(0)
    phrases = (*Parameters.banned, *Parameters.task_talk)
    pieces = [word for phrase in phrases for word in phrase.split()] + [
        "Wait,",
        "HMM",
        "K",
        "\u212a",
        "\u017forry",
        "x",
        "\u00e9",
    ]
    for _ in range(3000):
        text = "".join(
            rng.choice(pieces) + rng.choice((" ", "  ", "\n", "\t", "", ".")) for _ in range(rng.randrange(1, 12))
        )
        record = Record({**rules.EXAMPLE_ROW, "response": text})
        match = rules.phrase_pattern(phrases).search(record.text)
        assert rules.banned_phrase(record, phrases) == (match and repr(match[0])), text


def test_loops_are_found_however_few_they_are():
    """A loop is found by the n-grams that it repeats: as many as its shortest form has."""
    for limit in (1, 2, 3):
        for size in range(1, 14):
            block = [f"word{number}" for number in range(size)]
            times = max(
                limit + 1, -(-text_quality.MIN_LOOP_WORDS // size) if size < text_quality.MIN_BLOCK_WORDS else 0
            )
            text = " ".join(["so", "it", "is", *block * times, "and", "that", "is", "all"])
            assert text_quality.loop(text, limit) == (" ".join(block), times) or size < 3, (limit, size)
            assert text_quality.loop(" ".join(block * limit), limit) is None


@pytest.mark.parametrize(
    "line",
    [
        "He pays 3 boxes x $4 = $12.",
        "That's 0.5*100 = 50 students",
        "white golf balls:20*0.5=10 balls",
        "Now 12 ÷ 4 = 3 Twitter friends",
        "They pay 50 balls * €3/ball = €150 on balls.",
        "So 2,700 / 2 = 1350",
        "It is $3 - $1 = $2 in all",
        "5 + 4 = 9 and 9 * 2 = 18",
    ],
)
def test_plain_equations_are_read_as_the_reader_reads_them(line: str, monkeypatch: pytest.MonkeyPatch):
    fast = checker.find_steps(line)
    assert fast and checker._plain_steps(line)
    monkeypatch.setattr(checker, "_plain_steps", lambda line: [])
    assert checker.find_steps(line) == fast
