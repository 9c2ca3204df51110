"""The training sets that the filter writes, as LLaMA-Factory loads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import read_rows, refused, run_script, write_rows
from filtering.test_filter import GOOD, OTHER, WRONG, run_filter, teacher_row


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


def test_gold_solutions_are_written_one_operation_at_a_time(tmp_path: Path):
    row = teacher_row(4, GOOD) | {"solution": "She has 1+2+3 = <<1+2+3=6>>6 apples and eats 1, so 6-1=5."}
    run_filter(tmp_path, [row], "--sets", "gold", "gold_split", "distilled", "both = gold_split + kept")
    gold, split, both = (read_rows(tmp_path / f"datasets/{name}.jsonl") for name in ("gold", "gold_split", "both"))
    assert gold[0]["output"] == "She has 1+2+3 = 6 apples and eats 1, so 6-1=5.\n#### 5"
    assert split[0] == {**gold[0], "output": "She has 1+2+3 = 3 + 3 = 6 apples and eats 1, so 6-1=5.\n#### 5"}
    assert [row["output"] for row in both] == [split[0]["output"], GOOD]


def test_declared_sets_are_written_and_an_empty_one_is_left_out(tmp_path: Path):
    rows = [
        teacher_row(4, WRONG),
        teacher_row(4, GOOD, sample=1),
        teacher_row(4, "By 2+3=5 and then 5*1=5 apples.\n#### 5", sample=2),
        teacher_row(5, "none"),
        teacher_row(5, "also none", sample=1),
    ]
    sets = ["gold", "distilled", "teacher_raw", "rejection_sampled", "mixed", "preference", "odd = kept shortest 2"]
    run_filter(tmp_path, rows, "--sets", *sets)
    folder = tmp_path / "datasets"
    index = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    sizes = {name: len(read_rows(folder / entry["file_name"])) for name, entry in index.items()}
    assert sizes == {
        "gold": 2,
        "distilled": 1,
        "teacher_raw": 2,
        "rejection_sampled": 2,
        "mixed": 3,
        "preference": 1,
        "odd": 2,
    }
    assert read_rows(folder / "teacher_raw.jsonl")[0]["output"] == WRONG
    assert index["preference"]["ranking"] is True
    pair = read_rows(folder / "preference.jsonl")[0]
    assert list(pair) == list(index["preference"]["columns"].values())
    assert (pair["chosen"], pair["rejected"]) == ("By 2+3=5 and then 5*1=5 apples.\n#### 5", WRONG)
    report = run_filter(tmp_path, rows[1:2], "--sets", "distilled", "preference", "--overwrite")
    assert "no row fits the training set preference" in report.stdout
    assert set(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))) == {"distilled"}
    assert not (folder / "preference.jsonl").exists()


def test_sets_with_the_same_rows_are_named(tmp_path: Path):
    rows = [teacher_row(4, GOOD), teacher_row(5, GOOD)]
    sets = ["distilled", "rejection_sampled", "mixed", "gold", "copy = gold", "few = kept shortest"]
    lines = run_filter(tmp_path, rows, "--sets", *sets).stdout.splitlines()
    assert [line for line in lines if line.startswith("note:")] == [
        "note: distilled and rejection_sampled and few hold the same rows: methods trained on them differ by chance alone",
        "note: gold and copy hold the same rows: methods trained on them differ by chance alone",
    ]


def test_complete_rows_calculate_what_the_reference_solution_calculates(tmp_path: Path):
    """In their own order and words; a row that only names the results, or lacks one, is kept but not complete."""
    solution = "Tom buys 2*3=<<2*3=6>>6 apples.\nWith the 4 he has that is 10 = 6 + 4, so he has 6+4=10 apples, half of it 10/2=5.0."
    complete = "Six are bought: $3 x 2 = $6. Together 4+6 = 10 = 2*5, and each gets 10/2 = 5.\n#### 5"
    named = "He buys 6 more, has 10 and gives half of them away: 10/2=5.\n#### 5"
    rows = [
        teacher_row(4, named, solution=solution),
        teacher_row(4, complete, solution=solution, sample=1),
        teacher_row(5, GOOD, answer="5", solution="He has five."),
    ]
    run_filter(tmp_path, rows, "--sets", "distilled = kept all", "complete = complete first")
    assert len(read_rows(tmp_path / "datasets/distilled.jsonl")) == 3
    assert [row["output"] for row in read_rows(tmp_path / "datasets/complete.jsonl")] == [complete]
    done = run_filter(tmp_path, rows, "--sets", "distilled", "mixed", check=False)
    refused(done, "'complete = complete first'] -> ['distilled = kept', 'mixed = gold + kept']")


@pytest.fixture
def all_sets(tmp_path: Path) -> Path:
    """A folder with all six sets, made by the filter from samples of every kind."""
    rows = [
        teacher_row(4, WRONG),
        teacher_row(4, GOOD, sample=1),
        teacher_row(4, OTHER, sample=2),
        teacher_row(5, GOOD.replace("4+1=5", "4+2=5")),
        teacher_row(5, "By 4+2=6 apples he ends.\n#### 6", sample=1),
        teacher_row(6, "none"),
    ]
    run_filter(tmp_path, rows, "--sets", "gold", "teacher_raw", "distilled", "rejection_sampled", "mixed", "preference")
    return tmp_path / "datasets"


@pytest.mark.parametrize("name", ["gold", "teacher_raw", "distilled", "rejection_sampled", "mixed", "preference"])
def test_llamafactory_loads_every_row_of_every_set(name: str, all_sets: Path, tiny_model: Path, tmp_path: Path):
    """By its own loader: as many rows as were written, each untruncated, prompt and answers in the right fields."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from transformers import AutoTokenizer

    written = read_rows(all_sets / f"{name}.jsonl")
    assert written
    stage = {"preference": ("dpo", "rm")}.get(name, ("sft", "sft"))
    model_args, data_args, training_args, _, _ = get_train_args(
        {
            "model_name_or_path": str(tiny_model),
            "stage": stage[0],
            "do_train": True,
            "finetuning_type": "lora",
            "dataset": name,
            "dataset_dir": str(all_sets),
            "template": "qwen",
            "cutoff_len": 1000,
            "overwrite_cache": True,
            "output_dir": str(tmp_path / "out"),
            "report_to": "none",
        }
    )
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


@pytest.mark.slow
def test_pairs_set_a_kept_sample_against_what_is_wrong_and_fits(tmp_path: Path, tiny_model: Path):
    false_mark = GOOD.replace("4+1=5", "4+1=<<4+1=6>>5")  # without its mark there is nothing wrong
    long = "Unfortunately 7+2=9 considerably heterogeneous extraterrestrials misappropriate strawberries.\n#### 9"
    rows = [
        teacher_row(4, GOOD),
        teacher_row(4, false_mark, sample=1),
        teacher_row(5, GOOD.replace("4+1=5", "3+1=5")),
        teacher_row(5, "By 5+1=6 he has 6 apples.\n#### 6", sample=1),
        teacher_row(6, "So 6+1=7 he has 7.\n#### 7"),
        teacher_row(6, "By 6+1=7 and then 7+1=8 he has 8.\n#### 8", sample=1),
        teacher_row(7, "By 7+1=8 he has 8.\n#### 8"),
        teacher_row(7, long, sample=1),
    ]
    # Of similar length in words, but too long in tokens: training would truncate it.
    assert len(long.split()) < 2 * len(rows[6]["response"].split())
    run_filter(tmp_path, rows, "--sets", "distilled", "preference", "--student_model", tiny_model, "--max_tokens", 140)
    pairs = read_rows(tmp_path / "datasets/preference.jsonl")
    assert [pair["chosen"].rpartition("#### ")[2] for pair in pairs] == ["6", "7"]
    assert "3+1=5" in pairs[0]["rejected"]
    assert pairs[1]["rejected"].endswith("#### 8")


def test_two_outputs_in_one_folder_keep_their_sets_apart(tmp_path: Path):
    source = write_rows(tmp_path / "teacher.jsonl", [teacher_row(4, GOOD)])
    words = ["filter_teacher_cot.py", "--input_path", source, "--output_path"]
    run_script(*words, tmp_path / "kept.jsonl")
    before = {path: path.read_bytes() for path in (tmp_path / "datasets").iterdir()}
    second = [*words, tmp_path / "strict.jsonl", "--sets", "distilled"]
    done = run_script(*second, check=False)
    refused(done, f"{tmp_path}/datasets: holds the training sets of {tmp_path}/kept.jsonl; give --dataset_dir another")
    run_script(*second, "--dataset_dir", tmp_path / "strict")
    run_script(*words, tmp_path / "kept.jsonl", "--overwrite")
    assert {path: path.read_bytes() for path in (tmp_path / "datasets").iterdir()} == before
    assert (tmp_path / "strict/distilled.jsonl").is_file()
