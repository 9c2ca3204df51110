from __future__ import annotations

import json
import math
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import ROOT, SHARED_DATA, problem, raw_data, raw_rows, read_rows, refused, run_script, write_rows

from cotkit.core.datasets import DATASETS, DataSet, Published
from cotkit.core.errors import UserError
from cotkit.filtering.contamination import TestQuestions
from cotkit.filtering.options import NGRAM
from cotkit.preparation.own_problems import last_boxed

PUBLISHED = ("gsm8k/train.jsonl", "gsm8k/test.jsonl", "math500/test.jsonl")
# The fields of the files of AIME and AMC, whose problems may not be copied here.
COMPETITION = {"id": 60, "problem": "How many?", "question": "How many?", "solution": "It is 25.", "url": ""}


def prepare(root: Path, *datasets: str, **options: Any) -> Any:
    return run_script("scripts/prepare_data.py", "--data_root", root, "--dataset", *datasets, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of raw files: the real ones, and invented problems for AIME and AMC if theirs are not here."""
    folder = tmp_path_factory.mktemp("raw")
    for name in PUBLISHED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(raw_data(name).read_bytes())
    for name, answers in (
        ("aime/aime24", ["025", "204"]),
        ("aime/aime25", ["70", "588"]),
        ("amc23/test", ["27", 36.0]),
    ):
        full = raw_data(f"{name}.jsonl")
        rows = read_rows(full) if full.is_file() else [COMPETITION | {"answer": answer} for answer in answers]
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def real(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    prepare(root, "gsm8k", "math500", "aime", "aime25", "amc23", "--source", source)
    return root


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("gsm8k/test", "gsm8k/test"),
        ("math500/test", "math500/test"),
        ("aime/test", "aime/aime24"),
        ("aime25/test", "aime/aime25"),
        ("amc23/test", "amc23/test"),
    ],
)
def test_every_source_row_is_a_problem(source: Path, real: Path, path: str, raw: str):
    found = read_rows(real / f"{path}.jsonl")
    assert len(found) == len(read_rows(source / f"{raw}.jsonl"))
    assert len({row["id"] for row in found}) == len(found)
    for row in found:
        assert all(type(row[key]) is str for key in ("id", "dataset", "split", "question", "solution", "answer"))
        assert row["question"].strip()
        assert row["answer"].strip()
        assert "####" not in row["solution"]


def test_gsm8k_is_split_as_in_the_original(real: Path):
    count = len(raw_rows("gsm8k/train.jsonl"))
    order = [int(number) for number in numpy.random.default_rng(42).permutation(count)]
    dev = math.ceil(0.1 * count)
    numbers = {"dev": order[:dev], "train": order[dev:]}
    if count == 7473:
        published = json.loads((SHARED_DATA / "splits/gsm8k_train_dev_seed42.json").read_text(encoding="utf-8"))
        assert {split: published[split] for split in numbers} == numbers
    for split in ("train", "dev"):
        rows = read_rows(real / f"gsm8k/{split}.jsonl")
        assert [row["id"] for row in rows] == [f"gsm8k-train-{number:05d}" for number in numbers[split]]
        assert {row["split"] for row in rows} == {split}


def test_fields_are_the_source_rows(real: Path):
    raw = raw_rows("gsm8k/train.jsonl")
    rows = {row["id"]: row for split in ("train", "dev") for row in read_rows(real / f"gsm8k/{split}.jsonl")}
    for position, source in enumerate(raw.values()):
        row = rows[f"gsm8k-train-{position:05d}"]
        assert row["question"] == source["question"]
        assert source["answer"].startswith(row["solution"])
        assert source["answer"].split("#### ")[1].replace(",", "") == row["answer"]
    assert "\u2028" in rows[f"gsm8k-train-{list(raw).index(2381):05d}"]["question"]
    amc = read_rows(real / "amc23/test.jsonl")
    assert amc[0]["answer"] == "27"
    subjects = [row["subject"] for row in raw_rows("math500/test.jsonl").values()]
    assert [row["subject"] for row in read_rows(real / "math500/test.jsonl")] == subjects


@pytest.mark.slow
def test_gsm_symbolic_is_made_from_its_seed_with_disjoint_splits(tmp_path: Path):
    prepare(tmp_path / "a", "gsm_symbolic")
    prepare(tmp_path / "b", "gsm_symbolic")
    splits = {}
    for split in ("train", "dev", "test", "expert"):
        first, second = (tmp_path / side / f"gsm_symbolic/{split}.jsonl" for side in "ab")
        assert first.read_bytes() == second.read_bytes()
        splits[split] = read_rows(first)
    questions = [row["question"] for rows in splits.values() for row in rows]
    assert len(set(questions)) == len(questions) == 5100
    for row in splits["test"]:
        assert "Give the result" not in row["question"]
        assert len(row["question"].split()) <= 45
        assert 0 < len(row["solution"].split()) <= 32
        assert row["answer"] in row["solution"] or row["answer"].rstrip("0").rstrip(".") in row["solution"]


@pytest.mark.slow
def test_a_bound_keeps_the_problems_with_small_numbers(tmp_path: Path):
    run_script("scripts/prepare_data.py", "--dataset", "gsm_symbolic", "--data_root", tmp_path, "--max_number", 50)
    splits = {
        split: read_rows(tmp_path / f"gsm_symbolic/{split}.jsonl")
        for split in ("train", "dev", "test", "expert", "unlabeled")
    }
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 2000,
        "dev": 200,
        "test": 500,
        "expert": 2400,
        "unlabeled": 1280,
    }
    texts = [" ".join((row["question"], row["solution"], row["answer"])) for rows in splits.values() for row in rows]
    numbers = [float(number) for text in texts for number in re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))]
    assert 40 < max(numbers) <= 50
    described = json.loads((tmp_path / "gsm_symbolic/dataset.json").read_text(encoding="utf-8"))
    assert described["source"]["max_number"] == 50
    refused(prepare(tmp_path, "gsm_symbolic", check=False), "max_number: 50 -> None")


@pytest.mark.parametrize(
    ("text", "largest"), [("no number", 0), ("1,200 nails, $0.75", 1200), ("5,6 and 7.", 7), ("1/2*157=78.5", 157)]
)
def test_numbers_are_read_with_thousands_and_decimals(text: str, largest: float):
    assert runpy.run_path(str(ROOT / "scripts/prepare_data.py"))["largest_number"](text) == largest


def test_a_bound_for_numbers_is_refused_where_nothing_is_generated(tmp_path: Path):
    done = prepare(tmp_path, "gsm8k", "--max_number", 9, check=False)
    refused(done, "--max_number 9: only gsm_symbolic is generated")


def test_a_second_call_does_nothing(tmp_path: Path):
    prepare(tmp_path, "gsm_symbolic")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "gsm_symbolic").iterdir()}
    assert "done already" in prepare(tmp_path, "gsm_symbolic").stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "gsm_symbolic").iterdir()} == before


def test_a_set_that_was_made_with_fewer_splits_gets_the_others_and_keeps_its_own(tmp_path: Path):
    script = runpy.run_path(str(ROOT / "scripts/prepare_data.py"), run_name="prepare_data")

    def prepared(**sizes: int) -> dict[str, bytes]:
        script["SYMBOLIC_SIZES"].update(sizes)
        assert script["main"](["--dataset", "gsm_symbolic", "--data_root", str(tmp_path)]) == 0
        return {path.stem: path.read_bytes() for path in (tmp_path / "gsm_symbolic").glob("*.jsonl")}

    script["SYMBOLIC_SIZES"].clear()
    before, after = prepared(test=5, dev=4, train=6), prepared(expert=7)
    assert before == {split: after[split] for split in ("test", "dev", "train")}
    assert after["expert"].count(b"\n") == 7
    with pytest.raises(UserError, match="sizes"):
        prepared(train=8)


def test_no_expert_question_is_contained_in_a_question_of_another_split():
    """By the filter's measure: the share of a question's runs of words that one other question has too."""
    script = runpy.run_path(str(ROOT / "scripts/prepare_data.py"), run_name="prepare_data")
    splits = script["gsm_symbolic"](42, 100)
    others = [(row["id"], row["question"]) for split in ("train", "dev", "test") for row in splits[split]]
    grams = TestQuestions(others, NGRAM)
    shares = [found.share for row in splits["expert"] if (found := grams.closest(row["question"]))]
    assert len(splits["expert"]) == 2400 and shares and max(shares) < 1


def test_the_hub_is_asked_for_pinned_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No hub is reached in tests: its client is replaced, and what it is asked for is looked at."""
    import datasets

    asked = []

    def fake(repository: str, config: str | None, *, split: str, revision: str) -> Any:
        asked.append((repository, config, split, revision))
        row = {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 1,002", "problem": "p", "solution": "s"}
        return datasets.Dataset.from_list([row] * 10)

    monkeypatch.setattr(datasets, "load_dataset", fake)
    script = runpy.run_path(str(ROOT / "scripts/prepare_data.py"), run_name="prepare_data")
    assert script["main"](["--dataset", "gsm8k", "--data_root", str(tmp_path)]) == 0
    assert {(repository, config, split) for repository, config, split, _ in asked} == {
        ("openai/gsm8k", "main", "train"),
        ("openai/gsm8k", "main", "test"),
    }
    sources = [source for dataset in DATASETS.values() for source in dataset.splits.values()]
    assert all(re.fullmatch("[0-9a-f]{40}", source.revision) for source in sources)
    rows = read_rows(tmp_path / "gsm8k/train.jsonl")
    assert len(rows) == 9
    assert rows[0]["answer"] == "1002"
    assert rows[0]["solution"] == "1+1=<<1+1=2>>2"


def test_what_is_not_there_is_refused_by_name(tmp_path: Path):
    refused(prepare(tmp_path, "gsm8k", "--source", str(tmp_path), check=False), "gsm8k/train.jsonl: not found")
    done = prepare(tmp_path, "gsm9k", check=False)
    assert done.returncode == 2
    assert "invalid choice: 'gsm9k'" in done.stderr


@pytest.fixture(scope="module")
def math_set(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the prepared set math, and what was printed."""
    root = tmp_path_factory.mktemp("math")
    rows = list(raw_rows("math/train-00.jsonl").values())
    if raw_data("math/train-01.jsonl").is_file():
        rows += read_rows(raw_data("math/train-01.jsonl"))
    else:  # the sample lacks what must be removed
        asked = read_rows(raw_data("math500/test.jsonl"))
        rows += [{**rows[0], "problem": asked[0]["problem"]}, {**rows[0], "solution": "There is no box."}]
    write_rows(source / "math/train-00.jsonl", rows[:-1])
    write_rows(source / "math/train-01.jsonl", rows[-1:])
    return root / "math", prepare(root, "math", "--source", source).stdout


def test_math_is_training_data_without_the_problems_of_math500(source: Path, real: Path, math_set: tuple[Path, str]):
    folder, printed = math_set
    found = re.search(
        r"math: (\d+) rows; removed: (\d+) without .*, (\d+) with the text .*, (\d+) with .*; (\d+)", printed
    )
    assert found is not None, printed
    read, unreadable, text, ngrams, left = map(int, found.groups())
    train, dev = (read_rows(folder / f"{split}.jsonl") for split in ("train", "dev"))
    assert read - unreadable - text - ngrams == left == len(train) + len(dev)
    assert len(dev) == -(-left // 10)
    assert text >= 1
    assert unreadable >= 1
    if read == 7500:
        assert (unreadable, text, ngrams, left) == (2, 1, 54, 7443)
    raw = [row for name in ("train-00", "train-01") for row in read_rows(source / f"math/{name}.jsonl")]
    asked = {" ".join(re.findall(r"\w+", row["question"])) for row in read_rows(real / "math500/test.jsonl")}
    for row in [*train, *dev]:
        one = raw[int(row["id"].removeprefix("math-train-"))]
        assert row["answer"] == one["answer"].strip().removesuffix(".0")
        assert row["solution"] == one["solution"]
        assert " ".join(re.findall(r"\w+", row["question"])) not in asked
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8")) == {
        "name": "math",
        "kind": "latex",
        "source": {"raw_files": str(source)},
        "splits": {"train": len(train), "dev": len(dev)},
    }


def test_the_last_box_is_balanced():
    assert last_boxed(r"\boxed{1} so \boxed{\frac{1}{\text{\}}}} and {x}") == r"\frac{1}{\text{\}}}"
    assert last_boxed(r"so \boxed 5") == "5"
    assert last_boxed(r"\fbox{3}") == ""
    assert last_boxed(r"\boxed{open") == ""


def test_svamp_and_gsm_plus_are_test_sets(tmp_path: Path):
    """The columns are those of the hub; the rows are invented."""
    svamp = {"ID": "chal-1", "Body": "Ann has 5 apples", "Question": "How many has she?", "Answer": "5.0", "Type": "x"}
    write_rows(tmp_path / "svamp/test.jsonl", [svamp, {**svamp, "Answer": "1,000"}])
    plus = {
        "question": "How many?",
        "solution": "2+2=4\n#### 4",
        "answer": "4",
        "perturbation_type": "adding operation",
    }
    rows = [plus, {**plus, "answer": "None", "perturbation_type": "critical thinking", "solution": "x\n#### None"}]
    write_rows(tmp_path / "gsm_plus/test.jsonl", [*rows, {**plus, "solution": "#### 1/4"}])
    prepare(tmp_path / "data", "svamp", "gsm_plus", "--source", tmp_path)
    found = read_rows(tmp_path / "data/svamp/test.jsonl")
    assert [row["answer"] for row in found] == ["5", "1000"]
    assert found[0]["question"] == "Ann has 5 apples How many has she?"
    assert found[0]["solution"] == ""
    found = read_rows(tmp_path / "data/gsm_plus/test.jsonl")
    assert [(row["id"], row["answer"], row["solution"]) for row in found] == [
        ("gsm_plus-test-00000", "4", "2+2=4"),
        ("gsm_plus-test-00002", "1/4", ""),
    ]


def test_damaged_formulas_of_a_published_set_are_repaired_or_refused(tmp_path: Path):
    rows = [{**COMPETITION, "problem": "", "question": "Find $\x0crac{1}{2}$", "answer": "070"}]
    write_rows(tmp_path / "aime/aime25.jsonl", rows)
    prepare(tmp_path / "a", "aime25", "--source", tmp_path)
    assert read_rows(tmp_path / "a/aime25/test.jsonl")[0]["question"] == r"Find $\frac{1}{2}$"
    write_rows(tmp_path / "aime/aime25.jsonl", [*rows, {**rows[0], "question": "Find \x0crackling"}])
    done = prepare(tmp_path / "b", "aime25", "--source", tmp_path, check=False)
    refused(done, "aime25: row 1 of test: the question holds the control character U+000C before 'rackling'")
    assert not (tmp_path / "b/aime25/test.jsonl").exists()


def test_every_prepared_set_is_described(real: Path):
    for folder in real.iterdir():
        found = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        assert found["name"] == folder.name
        assert found["kind"] == DATASETS[folder.name].kind
        assert found["splits"] == {path.stem: len(read_rows(path)) for path in folder.glob("*.jsonl")}


def test_a_new_data_set_is_one_entry_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    columns = replace(DATASETS["svamp"].splits["test"].columns, question=("text",), solution=None, answer="sum")
    entry = Published("someone/sums", "0" * 40, ("sums.jsonl",), columns)
    monkeypatch.setitem(DATASETS, "sums", DataSet("number", {"test": entry}))
    write_rows(tmp_path / "sums.jsonl", [{"text": "1+1?", "sum": 2}])
    script = runpy.run_path(str(ROOT / "scripts/prepare_data.py"), run_name="prepare_data")
    args = ["--source", str(tmp_path), "--data_root", str(tmp_path / "data"), "--dataset", "sums"]
    assert script["main"](args) == 0
    assert read_rows(tmp_path / "data/sums/test.jsonl")[0]["answer"] == "2"


@pytest.mark.parametrize(
    "row", [{"question": "How many?", "answer": "It is 5."}, {"answer": "#### 5"}, {"question": "How many?"}]
)
def test_a_published_row_without_question_or_answer_is_refused(tmp_path: Path, row: dict[str, str]):
    write_rows(tmp_path / "gsm8k/train.jsonl", [row])
    done = prepare(tmp_path, "gsm8k", "--source", tmp_path, check=False)
    refused(done, "gsm8k: row 0 of train has no question or no answer")


@pytest.mark.slow
def test_one_entry_of_the_table_is_enough_for_all_stages(tmp_path: Path):
    """A copy of the code with one more entry prepares, teaches, filters, infers and scores it."""
    for name in ("cotkit", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("teacher_cot.py", "filter_teacher_cot.py", "infer_parallel.py", "score.py"):
        shutil.copy(ROOT / name, tmp_path)
    entry = """
    "bakery": DataSet(
        "number",
        {
            split: Published("someone/bakery", "0" * 40, (f"{split}.jsonl",), Columns(), split)
            for split in ("train", "test")
        },
    ),
"""
    table = tmp_path / "cotkit/core/datasets.py"
    start = "DATASETS: dict[str, DataSet] = {"
    table.write_text(table.read_text(encoding="utf-8").replace(start, start + entry), encoding="utf-8")
    for split, numbers in (("train", range(6)), ("test", range(10, 14))):
        write_rows(tmp_path / f"{split}.jsonl", [problem(number) for number in numbers])
    shared = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}
    fake = ("--backend", "fake")
    run_script("scripts/prepare_data.py", "--dataset", "bakery", "--source", tmp_path, **shared)
    words = ("--model_name", "none", "--input_path", "data/bakery/train.jsonl", "--output_path", "t.jsonl")
    run_script("teacher_cot.py", *words, *fake, **shared)
    run_script("filter_teacher_cot.py", "--input_path", "t.jsonl", "--output_path", "kept.jsonl", **shared)
    words = ("--dataset", "bakery", "--base_model", "none", "--output_path", "p.jsonl")
    run_script("infer_parallel.py", *words, *fake, **shared)
    run_script("score.py", "--dataset", "bakery", "--pred_path", "p.jsonl", **shared)
    assert [row["id"] for row in read_rows(tmp_path / "p.scores.jsonl")] == [f"bakery-test-{n:05d}" for n in range(4)]
    assert "answer_kind" not in read_rows(tmp_path / "t.jsonl")[0]


def test_all_configurations_of_the_hub_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    def fake(repository: str, config: str | None, *, split: str, revision: str) -> Any:
        box = r"So $\boxed{2}$."
        rows = [{"problem": f"What is {config} of {number} {repository}?", "solution": box} for number in range(2)]
        return datasets.Dataset.from_list([row | ({} if config else {"answer": "2"}) for row in rows])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    script = runpy.run_path(str(ROOT / "scripts/prepare_data.py"), run_name="prepare_data")
    assert script["main"](["--dataset", "math", "--data_root", str(tmp_path)]) == 0
    rows = [row for split in ("train", "dev") for row in read_rows(tmp_path / f"math/{split}.jsonl")]
    rows.sort(key=lambda row: row["id"])
    subjects = DATASETS["math"].splits["train"].configs
    assert [row["question"].split()[2] for row in rows] == [subject for subject in subjects for _ in range(2)]
    assert {row["answer"] for row in rows} == {"2"}
