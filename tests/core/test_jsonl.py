from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from cotkit.core import jsonl
from cotkit.core.errors import UserError
from cotkit.core.files import locked, open_atomic
from cotkit.core.jsonl import Appender

ROWS = [{"id": "a", "text": "äöü \u2028 \u0085 \U0001d54f"}, {"id": "b", "text": "línea\nzwei"}, {"id": "c", "n": 3}]


def test_written_rows_are_read_back_with_any_characters(tmp_path: Path):
    jsonl.write_atomic(tmp_path / "a.jsonl", ROWS)
    assert list(jsonl.read(tmp_path / "a.jsonl")) == ROWS
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == len(ROWS)


@pytest.mark.parametrize(
    "raw",
    [
        b'\xef\xbb\xbf{"id": "a"}\n{"id": "b"}\n',
        b'{"id": "a"}\r\n{"id": "b"}\r\n',
        b'\n{"id": "a"}\n\n{"id": "b"}\n\n',
        b'{"id": "a"}\n{"id": "b"}',
    ],
    ids=["byte-order mark", "CRLF", "blank lines", "no last newline"],
)
def test_accepted_variations(tmp_path: Path, raw: bytes):
    (tmp_path / "a.jsonl").write_bytes(raw)
    assert [row["id"] for row in jsonl.read(tmp_path / "a.jsonl")] == ["a", "b"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b'{"id": "\xff"}', "UTF-8"),
        (b'{"id": "a\x00"}', "not a JSON record"),
        (b'{"id": "\\ud800"}', "surrogate"),
        (b'{"id": NaN}', "NaN"),
        (b'{"id": -Infinity}', "Infinity"),
        (b'{"id": ' + b"1" * 5000 + b"}", "not a JSON record"),
        (b'{"id": ' + b"[" * 100_000 + b"}", "nested"),
        (b'{"id": "a", "id": "b"}', "'id' appears twice"),
        (b'["id"]', "object is expected"),
        (b'"id"', "object is expected"),
        (b"not json", "not a JSON record"),
        (b'{"id": "a"}{"id": "b"}', "not a JSON record"),
    ],
)
def test_refused_with_file_and_line(tmp_path: Path, bad: bytes, says: str):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "good"}\n' + bad + b'\n{"id": "good"}\n')
    before = path.read_bytes()
    with pytest.raises(UserError) as refusal:
        list(jsonl.read(path))
    assert f"{path}:2: " in str(refusal.value)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == before


def test_too_long_a_line_is_refused(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "' + b"x" * (jsonl.MAX_LINE_BYTES + 10) + b'"}\n')
    with pytest.raises(UserError, match="a.jsonl:1: the line is longer than 16 MiB"):
        list(jsonl.read(path))


def test_missing_file(tmp_path: Path):
    with pytest.raises(UserError, match="none.jsonl: cannot be read"):
        list(jsonl.read(tmp_path / "none.jsonl"))


def test_every_cut_of_the_last_two_records_is_repaired(tmp_path: Path):
    """At whatever byte a kill stops, no acknowledged record is lost and appending continues with complete lines."""
    path = tmp_path / "a.jsonl"
    lines = [jsonl.dumps(row) for row in ROWS]
    whole = b"".join(lines)
    acknowledged_end = len(lines[0])
    for cut in range(acknowledged_end, len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Appender(path) as appender:
            appender.append([{"id": "new"}])
        rows = list(jsonl.read(path))
        survived = whole[:cut].count(b"\n") + (cut + 1 in _line_ends(lines))
        assert rows == [*ROWS[:survived], {"id": "new"}], cut


def _line_ends(lines: list[bytes]) -> set[int]:
    return {sum(map(len, lines[: number + 1])) for number in range(len(lines))}


def test_bytes_of_a_torn_record_are_set_aside(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "\xc3')
    assert jsonl.repair_tail(path) == 9
    assert path.read_bytes() == b'{"id": "a"}\n'
    assert (tmp_path / "a.jsonl.torn").read_bytes() == b'{"id": "\xc3\n'


def test_terminated_garbage_is_left_for_the_reader_to_refuse(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\ngarbage\n')
    assert jsonl.repair_tail(path) == 0
    assert path.read_bytes() == b'{"id": "a"}\ngarbage\n'


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    jsonl.write_atomic(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), open_atomic(path) as writer:
        writer.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path):
    path = tmp_path / "a[1].jsonl"
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    for pid in (killed.pid, os.getppid()):
        (tmp_path / f".a[1].jsonl.{pid}.tmp").write_bytes(b"half")
    jsonl.write_atomic(path, ROWS)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, f".a[1].jsonl.{os.getppid()}.tmp"}


def test_nan_is_never_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON compliant"):
        jsonl.write_atomic(tmp_path / "a.jsonl", [{"x": float("nan")}])
    assert not list(tmp_path.iterdir())


HOLD = """
import sys, time
from pathlib import Path
from cotkit.core.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_writer_at_a_time_and_a_killed_one_does_not_block(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} is writing"), locked(path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(path):
        pass


def test_json_documents_are_read_back(tmp_path: Path):
    jsonl.write_json_atomic(tmp_path / "a.json", {"a": 1})
    assert jsonl.read_json(tmp_path / "a.json") == {"a": 1}
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": 1}
