"""Problems of one's own, with a kind of answer in each row, through all stages that need no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import problem, read_rows, refused, run_script, write_rows

FAKE = ("--backend", "fake")


def own(name: str, number: int, **changes: Any) -> dict[str, Any]:
    row = problem(number, id=f"{name}-train-{number:05d}", dataset=name, **{"answer_kind": "number", **changes})
    return {**row, "question": row["question"].replace("Tom", name)}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two training files of two data sets that no table knows."""
    return [
        write_rows(tmp_path / f"data/{name}/train.jsonl", [own(name, number) for number in range(start, start + 8)])
        for name, start in (("bakery", 0), ("garden", 100))
    ]


def teach(folder: Path, files: list[Path], *more: Any, **options: Any) -> Any:
    words = ["--input_path", *files, "--output_path", folder / "teacher.jsonl", "--model_name", "none"]
    return run_script("teacher_cot.py", *words, *FAKE, *more, **options)


def test_two_files_become_one_training_set_and_every_row_keeps_its_kind(tmp_path: Path, files: list[Path]):
    teach(tmp_path, files)
    rows = read_rows(tmp_path / "teacher.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for file in files for row in read_rows(file)]
    assert {row["answer_kind"] for row in rows} == {"number"}
    words = ["--input_path", tmp_path / "teacher.jsonl", "--output_path", tmp_path / "kept.jsonl"]
    run_script("filter_teacher_cot.py", *words, "--problems_path", *files, "--skip_rules", "unreached_answer")
    kept = read_rows(tmp_path / "kept.jsonl")
    assert {row["dataset"] for row in kept} == {"bakery", "garden"}
    assert all(row["target"].endswith(f"#### {row['answer']}") for row in kept)


def test_limit_holds_for_each_file(tmp_path: Path, files: list[Path]):
    teach(tmp_path, files, "--limit", 3)
    assert [row["dataset"] for row in read_rows(tmp_path / "teacher.jsonl")] == ["bakery"] * 3 + ["garden"] * 3
    teach(tmp_path, files, "--limit", 5)  # a larger limit goes on
    assert len(read_rows(tmp_path / "teacher.jsonl")) == 10


def test_an_id_in_two_files_is_refused(tmp_path: Path, files: list[Path]):
    write_rows(files[1], [own("bakery", 3)])
    refused(teach(tmp_path, files, check=False), "bakery-train-00003", str(files[0]), "remove one")
    refused(teach(tmp_path, [files[0], files[0]], check=False), f"{files[0]}: is given twice")
    assert not (tmp_path / "teacher.jsonl").exists()


def test_a_test_set_of_one_s_own_is_answered_and_scored(tmp_path: Path):
    rows = [own("bakery", number, split="test", answer="B", answer_kind="choice") for number in range(4)]
    write_rows(tmp_path / "data/bakery/test.jsonl", rows)
    place = ["--dataset", "bakery", "--data_root", tmp_path / "data"]
    run_script("infer_parallel.py", *place, "--base_model", "none", *FAKE, "--output_path", tmp_path / "p.jsonl")
    answers = ["#### B", "The answer is (b).", "So it is \\boxed{\\text{C}}", "#### A"]
    texts = [{"id": row["id"], "response": text} for row, text in zip(rows, answers, strict=True)]
    run_script("score.py", *place, "--pred_path", write_rows(tmp_path / "q.jsonl", texts))
    verdicts = [row["verdict"] for row in read_rows(tmp_path / "q.scores.jsonl")]
    assert verdicts == ["correct", "correct", "wrong", "wrong"]


def test_a_row_without_a_known_kind_stops_the_first_stage(tmp_path: Path, files: list[Path]):
    write_rows(files[0], [{**own("bakery", 0), "answer_kind": "float"}])
    refused(teach(tmp_path, files, check=False), f"{files[0]}:1", "answer_kind must be one of number, integer")
    row = own("bakery", 0)
    del row["answer_kind"]
    write_rows(files[0], [row])
    refused(teach(tmp_path, files, check=False), f"{files[0]}:1", "unknown dataset 'bakery'", "prepare_data.py")


def test_an_unknown_test_set_names_the_prepared_ones_and_how_to_make_one(tmp_path: Path, files: list[Path]):
    write_rows(tmp_path / "data/bakery/test.jsonl", [own("bakery", 0)])
    words = ["--base_model", "none", *FAKE, "--data_root", tmp_path / "data", "--output_path", tmp_path / "p.jsonl"]
    done = run_script("infer_parallel.py", "--dataset", "bakerie", *words, check=False)
    refused(done, "not found", "prepared in", "bakery", "--name bakerie --input FILE")
    refused(run_script("infer_parallel.py", "--dataset", "garden", *words, check=False), "splits of garden are train")
