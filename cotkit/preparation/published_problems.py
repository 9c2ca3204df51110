"""Reads the published splits of the table, from the hub at pinned commits or from local raw files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cotkit.core import jsonl
from cotkit.core.datasets import DATASETS, Published
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.core.text_repair import control_character
from cotkit.preparation.own_problems import problem_values


def read_published(source: Published, raw_root: Path | None) -> list[Row]:
    """The rows of a published split, in its order. Raises UserError if it cannot be read."""
    if raw_root is not None:
        return [row for name in source.raw_files for row in _raw_rows(raw_root / name, name)]
    from datasets import load_dataset

    rows: list[Row] = []
    for config in source.configs:
        try:
            dataset = load_dataset(source.repository, config, split=source.hub_split, revision=source.revision)
        except Exception as error:  # noqa: BLE001  the hub client raises many kinds; all mean the same to the user
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{source.repository}: cannot be loaded from the hub ({reason}); try --source DIR"
            ) from None
        rows += map(dict, dataset)
    return rows


def _raw_rows(path: Path, name: str) -> Iterator[Row]:
    if not path.is_file():
        raise UserError(f"{path}: not found; --source must hold {name}")
    return jsonl.read(path)


def published_split(name: str, split: str, raw_root: Path | None) -> list[Row]:
    """One published split as problem rows."""
    dataset, source = DATASETS[name], DATASETS[name].splits[split]
    problems = []
    for number, row in enumerate(read_published(source, raw_root)):
        if source.without and row.get(source.without[0]) == source.without[1]:
            continue
        problem = numbered(name, split, number, problem_values(row, source.columns, dataset.kind))
        # Training data may have rows without an answer, which are removed with those of the test set.
        if not problem["question"].strip() or not problem["answer"] and not dataset.disjoint_from:
            raise UserError(f"{name}: row {number} of {split} has no question or no answer; correct the source")
        for field in ("question", "solution", "answer"):
            if found := control_character(problem[field]):
                raise UserError(f"{name}: row {number} of {split}: the {field} holds {found}; correct the source")
        problems.append(problem)
    return problems


def numbered(name: str, split: str, number: int, fields: Row) -> Row:
    """A problem whose id has the split and the number of the row."""
    return {"id": f"{name}-{split}-{number:05d}", "dataset": name, "split": split, **fields}
