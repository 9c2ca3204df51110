"""Files of all formats: every value is the text that stands in the file, every row knows its line."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from cotkit.core.errors import UserError
from cotkit.preparation.source_files import ONLY, read_source

VALUES = [{"q": "When?", "a": "007"}, {"q": "Two\nlines, and a comma", "a": "2024-01-01"}, {"q": "NA", "a": "1e3"}]


def rows_of(path: Path | str, config: str | None = None) -> dict[str, list[tuple[str, dict[str, object]]]]:
    source = read_source(str(path), config, None)
    return {split: [(row.where, row.values) for row in rows] for split, rows in source.splits.items()}


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("x.csv", 'q,a\nWhen?,007\n\n"Two\nlines, and a comma",2024-01-01\nNA,1e3\n', (2, 4, 6)),
        ("x.csv", '\ufeffq, a\r\nWhen?,007\r\n"Two\nlines, and a comma",2024-01-01\r\nNA,1e3', (2, 3, 5)),
        ("x.tsv", 'q\ta\nWhen?\t007\n"Two\nlines, and a comma"\t2024-01-01\nNA\t1e3\n', (2, 3, 5)),
        (
            "X.JSONL",
            '{"q": "When?", "a": "007"}\n\n{"q": "Two\\nlines, and a comma", "a": "2024-01-01"}\n{"q": "NA", "a": "1e3"}',
            (1, 3, 4),
        ),
        (
            "x.json",
            '[{"q": "When?",\n"a": "007"},\n{"q": "Two\\nlines, and a comma", "a": "2024-01-01"},\n\n{"q": "NA", "a": "1e3"}]',
            (1, 3, 5),
        ),
        (
            "x.json",
            '{"q": "When?", "a": "007"}\n{"q": "Two\\nlines, and a comma", "a": "2024-01-01"}\n{"q": "NA", "a": "1e3"}\n',
            (1, 2, 3),
        ),
    ],
)
def test_text_stays_text_and_lines_are_right(tmp_path: Path, name: str, text: str, lines: tuple[int, ...]):
    path = write(tmp_path / name, text)
    expected = [(f"{path}:{line}", values) for line, values in zip(lines, VALUES, strict=True)]
    assert rows_of(path) == {ONLY: expected}


def test_numbers_in_json_keep_their_digits(tmp_path: Path):
    path = write(tmp_path / "x.json", '[{"a": 3.10}, {"a": 7}, {"a": null}]')
    assert [values["a"] for _, values in rows_of(path)[ONLY]] == [Decimal("3.10"), 7, None]
    assert str(rows_of(path)[ONLY][0][1]["a"]) == "3.10"


@pytest.mark.parametrize("keep", ["parquet", "csv", "jsonl"])
def test_a_folder_is_read_like_a_hub_data_set(tmp_path: Path, keep: str):
    import pandas

    frame = pandas.DataFrame(VALUES)
    for split in ("train", "test"):
        path = tmp_path / f"hub/data/{split}-00000-of-00001.{keep}"
        path.parent.mkdir(parents=True, exist_ok=True)
        writers = {
            "parquet": frame.to_parquet,
            "csv": lambda path: frame.to_csv(path, index=False),
            "jsonl": lambda path: frame.to_json(path, orient="records", lines=True),
        }
        writers[keep](path)
    write(tmp_path / "hub/README.md", "---\nlicense: mit\n---\n# Problems\n")
    found = rows_of(tmp_path / "hub")
    assert set(found) == {"train", "test"}
    assert [values for _, values in found["test"]] == VALUES
    place = {"parquet": ": row 2", "csv": ":3", "jsonl": ":2"}[keep]
    assert found["train"][1][0] == f"{tmp_path}/hub/data/train-00000-of-00001.{keep}{place}"


def test_a_folder_s_configurations_are_chosen_by_name(tmp_path: Path):
    for name in ("easy", "hard"):
        write(tmp_path / f"{name}/all.csv", f"q;a\n{name};1\n")
    card = "".join(f"- config_name: {name}\n  data_files: {name}/all.csv\n  sep: ';'\n" for name in ("easy", "hard"))
    write(tmp_path / "README.md", f"---\nconfigs:\n{card}---\n")
    assert rows_of(tmp_path, "hard") == {"train": [(f"{tmp_path}/hard/all.csv:2", {"q": "hard", "a": "1"})]}
    with pytest.raises(UserError, match=r"pick one among the available configs: \['easy', 'hard'\]"):
        rows_of(tmp_path)
    with pytest.raises(UserError, match=r"'med' not found. Available: \['easy', 'hard'\]"):
        rows_of(tmp_path, "med")


def test_other_types_of_parquet_columns_are_kept_for_the_caller_to_refuse(tmp_path: Path):
    import pandas

    pandas.DataFrame({"a": [datetime.date(2024, 1, 1)], "n": [1.5]}).to_parquet(tmp_path / "x.parquet")
    ((where, values),) = rows_of(tmp_path / "x.parquet")[ONLY]
    assert where == f"{tmp_path}/x.parquet: row 1"
    assert values["n"] == 1.5
    assert not isinstance(values["a"], str)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.csv", 'q,a\nx,1\n"open,2\ny,3\n', r"x.csv:3: not valid CSV"),
        ("x.csv", 'q,a\nx,1\n"a"b,2\n', r"x.csv:3: not valid CSV"),
        ("x.csv", "q,q\nx,1\n", r"x.csv:1: two columns are called 'q'"),
        ("x.csv", "q;a\nx;1\n", r"x.csv:1: the header seems to be separated by ';'"),
        ("x.csv", b"q,a\nx,1\n\xe4,2\n", r"x.csv:3: not UTF-8"),
        ("x.jsonl", '{"q": 1}\n{"q": }\n', r"x.jsonl:2: not a JSON record"),
        ("x.json", '[{"q": 1},\n {"q": }]', r"x.json:2: not a JSON record"),
        ("x.json", '[{"q": 1},\n 5]', r"x.json:2: a JSON object is expected"),
        ("x.json", '[{"q": 1}\n {"q": 2}]', r"x.json:1: no comma or \]"),
        ("x.json", '[{"q": 1},\n {"q": 2}', r"x.json:2: no comma or \]"),
        ("x.json", '{\n "data": []\n}', r"x.json:1: a list of records"),
        ("x.json", '[{"q": "\\ud800"}]', r"x.json:1: holds a lone surrogate"),
        ("x.xlsx", "", r"x.xlsx: the format .xlsx is unknown"),
        ("x.parquet", "no parquet", r"x.parquet: cannot be read"),
    ],
)
def test_damaged_files_are_refused_by_line(tmp_path: Path, name: str, text: str | bytes, says: str):
    with pytest.raises(UserError, match=says):
        rows_of(write(tmp_path / name, text))


def test_a_row_of_another_length_is_a_fault_of_its_own(tmp_path: Path):
    path = write(tmp_path / "x.csv", "q,a\nx,1,2\ny,3\n")
    rows = read_source(str(path), None, None).splits[ONLY]
    assert [row.fault for row in rows] == ["3 fields, but the header names 2; quote fields that hold ','", ""]


def test_what_is_not_there_is_refused(tmp_path: Path):
    for name in (f"{tmp_path}/none.csv", f"{tmp_path}/none", "two words"):
        with pytest.raises(UserError, match="not found; a file, a folder or a hub id"):
            read_source(name, None, None)
    path = write(tmp_path / "x.csv", "q,a\n")
    with pytest.raises(UserError, match="has no --config"):
        read_source(str(path), "main", None)
    with pytest.raises(UserError, match="has no --revision"):
        read_source(str(tmp_path), None, "main")
