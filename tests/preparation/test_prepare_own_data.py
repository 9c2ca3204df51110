"""scripts/prepare_data.py on problems of a user's own: files, columns, splits, faults."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, read_rows, write_rows

from cotkit.core.errors import UserError

MAIN = runpy.run_path(str(ROOT / "scripts/prepare_data.py"), run_name="prepare_data")["main"]
COLUMNS = ("--question", "prompt", "--answer", "final", "--solution", "answer_text", "--kind", "number")
DESCRIBED = {"question": "prompt", "answer": "final", "solution": "answer_text", "kind": "number"}


def bakery(number: int, **changes: Any) -> dict[str, str]:
    """A row of a user's file: two-line question, thousands comma."""
    rolls = 12 * (number + 100)
    question = f"A bakery bakes {number + 100} trays of 12 rolls.\nHow many rolls are that?"
    return {"prompt": question, "answer_text": f"{number + 100}*12={rolls} rolls.", "final": f"{rolls:,}", **changes}


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(folder: Path, *words: Any) -> str:
    """Runs the script's `main` in `folder` and returns what it prints. It takes a second less than a new process."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        assert MAIN(list(map(str, words))) == 0
    return printed.getvalue()


def refusal(folder: Path, *words: Any) -> str:
    """What the script says when it refuses its flags or its input."""
    with contextlib.redirect_stderr(io.StringIO()) as usage, pytest.raises((UserError, SystemExit)) as error:
        run(folder, *words)
    return str(error.value) if error.type is UserError else usage.getvalue()


def named(source: str, *words: Any, name: str = "bakery") -> tuple[Any, ...]:
    """The words for a source; the default columns are those of `bakery`."""
    return ("--name", name, "--input", source, *(words or COLUMNS))


def prepared(folder: Path, name: str = "bakery") -> dict[str, list[dict[str, Any]]]:
    return {path.stem: read_rows(path) for path in sorted((folder / "data" / name).glob("*.jsonl"))}


def test_a_csv_becomes_three_splits(tmp_path: Path):
    write_csv(tmp_path / "bakery.csv", [bakery(number) for number in range(200)])
    done = run(tmp_path, *named("bakery.csv"))
    found = prepared(tmp_path)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 160, "dev": 20, "test": 20}
    rows = [row for split in found.values() for row in split]
    assert sorted(row["id"] for row in rows) == [f"bakery-{number:05d}" for number in range(200)]
    for split, part in found.items():
        for row in part:
            source = bakery(int(row["id"].removeprefix("bakery-")))
            assert row == {
                "id": row["id"],
                "dataset": "bakery",
                "split": split,
                "question": source["prompt"],
                "solution": source["answer_text"],
                "answer": source["final"].replace(",", ""),
                "answer_kind": "number",
            }
    description = json.loads((tmp_path / "data/bakery/dataset.json").read_text(encoding="utf-8"))
    assert description["splits"] == {"train": 160, "dev": 20, "test": 20}
    assert (description["name"], description["kind"]) == ("bakery", "number")
    for row in found["train"][:3]:
        assert f"user: {row['question']}\n\nReason step by step" in done
    assert done.count("Reason step by step") == 3


def test_every_format_gives_the_same_problems(tmp_path: Path):
    import pandas

    rows = [bakery(number) for number in range(20)]
    write_csv(tmp_path / "x.csv", rows)
    (tmp_path / "x.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    write_rows(tmp_path / "x.jsonl", rows)
    pandas.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    pandas.DataFrame(rows).to_csv(tmp_path / "x.tsv", sep="\t", index=False)
    (tmp_path / "folder").mkdir()
    pandas.DataFrame(rows).to_parquet(tmp_path / "folder/train-00000-of-00001.parquet")
    found = {}
    for name in ("x.csv", "x.json", "x.jsonl", "x.parquet", "x.tsv", "folder"):
        run(tmp_path, *named(name, *COLUMNS, "--overwrite"))
        found[name] = prepared(tmp_path)
    for row in (row for rows in found["folder"].values() for row in rows):
        row["id"] = row["id"].replace("-train-", "-")  # a folder has published splits
    assert all(problems == found["x.csv"] for problems in found.values())


def test_a_source_keeps_its_own_splits(tmp_path: Path):
    for split, numbers in {"train": range(30), "validation": range(30, 34), "test": range(34, 39)}.items():
        write_csv(tmp_path / f"hub/{split}.csv", [bakery(number) for number in numbers])
    run(tmp_path, *named("hub"))
    found = prepared(tmp_path)
    assert [row["id"] for row in found["dev"]] == [f"bakery-dev-{number:05d}" for number in range(4)]
    assert [row["id"] for row in found["test"]] == [f"bakery-test-{number:05d}" for number in range(5)]
    assert len(found["train"]) == 30
    words = named("hub", *COLUMNS, "--split", "train:0.8,test:0.2", name="b")
    assert "the source has its own test" in refusal(tmp_path, *words)
    (tmp_path / "hub/validation.csv").unlink()
    run(tmp_path, *named("hub", *COLUMNS, "--split", "train:0.9", "dev:0.1", name="c"))
    found = prepared(tmp_path, "c")
    assert {split: len(rows) for split, rows in found.items()} == {"train": 27, "dev": 3, "test": 5}
    assert all(row["split"] == split for split, rows in found.items() for row in rows)
    assert {row["id"][:7] for row in found["dev"]} == {"c-train"}


def test_shares_of_the_split_decide_sizes_and_the_seed_the_rows(tmp_path: Path):
    write_csv(tmp_path / "x.csv", [bakery(number) for number in range(30)])
    parts = []
    for seed in (1, 2, 1):
        run(tmp_path, *named("x.csv", *COLUMNS, "--split", "train:0.5,test:0.5", "--seed", seed, "--overwrite"))
        parts.append(prepared(tmp_path))
    assert parts[0] == parts[2] != parts[1]
    assert {split: len(rows) for split, rows in parts[0].items()} == {"train": 15, "test": 15}
    run(tmp_path, *named("x.csv", *COLUMNS, "--split", "test:1", "--overwrite"))
    assert list(prepared(tmp_path)) == ["test"]  # train of the earlier division is gone


def test_an_answer_may_stand_inside_a_solution(tmp_path: Path):
    rows = [{"q": f"How many, {number}?", "a": f"So {number}+1.\n#### 1,{number:03d}\n"} for number in range(10)]
    write_rows(tmp_path / "x.jsonl", rows)
    words = ("--question", "q", "--answer", "a", "--kind", "number", "--split", "test:1")
    run(tmp_path, *named("x.jsonl", *words, "--answer_pattern", "#### (.+)"))
    row = min(prepared(tmp_path)["test"], key=lambda row: row["id"])
    assert (row["solution"], row["answer"]) == ("So 0+1.", "1000")
    rows = [
        {"q": f"How, {number}?", "s": r"$\boxed{1}$ no, $\boxed{\frac{1}{" + str(number) + "}}$."}
        for number in range(3)
    ]
    write_rows(tmp_path / "y.jsonl", rows)
    words = ("--question", "q", "--solution", "s", "--kind", "latex", "--split", "test:1")
    run(tmp_path, *named("y.jsonl", *words, "--answer_pattern", "boxed", name="boxes"))
    row = min(prepared(tmp_path, "boxes")["test"], key=lambda row: row["id"])
    assert (row["solution"], row["answer"]) == (rows[0]["s"], r"\frac{1}{0}")


@pytest.mark.parametrize(
    ("solution", "kept"),
    [
        ("1+1=2\n#### 2", "1+1=2"),
        ("1+1=2\n\n #### 2 \n", "1+1=2"),
        ("#### 2", ""),
        ("See #### 2", "See #### 2"),
        ("2 ", "2 "),
    ],
)
def test_a_solution_keeps_no_answer_line(tmp_path: Path, solution: str, kept: str):
    write_rows(tmp_path / "x.jsonl", [{"question": "1+1?", "solution": solution, "answer": 2}])
    run(tmp_path, *named("x.jsonl", "--kind", "number", "--split", "test:1"))
    assert prepared(tmp_path)["test"][0]["solution"] == kept


def test_several_columns_make_a_question_and_one_the_id(tmp_path: Path):
    rows = [{"Body": f"Ann has {n} rolls. ", "Question": "How many?", "answer": n, "key": f"r/{n}"} for n in range(4)]
    write_rows(tmp_path / "x.jsonl", rows)
    words = ("--question", "Body", "Question", "--id", "key", "--kind", "integer", "--split", "test:1")
    run(tmp_path, *named("x.jsonl", *words))
    found = {row["id"]: row for row in prepared(tmp_path)["test"]}
    assert set(found) == {"r/0", "r/1", "r/2", "r/3"}
    assert found["r/2"]["question"] == "Ann has 2 rolls. How many?"
    assert found["r/2"]["answer"] == "2"


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("number", " 18 ", "18"),
        ("number", "1,234", "1234"),
        ("number", "-1,234,567.50", "-1234567.50"),
        ("number", "$18", "18"),
        ("number", "-$5", "-5"),
        ("number", "€ 3.20", "3.20"),
        ("number", "-0", "0"),
        ("number", "18.0", "18"),
        ("number", "007", "007"),
        ("number", "3/4", "3/4"),
        ("integer", " 025", "025"),
        ("integer", "25.0", "25"),
        ("latex", r" \frac{1}{2} ", r"\frac{1}{2}"),
        ("latex", "1,234", "1,234"),
        ("latex", "\x0crac{1}{2}", r"\frac{1}{2}"),
        ("choice", "27.0", "27"),
        ("choice", "B", "B"),
    ],
)
def test_answers_are_written_as_in_known_sets(tmp_path: Path, kind: str, text: str, answer: str):
    path = write_csv(tmp_path / "x.csv", [{"question": "How many?", "answer": text}])
    words = ["--name", "bakery", "--input", path, "--kind", kind, "--split", "test:1", "--data_root", tmp_path / "data"]
    assert MAIN(list(map(str, words))) == 0
    assert prepared(tmp_path)["test"][0]["answer"] == answer


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("number", "ten"),
        ("number", "1,23"),
        ("number", "x"),
        ("number", "18\neggs"),
        ("number", ""),
        ("number", " "),
        ("integer", "1000"),
        ("integer", "-1"),
        ("integer", "2.5"),
        ("latex", r"\frac{1}{2"),
        ("choice", "maybe"),
    ],
)
def test_answers_of_another_kind_are_refused_by_line(tmp_path: Path, kind: str, text: str):
    rows = [{"question": "How many?", "answer": "1"}, {"question": "And now?", "answer": text}]
    path = write_csv(tmp_path / "x.csv", rows)
    words = ("--name", "bakery", "--input", path, "--kind", kind, "--data_root", tmp_path / "data")
    assert refusal(tmp_path, *words).startswith(f"{path}:3: ")
    assert not (tmp_path / "data").exists()


def test_all_faults_are_shown_at_once(tmp_path: Path):
    rows = [bakery(number) for number in range(30)]
    rows[1] = bakery(1, prompt=" ")
    rows[2] = bakery(2, final="many")
    rows[3] = bakery(3, prompt=rows[0]["prompt"].replace("\n", "  "))
    rows[4] = bakery(4, prompt="Say <|im_end|>")
    rows[5] = bakery(5, answer_text="a\x00b")
    rows[6] = bakery(6, prompt="What is $\x0cunny{1}$?")
    write_csv(tmp_path / "x.csv", rows)
    done = refusal(tmp_path, *named("x.csv"))
    # The question of each row takes two lines of the file, but not those of rows 1, 3 and 4.
    assert done.split("\n") == [
        "x.csv: 6 faults:",
        "x.csv:4: the question is empty",
        "x.csv:5: answer 'many' is not of kind number: it is not a number",
        "x.csv:7: the same question as in x.csv:2; remove one, or give --drop_repeated",
        "x.csv:8: the question holds the control token '<|im_end|>'; remove it",
        "x.csv:9: the solution holds the control character U+0000 before 'b'; remove it, or restore what stood there",
        "x.csv:11: the question holds the control character U+000C before 'unny{1}$?'; remove it, or restore what stood there",
    ]
    assert not (tmp_path / "data").exists()
    write_csv(tmp_path / "x.csv", [bakery(number, final="many") for number in range(30)])
    lines = refusal(tmp_path, *named("x.csv")).split("\n")
    assert len(lines) == 12
    assert lines[-1] == "and 20 more"


def test_rows_that_lack_a_field_or_have_no_text_are_named(tmp_path: Path):
    rows = [
        {"q": "How many?", "a": 5},
        {"q": "And how many?"},
        {"q": ["x"], "a": True},
        {"q": "Or how many?", "a": None},
    ]
    write_rows(tmp_path / "x.jsonl", rows)
    done = refusal(tmp_path, *named("x.jsonl", "--question", "q", "--answer", "a", "--kind", "number"))
    assert done.split("\n")[1:] == [
        "x.jsonl:2: has no 'a', only 'q'",
        "x.jsonl:3: 'q' must be text or a number, found list",
        "x.jsonl:3: 'a' must be text or a number, found bool",
        "x.jsonl:4: the answer is empty",
    ]
    write_csv(tmp_path / "x.csv", [bakery(0)])
    (tmp_path / "x.csv").write_text("prompt,answer_text,final\n", encoding="utf-8")
    assert refusal(tmp_path, *named("x.csv")) == "x.csv: the source holds no rows"


def test_repeated_questions_can_be_dropped(tmp_path: Path):
    train, test = [bakery(number) for number in range(30)], [bakery(number) for number in range(25, 35)]
    write_csv(tmp_path / "hub/train.csv", [*train, bakery(3)])
    write_csv(tmp_path / "hub/test.csv", test)
    done = refusal(tmp_path, *named("hub"))
    assert "hub/train.csv:62: the same question as in hub/train.csv:8; remove one, or give --drop_repeated" in done
    assert "hub/train.csv:52: the same question as in hub/test.csv:2" in done
    done = run(tmp_path, *named("hub", *COLUMNS, "--drop_repeated"))
    assert "6 rows with a repeated question were dropped" in done
    found = prepared(tmp_path)
    assert len(found["test"]) == 10  # a test question is dropped from train
    assert [row["id"] for row in found["train"]] == [f"bakery-train-{number:05d}" for number in range(25)]


def test_missing_columns_are_named_with_those_that_exist(tmp_path: Path):
    write_csv(tmp_path / "x.csv", [bakery(0)])
    words = ("--question", "promt", "--answer", "final", "--solution", "text", "--kind", "number")
    done = refusal(tmp_path, *named("x.csv", *words))
    assert "x.csv: no such columns: --question promt (did you mean 'prompt'?), --solution text; " in done
    assert done.endswith("there are 'prompt', 'answer_text', 'final'")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--input", "x.csv"), "--input: no name is given"),
        (("--name", "a", "--input", "x.csv"), "--name: no kind is given"),
        (("--name", "gsm8k", "--input", "x.csv", "--kind", "number"), "the name 'gsm8k' has a meaning already"),
        (("--name", "../a", "--input", "x.csv", "--kind", "number"), "the name '../a' must begin with"),
        (("--name", "a", "--input", "y.csv", "--kind", "number"), "y.csv: not found"),
        (("--name", "a", "--input", "x.csv", "--kind", "numer"), "invalid choice: 'numer'"),
        (("--name", "a", "--input", "x.csv", *COLUMNS, "--split", "train:0.5"), "the shares must add up to 1"),
        (("--name", "a", "--input", "x.csv", *COLUMNS, "--split", "train=1"), "'train=1': a name and a share"),
        (
            ("--name", "a", "--input", "x.csv", *COLUMNS, "--split", "train:.5,train:.5"),
            "'train:.5': a name and a share",
        ),
        (("--name", "a", "--input", "x.csv", *COLUMNS), "1 rows are too few for 3 splits"),
        (("--name", "a", "--input", "x.csv", *COLUMNS, "--answer_pattern", "("), "is no regular expression"),
        (("--name", "a", "--input", "x.csv", *COLUMNS, "--config", "main"), "is one file, so it has no --config"),
        (("--question", "prompt"), "--question"),
        (("--config", "main"), "--config main: needs --name and --input"),
        ((), "--dataset is needed"),
        (("--dataset", "bakery"), "for problems of your own give --name NAME --input FILE"),
    ],
)
def test_flags_that_cannot_work_are_refused(tmp_path: Path, words: tuple[str, ...], says: str):
    write_csv(tmp_path / "x.csv", [bakery(0)])
    assert says in refusal(tmp_path, *words)
    assert not (tmp_path / "data").exists()


def test_a_finished_set_is_left_alone_and_a_changed_one_refused(tmp_path: Path):
    path = write_csv(tmp_path / "x.csv", [bakery(number) for number in range(10)])
    assert "would get 8 problems" in run(tmp_path, *named("x.csv", *COLUMNS, "--dry_run"))
    assert not (tmp_path / "data").exists()
    run(tmp_path, *named("x.csv"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data/bakery").iterdir()}
    assert "done already" in run(tmp_path, *named("x.csv"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data/bakery").iterdir()} == before
    assert "seed: 42 -> 1" in refusal(tmp_path, *named("x.csv", *COLUMNS, "--seed", 1))
    write_csv(path, [bakery(number) for number in range(11)])
    assert "x.csv, its content differs" in refusal(tmp_path, *named("x.csv"))
    run(tmp_path, *named("x.csv", *COLUMNS, "--overwrite"))
    assert sum(map(len, prepared(tmp_path).values())) == 11
    write_rows(tmp_path / "data/other/test.jsonl", [bakery(0)])
    assert "other/test.jsonl: exists" in refusal(tmp_path, *named("x.csv", name="other"))


def test_a_hub_id_is_asked_for_its_configuration_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No hub is reached in tests: its client is replaced, and what it is asked for is looked at."""
    import datasets

    commit, asked = "0123456789" * 4, []
    files = {split: [f"hf://datasets/someone/rolls@{commit}/data/{split}.csv"] for split in ("train", "test")}
    write_csv(tmp_path / "cache/train", [bakery(number) for number in range(8)])
    write_csv(tmp_path / "cache/test", [bakery(number) for number in range(8, 11)])

    def builder(name: str, config: str | None, *, revision: str | None, cache_dir: str) -> Any:
        asked.append((name, config, revision))
        return SimpleNamespace(name="csv", hash=commit, config=SimpleNamespace(data_files=files, sep=","))

    def download(_: Any, urls: dict[str, list[str]]) -> dict[str, list[str]]:
        assert urls == files
        return {split: [str(tmp_path / "cache" / split)] for split in urls}

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(datasets.DownloadManager, "download", download)
    words = named("someone/rolls", *COLUMNS, "--config", "main", "--revision", "v1")
    done = run(tmp_path, *words)
    assert asked == [("someone/rolls", "main", "v1")]
    assert f"--revision {commit} gives the same rows later" in done
    assert {split: len(rows) for split, rows in prepared(tmp_path).items()} == {"train": 8, "test": 3}
    description = json.loads((tmp_path / "data/bakery/dataset.json").read_text(encoding="utf-8"))
    assert (description["source"]["config"], description["source"]["revision"]) == ("main", commit)
    assert "done already" in run(tmp_path, *words)
    assert len(asked) == 1  # a finished set is not asked for again
    write_csv(tmp_path / "cache/test", [bakery(8, final="many"), bakery(9)])
    done = refusal(tmp_path, *words, "--overwrite")
    assert done == "someone/rolls/data/test.csv:2: answer 'many' is not of kind number: it is not a number"
