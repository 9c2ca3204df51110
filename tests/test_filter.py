from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED_DATA, problem, read_rows, refused, run_script, write_rows

import filter_teacher_cot
from cotkit import rules
from cotkit.answers import Item, grade
from cotkit.files import DataError
from cotkit.record import BANNED_PHRASES, Parameters, Record


def teacher_row(number: int, response: str, **changes: Any) -> dict[str, Any]:
    extra = {"sample": 0, "response": response, "thinking": "", "finish_reason": "stop", "prompt_tokens": 9}
    return {**problem(number), **extra, "completion_tokens": 9, "model": "m", **changes}


GOOD = "Tom starts with 4 apples.\nThen he has 4+1=5 apples.\n#### 5"
CASES = {
    "kept": [teacher_row(4, GOOD), teacher_row(4, GOOD + "\nProblem: what else?\n#### 9"),
             teacher_row(4, GOOD.replace("#### 5", "#### **$5.00**"))],
    "failed": [teacher_row(4, "", finish_reason="error", error="server gone")],
    "truncated": [teacher_row(4, GOOD.replace("#### 5", ""), finish_reason="length"),
                  teacher_row(4, GOOD[:30], finish_reason="length")],
    "unclosed_think": [teacher_row(4, "<think>4+1=5, so the answer is #### 5")],
    "banned_phrase": [teacher_row(4, "Let me think. " + GOOD), teacher_row(4, "WAIT, no. " + GOOD)],
    "task_talk": [teacher_row(4, "As in the original solution, " + GOOD)],
    "no_answer_line": [teacher_row(4, GOOD.replace("####", "It is")),
                       teacher_row(4, "He has \\boxed{5} apples in the end.")],
    "malformed_answer_line": [teacher_row(4, GOOD.replace("#### 5", "#### x"))],
    "length": [teacher_row(4, "#### 5"), teacher_row(4, " ".join(f"pear{n}" for n in range(400)) + GOOD)],
    "repetition": [teacher_row(4, "He buys one more apple. " * 5 + GOOD)],
    "garbled": [teacher_row(4, GOOD.replace("has", "has \ufffd"))],
    "wrong_answer": [teacher_row(4, GOOD.replace("#### 5", "#### 6"))],
    "wrong_steps": [teacher_row(4, GOOD.replace("4+1=5", "4+2=5"))],
}  # fmt: skip


@pytest.mark.parametrize(("reason", "row"), [(reason, row) for reason, rows in CASES.items() for row in rows])
def test_each_rule_gives_its_reason(reason: str, row: dict[str, Any]):
    verdict = grade(Item(row["id"], row["dataset"], row["answer"], row["response"], row["finish_reason"]))
    found = rules.judge(Record(row, verdict), {name: rule.bound(Parameters()) for name, rule in rules.RULES.items()})
    assert (found.reason if found else "kept") == reason


@pytest.mark.parametrize("clean", ["They read a book, then wait.", "He is Okafor.", "Hmmm is no word, smoky, eh"])
def test_banned_phrases_are_whole_words(clean: str):
    row = teacher_row(4, clean + "\n" + GOOD)
    record = Record(row, grade(Item("a", "gsm8k", "5", row["response"])))
    assert rules.banned(record, banned=("ok,", "hmm", "ok")) is None


def test_no_official_solution_holds_a_banned_phrase():
    path = SHARED_DATA / "raw/gsm8k/train.jsonl"
    if not path.is_file():
        pytest.skip("the real data files are not here")
    pattern = rules.phrase_pattern(BANNED_PHRASES)
    assert pattern is not None
    answers = [json.loads(line)["answer"] for line in path.read_bytes().split(b"\n") if line]
    assert len(answers) == 7473
    assert not [answer for answer in answers if pattern.search(answer)]


def all_rows() -> list[dict[str, Any]]:
    rows = [row for group in CASES.values() for row in group]
    return [{**row, "id": f"gsm8k-test-{100 + number:05d}"} for number, row in enumerate(rows)]


def run_filter(tmp_path: Path, rows: list[dict[str, Any]], *more: Any, **options: Any) -> Any:
    source = write_rows(tmp_path / "teacher.jsonl", rows)
    return run_script("filter_teacher_cot.py", "--input_path", source, "--output_path", tmp_path / "kept.jsonl", *more,
                      **options)  # fmt: skip


def test_every_row_is_kept_or_has_one_reason(tmp_path: Path):
    rows = all_rows()
    run_filter(tmp_path, rows)
    kept, rejected = read_rows(tmp_path / "kept.jsonl"), read_rows(tmp_path / "kept.rejected.jsonl")
    assert sorted(row["id"] for row in kept + rejected) == [row["id"] for row in rows]
    report = json.loads((tmp_path / "kept.report.json").read_text(encoding="utf-8"))
    assert report["read"] == len(rows) == report["kept"] + sum(report["rejected"].values())
    for reason in rules.REASONS:
        assert report["rejected"][reason] == len(CASES.get(reason, [])) == sum(row["reason"] == reason for row in rejected)
    assert all(row["detail"] for row in rejected)


def test_kept_rows_end_in_one_canonical_answer_line(tmp_path: Path):
    run_filter(tmp_path, all_rows())
    for row in read_rows(tmp_path / "kept.jsonl"):
        assert row["target"].split("\n")[-1] == "#### 5"
        assert row["target"].count("####") == 1
        assert "Problem:" not in row["target"]


def test_training_sets_are_what_llamafactory_reads(tmp_path: Path):
    run_filter(tmp_path, [teacher_row(4, GOOD), teacher_row(4, GOOD, sample=1), teacher_row(5, "no")])
    index = json.loads((tmp_path / "datasets/dataset_info.json").read_text(encoding="utf-8"))
    assert set(index) == {"gold", "distilled"}
    gold, distilled = (read_rows(tmp_path / f"datasets/{name}.jsonl") for name in ("gold", "distilled"))
    assert len(gold) == 2
    assert len(distilled) == 1
    for row in gold + distilled:
        assert list(row) == ["system", "instruction", "input", "output"]
        assert all(isinstance(value, str) for value in row.values())
    assert distilled[0]["output"] == GOOD
    assert gold[0]["instruction"] == distilled[0]["instruction"]
    assert gold[1]["output"].endswith("5+1=6 apples.\n#### 6")


def test_longer_rows_are_dropped_and_never_cut(tmp_path: Path, tiny_model: Path):
    short, long = teacher_row(4, GOOD), teacher_row(5, " ".join(f"pear{n}" for n in range(60)) + GOOD.replace("#### 5", "#### 6"))
    run_filter(tmp_path, [short, long], "--student_model", tiny_model, "--max_tokens", 330)
    kept, rejected = read_rows(tmp_path / "kept.jsonl"), read_rows(tmp_path / "kept.rejected.jsonl")
    assert kept[0]["tokens"] <= 330
    assert rejected[0]["reason"] == "too_many_tokens"


def test_a_second_run_changes_nothing_and_new_rules_are_refused(tmp_path: Path):
    rows = [teacher_row(4, GOOD)]
    run_filter(tmp_path, rows)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "teacher.jsonl"}
    assert "done already" in run_filter(tmp_path, rows).stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "teacher.jsonl"} == before
    refused(run_filter(tmp_path, rows, "--max_words", 7, check=False), "(max_words: 300 -> 7)", "--overwrite")
    run_filter(tmp_path, [*rows, teacher_row(5, GOOD)])  # more teacher rows: it is computed anew
    assert len(read_rows(tmp_path / "kept.rejected.jsonl")) == 1


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "holds no teacher rows"),
        ([teacher_row(4, GOOD), teacher_row(4, GOOD)], ":2: ('gsm8k-test-00004', 0) stands already in line 1"),
        ([problem(4)], ":1: field 'sample' is missing"),
        ([teacher_row(4, 5)], ":1: field 'response' must be str, found int"),  # type: ignore[arg-type]
        ([{**teacher_row(4, GOOD), "prompt_tokens": -1}], ":1: prompt_tokens -1 is no number of tokens"),
        ([teacher_row(4, "no")], "training set distilled: no rows are left"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, rows: list[dict[str, Any]], says: str):
    refused(run_filter(tmp_path, rows, check=False), says)
    assert not (tmp_path / "kept.jsonl.manifest.json").exists() or "running" in (
        tmp_path / "kept.jsonl.manifest.json"
    ).read_text(encoding="utf-8")


WRONG = GOOD.replace("4+1=5", "5+1=6").replace("#### 5", "#### 6")
OTHER = "He has 4 apples and gets one: 1+4 makes 5 apples.\n#### 5"


def test_declared_sets_are_written_and_an_empty_one_is_left_out(tmp_path: Path):
    rows = [teacher_row(4, WRONG), teacher_row(4, GOOD, sample=1), teacher_row(4, "By 2+3=5 and then 5*1=5 apples.\n#### 5", sample=2),
            teacher_row(5, "none"), teacher_row(5, "also none", sample=1)]  # fmt: skip
    sets = ["gold", "distilled", "teacher_raw", "rejection_sampled", "mixed", "preference", "odd = kept shortest 2"]
    run_filter(tmp_path, rows, "--sets", *sets)
    folder = tmp_path / "datasets"
    index = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    sizes = {name: len(read_rows(folder / entry["file_name"])) for name, entry in index.items()}
    assert sizes == {"gold": 2, "distilled": 1, "teacher_raw": 2, "rejection_sampled": 2, "mixed": 3, "preference": 1, "odd": 2}
    assert read_rows(folder / "teacher_raw.jsonl")[0]["output"] == WRONG
    assert index["preference"]["ranking"] is True
    pair = read_rows(folder / "preference.jsonl")[0]
    assert list(pair) == list(index["preference"]["columns"].values())
    assert (pair["chosen"], pair["rejected"]) == ("By 2+3=5 and then 5*1=5 apples.\n#### 5", WRONG)
    report = run_filter(tmp_path, rows[1:2], "--sets", "distilled", "preference", "--overwrite")
    assert "no row fits the training set preference" in report.stdout
    assert set(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))) == {"distilled"}
    assert not (folder / "preference.jsonl").exists()


def test_whole_rows_calculate_what_the_reference_solution_calculates(tmp_path: Path):
    """In their own order and words; a row that only names the results, or lacks one, is kept but not whole."""
    solution = "Tom buys 2*3=<<2*3=6>>6 apples.\nWith the 4 he has that is 10 = 6 + 4, so he has 6+4=10 apples, half of it 10/2=5.0."
    whole = "Six are bought: $3 x 2 = $6. Together 4+6 = 10 = 2*5, and each gets 10/2 = 5.\n#### 5"
    named = "He buys 6 more, has 10 and gives half of them away: 10/2=5.\n#### 5"
    rows = [teacher_row(4, named, solution=solution), teacher_row(4, whole, solution=solution, sample=1),
            teacher_row(5, GOOD, answer="5", solution="He has five.")]  # fmt: skip
    run_filter(tmp_path, rows, "--sets", "distilled = kept all", "complete = whole first")
    assert len(read_rows(tmp_path / "datasets/distilled.jsonl")) == 3
    assert [row["output"] for row in read_rows(tmp_path / "datasets/complete.jsonl")] == [whole]
    done = run_filter(tmp_path, rows, "--sets", "distilled", "mixed", check=False)
    refused(done, "'complete = whole first'] -> ['distilled = kept', 'mixed = gold + kept']")


def test_problems_without_a_kept_sample_are_written_for_another_round(tmp_path: Path):
    run_filter(tmp_path, [teacher_row(4, WRONG), teacher_row(5, GOOD), teacher_row(5, "no", sample=1),
                          teacher_row(4, GOOD, sample=1)])  # fmt: skip
    assert read_rows(tmp_path / "kept.retry.jsonl") == [{**problem(5), "retry": "wrong_answer"}]
    report = json.loads((tmp_path / "kept.report.json").read_text(encoding="utf-8"))
    assert (report["problems"], report["problems_with_kept"], report["rounds"][0]["total_tokens"]) == (2, 1, 72)


def test_near_duplicates_and_contaminated_questions_go(tmp_path: Path):
    tests = write_rows(tmp_path / "test.jsonl", [problem(5, id="gsm8k-test-99999")])
    rows = [teacher_row(4, GOOD), teacher_row(4, GOOD + "\n", sample=1), teacher_row(4, OTHER, sample=2),
            teacher_row(5, GOOD.replace("4", "5").replace("=5", "=6").replace("#### 5", "#### 6"))]  # fmt: skip
    run_filter(tmp_path, rows, "--test_paths", tests, "--max_overlap", 1)
    assert [row["sample"] for row in read_rows(tmp_path / "kept.jsonl")] == [0, 2]
    found = {row["reason"]: row["detail"] for row in read_rows(tmp_path / "kept.rejected.jsonl")}
    assert set(found) == {"near_duplicate", "contaminated"}
    assert "gsm8k-test-00005" in found["contaminated"]
    assert "gsm8k-test-99999" in found["contaminated"]


def test_the_report_shows_changes_difficulty_and_examples(tmp_path: Path):
    long = teacher_row(6, GOOD.replace("#### 5", "#### 9"), solution="word " * 40 + "6+1=7")
    changed = teacher_row(4, "<think>4+1</think>" + GOOD.replace("4+1=5", "4+1=<<4+1=5>>5") + ".\nQuestion: more?\n#### 8")
    run_filter(tmp_path, [changed, long, teacher_row(7, "no")])
    report = json.loads((tmp_path / "kept.report.json").read_text(encoding="utf-8"))
    assert report["changes"] == {"text_after_answer": 1, "answer_line": 1, "calculator_marks": 1, "headings": 0,
                                 "think_removed": 1, "think_kept": 0}  # fmt: skip
    assert [(row["read"], row["kept"]) for row in report["by_gold_words"]] == [(2, 1), (1, 0)]
    assert report["examples"]["wrong_answer"][0]["id"] == long["id"]
    text = (tmp_path / "kept.report.md").read_text(encoding="utf-8")
    assert "| wrong_answer | 1 | 33.3% |" in text
    assert "### no_answer_line" in text
    assert read_rows(tmp_path / "kept.jsonl")[0]["target"] == GOOD
    run_filter(tmp_path, [changed], "--keep_thinking", "--overwrite")
    assert read_rows(tmp_path / "kept.jsonl")[0]["target"] == "<think>\n4+1\n</think>\n\n" + GOOD


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("examples:\n- 'length keep: one two three four five six'\n- 'length keep: Five.'\n", ":3: rule length must keep"),
        ("max_words: 3\nexamples: ['length keep: a b c d e f']\n", ":2: rule length must keep"),
        ("examples: ['lenght keep: x']\n", ":1: an example is written"),
        ("max_wordz: 3\n", ":1: unknown key 'max_wordz'"),
        ("skip_rules: [lenght]\n", ":1: skip_rules: 'lenght' is not one of"),
        ("sets: ['a = gild']\n", ":1: sets: 'a = gild' does not fit (source 'gild'"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused_by_line(tmp_path: Path, text: str, says: str):
    config = tmp_path / "filter.yaml"
    config.write_text(text, encoding="utf-8")
    source = write_rows(tmp_path / "teacher.jsonl", [teacher_row(4, GOOD)])
    words = ["--config", str(config), "--input_path", str(source), "--output_path", str(tmp_path / "kept.jsonl")]
    with pytest.raises(DataError) as refusal:
        filter_teacher_cot.main(words)
    assert f"{config}{says}" in str(refusal.value)
    assert not (tmp_path / "kept.jsonl").exists()


def test_a_row_whose_id_no_problem_has_is_refused(tmp_path: Path):
    problems = write_rows(tmp_path / "problems.jsonl", [problem(4)])
    done = run_filter(tmp_path, [teacher_row(4, GOOD), teacher_row(5, GOOD)], "--problems_path", problems, check=False)
    refused(done, "teacher.jsonl:2: no problem has the id 'gsm8k-test-00005'")


@pytest.fixture
def all_sets(tmp_path: Path) -> Path:
    """A folder with all six sets, made by the filter from samples of every kind."""
    rows = [teacher_row(4, WRONG), teacher_row(4, GOOD, sample=1), teacher_row(4, OTHER, sample=2),
            teacher_row(5, GOOD.replace("4+1=5", "4+2=5")), teacher_row(5, "By 4+2=6 apples he ends.\n#### 6", sample=1),
            teacher_row(6, "none")]  # fmt: skip
    run_filter(tmp_path, rows, "--sets", "gold", "teacher_raw", "distilled", "rejection_sampled", "mixed", "preference")
    return tmp_path / "datasets"


@pytest.mark.parametrize("name", ["gold", "teacher_raw", "distilled", "rejection_sampled", "mixed", "preference"])
def test_llamafactory_loads_every_set_whole(name: str, all_sets: Path, tiny_model: Path, tmp_path: Path):
    """By its own loader: as many rows as were written, each uncut, prompt and answers in their places."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from transformers import AutoTokenizer

    written = read_rows(all_sets / f"{name}.jsonl")
    assert written
    stage = {"preference": ("dpo", "rm")}.get(name, ("sft", "sft"))
    model_args, data_args, training_args, _, _ = get_train_args({
        "model_name_or_path": str(tiny_model), "stage": stage[0], "do_train": True, "finetuning_type": "lora",
        "dataset": name, "dataset_dir": str(all_sets), "template": "qwen", "cutoff_len": 1000, "overwrite_cache": True,
        "output_dir": str(tmp_path / "out"), "report_to": "none",
    })  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage[1], tokenizer)["train_dataset"]
    assert len(data) == len(written)
    sides = {"": "output"} if name != "preference" else {"chosen_": "chosen", "rejected_": "rejected"}
    for loaded, row in zip(data, written, strict=True):
        for prefix, field in sides.items():
            text = tokenizer.decode(loaded[f"{prefix}input_ids"])
            answer = tokenizer.decode([token for token in loaded[f"{prefix}labels"] if token >= 0])
            assert answer.removesuffix("\n") == row[field] + "<|im_end|>"
            assert text.endswith(f"{row['instruction']}<|im_end|>\n<|im_start|>assistant\n{answer}")
            assert text.startswith(f"<|im_start|>system\n{row['system']}<|im_end|>")


def test_pairs_set_a_kept_sample_against_what_is_wrong_and_fits(tmp_path: Path, tiny_model: Path):
    false_mark = GOOD.replace("4+1=5", "4+1=<<4+1=6>>5")  # without its mark there is nothing wrong
    long = "Unfortunately 7+2=9 considerably heterogeneous extraterrestrials misappropriate strawberries.\n#### 9"
    rows = [teacher_row(4, GOOD), teacher_row(4, false_mark, sample=1), teacher_row(5, GOOD.replace("4+1=5", "3+1=5")),
            teacher_row(5, "By 5+1=6 he has 6 apples.\n#### 6", sample=1), teacher_row(6, "So 6+1=7 he has 7.\n#### 7"),
            teacher_row(6, "By 6+1=7 and then 7+1=8 he has 8.\n#### 8", sample=1), teacher_row(7, "By 7+1=8 he has 8.\n#### 8"),
            teacher_row(7, long, sample=1)]  # fmt: skip
    # Of like length in words, but too long in tokens: it would be cut.
    assert len(long.split()) < 2 * len(rows[6]["response"].split())
    run_filter(tmp_path, rows, "--sets", "distilled", "preference", "--student_model", tiny_model, "--max_tokens", 140)
    pairs = read_rows(tmp_path / "datasets/preference.jsonl")
    assert [pair["chosen"].rpartition("#### ")[2] for pair in pairs] == ["6", "7"]
    assert "3+1=5" in pairs[0]["rejected"]
    assert pairs[1]["rejected"].endswith("#### 8")
