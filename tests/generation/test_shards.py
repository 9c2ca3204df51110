"""Records of several files: errors, copies, conflicts; the ranks that torchrun sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import write_rows

from cotkit.core.errors import UserError
from cotkit.generation import shards


def records_of(path: Path, *rows: dict[str, Any]) -> shards.Records:
    records = shards.Records()
    records.add_file(write_rows(path, list(rows)))
    return records


def test_an_error_gives_way_to_a_result(tmp_path: Path):
    failed = {"id": "a", "sample": 0, "finish_reason": "error"}
    good = {"id": "a", "sample": 0, "finish_reason": "stop"}
    for order in ([failed, good], [good, failed], [failed, failed, good]):
        records = records_of(tmp_path / "r", *order)
        assert records.done == {("a", 0)}
        assert list(records.rows([("a", 0)])) == [good]
    assert records_of(tmp_path / "r", failed).failed == {("a", 0)}


def test_identical_copies_are_one_and_conflicts_are_refused(tmp_path: Path):
    row = {"id": "a", "sample": 0, "finish_reason": "stop", "response": "x"}
    assert len(records_of(tmp_path / "r", row, row).done) == 1
    with pytest.raises(UserError, match=r"r:2: a has another result"):
        records_of(tmp_path / "r", row, {**row, "response": "y"})


def test_extra_results_are_refused(tmp_path: Path):
    records = records_of(tmp_path / "r", {"id": "a", "sample": 0}, {"id": "b", "sample": 2})
    with pytest.raises(UserError, match="1 results are not of this input: b sample 2"):
        shards.merge(tmp_path / "out", records, [("a", 0)])
    assert not (tmp_path / "out").exists()


def test_terminated_garbage_is_refused_by_line(tmp_path: Path):
    (tmp_path / "r").write_bytes(b'{"id": "a", "sample": 0}\ngarbage\n{"id": "b", "sample": 0}\n')
    with pytest.raises(UserError, match=r"r:2: not a JSON record"):
        shards.Records().add_file(tmp_path / "r")


def test_nonsense_ranks_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="RANK 2 does not fit"):
        shards.rank_and_world()
