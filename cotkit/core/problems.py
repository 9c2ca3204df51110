"""Problem records: the schema that all stages start from. It is checked before anything expensive begins."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cotkit.core.cli import KeyFlag
from cotkit.core.datasets import DATASETS, KINDS, kind_of
from cotkit.core.errors import UserError
from cotkit.core.files import elsewhere
from cotkit.core.jsonl import Row, read_numbered, require
from cotkit.core.text_repair import control_character, repaired

PROBLEM_FIELDS = {"id": str, "dataset": str, "split": str, "question": str, "solution": str, "answer": str}

# The id of a problem without one is made from these.
CONTENT_FIELDS = ("question", "solution", "answer")

# Value of the field `retry` of a problem that is asked again because its text was truncated.
TRUNCATED = "truncated"

# A chat template would read such text as its own marks: an end-of-turn mark in a question starts another turn.
CONTROL_TOKEN = re.compile(r"<\|[A-Za-z0-9_]{1,40}\|>|</?think>")


def unfit(text: str) -> str | None:
    """What a problem's text must not hold, and what to do; None if it is fit. Prompts hold answers too."""
    if mark := CONTROL_TOKEN.search(text):
        return f"the control token {mark[0]!r}; remove it"
    found = control_character(text)
    return f"{found}; remove it, or restore what stood there" if found else None


def known_datasets(data_root: Path) -> set[str]:
    """The names of the data sets of the table, and of those that are prepared in `data_root`."""
    return {*KINDS, *(file.parent.name for file in data_root.glob("*/*.jsonl"))}


# The stages that work on a test set take different values for different sets from one file.
BY_DATASET = KeyFlag("dataset", "data_root", known_datasets)


def add_test_set_arguments(group: Any) -> None:
    """Adds the flags that choose a prepared set of problems; see `problem_path`."""
    group.add_argument("--dataset", required=True, metavar="NAME", help="which test set: one that is prepared")
    group.add_argument("--data_root", type=Path, default=Path("data"), help="prepared problems (default data)")
    group.add_argument("--split", default="test", help="which split of it (default test)")


def read_problems(path: Path, limit: int | None = None) -> list[Row]:
    """Reads and checks a problem file.

    Args:
        path: JSONL of `PROBLEM_FIELDS` (more fields are allowed and kept); a missing id is made from the content.
        limit: read only the first so many.

    Returns:
        The rows in file order, ids unique, at least one.

    Raises:
        UserError: naming file and line, for a missing field, an empty id or question, a repeated id, a control token or
            control character.
    """
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for number, row in islice(checked_problems(path), limit):
        line = lines.setdefault(row["id"], number)
        if line != number:
            raise repeated_id(path, line, number, row["id"])
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: holds no problems; make it with scripts/prepare_data.py")
    return rows


def refuse_repeated(paths: Iterable[Path]) -> None:
    """Raises UserError for a file that is given twice."""
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path}: is given twice; name it once")
        seen.add(path.resolve())


def read_problem_files(paths: Iterable[Path], limit: int | None = None) -> dict[Path, list[Row]]:
    """Reads and checks several files as `read_problems` does; `limit` holds for each. An id is in only one of them."""
    files: dict[Path, list[Row]] = {}
    seen: dict[str, Path] = {}
    paths = list(paths)
    refuse_repeated(paths)
    for path in paths:
        files[path] = read_problems(path, limit)
        for row in files[path]:
            if (other := seen.setdefault(row["id"], path)) != path:
                raise UserError(f"{path}: id {row['id']!r} is in {other} too; remove one of the two")
    return files


def numbered_inputs(name: str, paths: Iterable[Path]) -> dict[str, Path]:
    """``name``, ``name 2``, ... -> path: how manifests name several inputs of one sort."""
    return {name if number == 1 else f"{name} {number}": path for number, path in enumerate(paths, 1)}


def repeated_id(path: Path, line: int, number: int, problem_id: str) -> UserError:
    """The error for an id that is in two lines of a file."""
    return UserError(f"{path}:{number}: id {problem_id!r} is already in line {line}; remove one of the two")


def checked_problems(path: Path) -> Iterator[tuple[int, Row]]:
    """Yields (line number, problem). Raises UserError as `read_problems` does, except for repeated ids."""
    for number, row in read_numbered(path):
        where = f"{path}:{number}"
        row = as_problem(row)
        require(row, PROBLEM_FIELDS, where)
        kind_of(row, where)
        for field in ("id", "question"):
            if not row[field].strip():
                raise UserError(f"{where}: field {field!r} is empty; every problem needs one")
        for field in CONTENT_FIELDS:
            if found := unfit(row[field]):
                raise UserError(f"{where}: {field} holds {found}")
        yield number, row


def as_problem(row: Row) -> Row:
    """The row with an id and with certain damage of its formulas repaired (`text_repair`).

    A row without an id gets ``<dataset>-<split>-<16 hexadecimal digits of its content's SHA-256>``. The id comes first,
    as in prepared files; the same content has the same id in every file and run.
    """
    texts = {field: row[field] for field in CONTENT_FIELDS if isinstance(row.get(field), str)}
    mended = {field: repaired(text, formula=field == "answer") for field, text in texts.items()}
    if mended != texts:
        row = {**row, **mended}
    if "id" in row:
        return row
    content = json.dumps([row.get(field) for field in CONTENT_FIELDS], ensure_ascii=False)
    digest = hashlib.sha256(content.encode("utf-8")).hexdigest()[:16]
    return {"id": f"{row.get('dataset')}-{row.get('split')}-{digest}", **row}


def problem_path(data_root: Path, dataset: str, split: str = "test") -> Path:
    """Where `prepare_data.py` puts a split. Raises UserError with what is there and what to run."""
    path = data_root / dataset / f"{split}.jsonl"
    if path.is_file():
        return path
    if found := elsewhere(path):
        raise UserError(f"{path}: not found; {found}")
    splits = sorted(file.stem for file in path.parent.glob("*.jsonl"))
    if splits:
        raise UserError(f"{path}: not found; the splits of {dataset} are {', '.join(splits)}")
    if dataset in DATASETS:
        where = "" if data_root == Path("data") else f" --data_root {shlex.quote(str(data_root))}"
        raise UserError(f"{path}: not found; make it with: python scripts/prepare_data.py --dataset {dataset}{where}")
    prepared = sorted(folder.parent.name for folder in data_root.glob(f"*/{split}.jsonl"))
    raise UserError(
        f"{path}: not found; prepared in {data_root}: {', '.join(prepared) or 'nothing'}; scripts/prepare_data.py makes"
        f" {', '.join(DATASETS)} (--dataset) and sets of your own (--name {dataset} --input FILE)"
    )
