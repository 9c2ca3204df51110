"""The filter's rules, selections and declared sets by themselves, and the controls of scripts/dev/study_filter.py."""

from __future__ import annotations

import json
import runpy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import FAULTS_IN_GSM8K, ROOT, problem, raw_data, raw_rows, read_rows, write_rows

from cotkit.core.errors import UserError
from cotkit.equations.checker import find_steps
from cotkit.filtering import judging, rules, text_quality, token_count
from cotkit.filtering.contamination import TestQuestions
from cotkit.filtering.records import Parameters, Record, Rejection, folded
from cotkit.filtering.rules import GOOD, RULES
from cotkit.filtering.selection import Selection
from cotkit.filtering.tally import FilterTally
from cotkit.filtering.training_sets import parse_set, parse_sets
from cotkit.generation import prompts

CASES = [(name, number) for name, rule in RULES.items() for number in range(len(rule.examples))]


@pytest.mark.parametrize(("name", "number"), CASES, ids=lambda value: str(value))
def test_every_rule_agrees_with_its_examples(name: str, number: int):
    rules.check_example(name, RULES[name].examples[number], Parameters(), "here:1")


def test_every_rule_has_examples_of_both_kinds():
    for name, rule in RULES.items():
        assert {example.keep for example in rule.examples} == {True, False}, name
        assert rule.function.__doc__, name


@pytest.mark.parametrize("name", RULES)
def test_an_example_that_its_rule_contradicts_is_refused_by_line(name: str):
    for example in RULES[name].examples:
        with pytest.raises(UserError, match=rf"filter.yaml:3: rule {name} must"):
            rules.check_example(name, replace(example, keep=not example.keep), Parameters(), "filter.yaml:3")


def test_every_parameter_of_a_rule_is_a_field_of_parameters():
    known = {item.name for item in fields(Parameters)}
    assert all(known.issuperset(rule.parameters) for rule in RULES.values())


@pytest.mark.parametrize("text", ["ab " * 3, "2+3+2+3+2+3", "He has 2 + 2 + 2 + 2 + 2 + 2 = 12 pens.", ""])
def test_sums_and_short_repeats_are_no_loops(text: str):
    assert text_quality.loop(text, 2) is None


def test_a_loop_is_found_wherever_its_block_repeats_itself_inside():
    block = "72 inches / 6 inches/tile = 12 rows so 72 inches / 6 inches is right and "
    assert text_quality.loop("First of all, " + block * 3, 2) is not None
    assert text_quality.loop("First of all, " + block * 2, 2) is None


@pytest.mark.parametrize(
    "text",
    [
        "<answer>5</answer>",
        "<div class='a'>5</div>",
        "4 + 1 = 5</s>",
        "[INST] How many? [/INST]",
        "<<SYS>> be short <</SYS>>",
        "<\uff5cAssistant\uff5c>4 + 1 = 5",
        "\u25c1think\u25b74 + 1",
        "[/ANSWER]",
        "**Assistant:** 4 + 1 = 5",
        "So it is 5.\nuser\nNow this",
        "### Response:\n4 + 1 = 5",
        "Write your final answer last. 4 + 1 = 5",
        "The answer goes after #### here.",
        "#### <answer>\n4 + 1 = 5",
        "There are 12 rolls at first.",
        *(message["content"] for message in prompts.teacher_messages(prompts.PROBE, "rewrite")),
    ],
)
def test_leftovers_of_a_chat_are_found(text: str):
    assert text_quality.leftover(text, folded(text), lambda: "how many apples does tom have?") is not None


@pytest.mark.parametrize(
    "text",
    [
        "So 4 < 5 and 7 > 5, or a<b and c>d.",
        "$0<x<5$ and $\\langle u, v \\rangle$ and $[ABC] = 12$",
        "10 - 4 = <<10-4=6>>6 pens",
        "| Day | Pens |\n|---|---|\n| 1 | 5 |",
        "Reason: each of the users pays 5. The human body has 206 bones.",
        "There are 12 sushi rolls at the table",
        "#### Step 1\nWe add 4 and 1.",
        "The final answer is 5.",
    ],
)
def test_mathematics_and_plain_words_are_no_leftovers(text: str):
    assert text_quality.leftover(text, folded(text), lambda: "how many apples does tom have?") is None


def test_what_the_problem_says_is_no_leftover():
    text = "Assistant: 5 hours.\nThere are 12 rolls."
    assert text_quality.leftover(text, folded(text), lambda: "an assistant bakes rolls.") is None


MARKS = [
    "**{}**",
    "__{}__",
    "`{}`",
    "### {}",
    "$${}$$",
    "$$\n{}\n$$",
    "```\n{}\n```",
    "```text\n{}\n```",
    "> {}",
    "- {}",
]
MARKS += ["* {}", "_{}_", "---\n{}", "**\n{}\n**", "**`{}`**", "## \n{}"]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("before", ["\n", "\n\n"])
def test_no_mark_of_the_answer_line_stays_in_the_target(mark: str, before: str):
    response = "He has **4+1=5** apples." + before + mark.format("#### 5")
    assert Record({**rules.EXAMPLE_ROW, "response": response}).target.text == "He has **4+1=5** apples.\n#### 5"


CLOSED = [
    "$$\n4+1=5\n$$",
    "```\n4+1=5\n```",
    "**Total: 4+1=5**",
    "It costs 5 $",
    "So `5`",
    "It is $4+1=5$",
    "\\[\n4+1=5\n\\]",
]


@pytest.mark.parametrize("text", CLOSED)
def test_marks_that_close_something_stay_in_the_target(text: str):
    assert Record({**rules.EXAMPLE_ROW, "response": text + "\n#### 5"}).target.text == text + "\n#### 5"


@pytest.mark.parametrize(("open_mark", "close_mark"), [("$$", "$$"), ("\\[", "\\]")])
def test_a_displayed_box_keeps_its_closing_line(open_mark: str, close_mark: str):
    text = f"It is\n{open_mark}\n\\boxed{{5}}\n{close_mark}"
    row = {**rules.EXAMPLE_ROW, "answer_kind": "latex", "response": text + "\nThat is all."}
    assert Record(row).target.text == text + "\n#### 5"


def test_contamination_names_the_test_question():
    tests = TestQuestions([("t-0", "What is it?"), ("t-1", problem(4)["question"])], 8)
    found = tests.closest(problem(4)["question"].upper().replace(".", " !"))
    assert found is not None
    assert (found.test_id, found.share) == ("t-1", 1.0)
    assert tests.closest("what is IT") is not None
    assert tests.closest("Nothing of the kind is asked here by anybody at all today") is None


def selection(*entries: tuple[str, str | None, int, int]) -> Selection:
    """(question, reason, words, equations) -> a selection whose every row can be trained on as it is."""
    tally = FilterTally(seed=0)
    for sample, (question, reason, words, equations) in enumerate(entries):
        row = {**problem(0), "id": question, "sample": sample, "response": "", "solution": "word " * ord(question)}
        row |= {"prompt_tokens": 10, "completion_tokens": words}
        rejection = Rejection(reason, "x") if reason else None
        tally.add(row, judging.RowOutcome(words, rejection, True, equations=equations))
    return Selection(tally)


def positions(mask: Any) -> list[int]:
    return mask.nonzero()[0].tolist()


ENTRIES = [
    ("a", None, 30, 1),
    ("b", "wrong_answer", 9, 0),
    ("a", None, 20, 1),
    ("a", None, 25, 2),
    ("b", "length", 2, 0),
    ("a", "wrong_answer", 90, 0),
    ("a", "wrong_answer", 24, 0),
    ("c", None, 5, 1),
]


@pytest.mark.parametrize(
    ("select", "cap", "chosen"),
    [
        ("first", None, [0, 7]),
        ("first", 2, [0, 2, 7]),
        ("shortest", None, [2, 7]),
        ("shortest", 2, [2, 3, 7]),
        ("all", None, [0, 2, 3, 7]),
        ("all", 1, [0, 7]),
        ("distinct", None, [0, 3, 7]),
        ("distinct", 1, [0, 7]),
    ],
)
def test_selections(select: str, cap: int | None, chosen: list[int]):
    made = selection(*ENTRIES)
    assert positions(made.choose(made.kept, select, cap)) == chosen


def test_pairs_and_problems_without_a_kept_sample():
    made = selection(*ENTRIES)
    assert tuple(map(positions, made.pairs())) == ([2], [6])
    rows, reasons = made.without_kept()
    assert (positions(rows), reasons) == ([1], ["wrong_answer"])
    assert positions(made.first) == [0, 1, 7]
    assert made.repeated() is None
    assert not any(mask.any() for mask in selection(("a", None, 3, 1)).pairs())


def test_repeated_samples_are_found_at_the_earliest_repetition():
    tally = FilterTally(seed=0)
    row = {**problem(0), "response": "", "prompt_tokens": 1, "completion_tokens": 1}
    for question, sample in [("b", 0), ("a", 1), ("a", 0), ("b", 0), ("a", 1)]:
        outcome = judging.RowOutcome(1)
        tally.add({**row, "id": question, "sample": sample}, outcome)
    assert Selection(tally).repeated() == (0, 3)


def test_which_problems_are_asked_again_and_what_rounds_cost():
    made = selection(
        ("a", "length", 3, 1),
        ("b", "wrong_answer", 9, 0),
        ("c", None, 5, 1),
        ("d", "contaminated", 1, 1),
        ("b", "truncated", 9, 0),
        ("a", None, 2, 1),
    )
    rows, reasons = made.without_kept()
    assert (positions(rows), reasons) == ([1], ["truncated"])
    rounds = made.rounds([4, 2])
    assert [(row["problems"], row["rows"], row["kept"], row["covered"], row["coverage"]) for row in rounds] == [
        (4, 4, 1, 1, 0.25),
        (2, 2, 1, 2, 0.5),
    ]
    assert [(row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) for row in rounds] == [
        (40, 18, 58),
        (20, 11, 89),
    ]
    quartiles = made.by_gold_words()
    assert [(row["quartile"], row["problems"], row["covered"], row["read"], row["kept"]) for row in quartiles] == [
        (1, 1, 1, 2, 1),
        (2, 1, 0, 2, 0),
        (3, 1, 1, 1, 1),
        (4, 1, 0, 1, 0),
    ]


def test_equations_count_once_whatever_the_words_and_the_order():
    steps = [
        judging.equations_key(find_steps(text))
        for text in ("He pays 3 x $4 = $12. Then 12 + 1 = 13 coins.", "12+1=13, since 3*4=12.", "3*4=12 alone.")
    ]
    assert steps[0] == steps[1] != steps[2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("what", "is not a built-in set"),
        ("a = gild", "source 'gild' is not one of"),
        ("a = kept best", "selection 'best'"),
        ("a = kept first 0", "the cap at least 1"),
        ("a = gold first", "nothing to select"),
        ("a = pairs + gold", "mixed"),
        ("a b = gold", "letters, digits"),
        ("my_dev = gold", "_dev"),
        ("a = kept +", "source ''"),
    ],
)
def test_bad_declarations_say_what_is_wrong(text: str, says: str):
    with pytest.raises(ValueError, match=says):
        parse_set(text)


def test_a_set_that_is_declared_twice_is_refused():
    with pytest.raises(UserError, match="'gold' is declared twice"):
        parse_sets([parse_set("gold"), parse_set("gold = kept")])


def test_tokens_are_those_of_the_rendered_row(tiny_model: Path):
    from cotkit.generation.chat_model import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model))
    count = token_count.token_counter(str(tiny_model))
    assert count is not None
    for question in ("How many?", "  Tom, 4 eggs\n", "a {b} <|im_end|> $5"):
        text = prompts.render(tokenizer, prompts.student_messages(question), thinking=False) + GOOD
        ids = tokenizer(text + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
        assert count({"question": question}, GOOD) == len(ids)


GSM8K = "gsm8k/train.jsonl"


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts/dev/study_filter.py"))


@pytest.mark.slow
def test_official_solutions_are_kept_and_planted_faults_found(study: dict[str, Any], tmp_path: Path):
    report = tmp_path / "study.json"
    numbers = {split: list(raw_rows(f"gsm8k/{split}.jsonl")) for split in ("train", "test")}
    full = len(numbers["train"]) == 7473
    size = 1400 if full else 70
    words = ["--source", str(raw_data(GSM8K).parents[1]), "--report_path", str(report), "--planted", str(size)]
    assert study["main"](words) == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    official, planted = found["official"], found["planted"]
    assert official["read"] == sum(map(len, numbers.values()))
    for split, rules_of_split in FAULTS_IN_GSM8K.items():
        expected = {number: rule for rule, rows in rules_of_split.items() for number in rows}
        rows = [row for row in official["rejected"] if row["id"].split("-")[1] == split]
        rejected = {numbers[split][int(row["id"][-5:])]: row["reason"] for row in rows}
        assert rejected == {number: reason for number, reason in expected.items() if number in numbers[split]}
    assert sum(result["planted"] for result in planted.values()) == size
    for name, result in planted.items():
        assert result["right"] >= (0.95 if name == "last step removed" else 0.98) * result["planted"], name
    if full:
        assert all(right == total for right, total in found["precision"].values())


def test_many_processes_give_what_one_gives(study: dict[str, Any], tmp_path: Path):
    """Rows, order and report do not depend on the number of processes."""
    import filter_teacher_cot

    source = write_rows(tmp_path / "teacher.jsonl", study["official"](raw_data(GSM8K))[:700])
    for workers in ("1", "2"):
        words = [
            "--input_path",
            str(source),
            "--output_path",
            str(tmp_path / workers / "kept.jsonl"),
            "--workers",
            workers,
        ]
        assert filter_teacher_cot.main(words) == 0
    names = ("kept.jsonl", "kept.rejected.jsonl", "kept.report.json", "kept.report.md", "datasets/distilled.jsonl")
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    rows = len(read_rows(source))
    assert len(read_rows(tmp_path / "1/kept.jsonl")) + len(read_rows(tmp_path / "1/kept.rejected.jsonl")) == rows
