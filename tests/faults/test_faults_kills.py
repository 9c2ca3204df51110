"""Faults 1 to 5 of the 31 that a run must survive: kills, torn files, garbage and full disks, in real processes."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, problem, read_rows, refused, run_script, write_rows
from faults.faults_tools import (
    TORCHRUN,
    acknowledged,
    alive,
    filtering,
    infer,
    interrupted,
    pid_of_rank,
    records_in,
    scoring,
    start,
    start_counted,
    teach,
    wait_for,
)

import infer_parallel
from cotkit.core import jsonl, manifest
from cotkit.generation import shards


@pytest.mark.slow
def test_f01_killed_fifty_times(tmp_path: Path):
    """Records of 20 kB in batches of one: no acknowledged record is lost, and a kill repeats at most one batch."""
    model = "fake:seconds=0.02,bytes=20000"
    run_script(*teach(tmp_path, "undisturbed.jsonl", model, rows=400))
    rank_file, ledger = shards.rank_file(tmp_path / "out.jsonl", 0), tmp_path / "ledger"
    chance = random.Random(1)
    words, lost = teach(tmp_path, "out.jsonl", model), 0
    safe: set[bytes] = set()
    for kill in range(50):
        process = start_counted(words, ledger)
        if kill % 2:  # half of the kills hit a process that is writing rows, even on a slow machine
            wait_for(lambda: len(acknowledged(rank_file)) > len(safe))  # noqa: B023  called at once
            time.sleep(0.05 * chance.random())
        else:
            time.sleep(0.15 + 0.25 * chance.random())
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "finished before 50 kills"
        now = set(acknowledged(rank_file))
        lost += len(safe - now)
        safe = now
    assert lost == 0
    assert 10 < len(safe) < 400
    start_counted(words, ledger).communicate()
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()
    made = Counter(ledger.read_text(encoding="utf-8").split())
    assert len(made) == 400
    assert made.total() - 400 <= 50
    assert not list(tmp_path.glob(".*.tmp"))
    assert not shards.rank_files(tmp_path / "out.jsonl")


class Watch(threading.Thread):
    """Polls a file in a context; the context's value is the set of all contents that the file has had."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.seen, self.over = path, set[bytes](), threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.002):
            if self.path.exists():
                self.seen.add(self.path.read_bytes())

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def __enter__(self) -> set[bytes]:
        return self.seen


@pytest.fixture(scope="module")
def ranks_killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks: one is killed, and in a second run the launcher is killed. No merged file appears."""
    folder = tmp_path_factory.mktemp("ranks")
    output = folder / "out.jsonl"
    words = [*TORCHRUN, "--nproc_per_node=2", *infer(folder)]
    with Watch(output) as seen:
        launcher = start(words)
        wait_for(lambda: len(shards.rank_files(output)) == 2 and records_in(folder) >= 2)
        os.kill(pid_of_rank(output, 1), signal.SIGKILL)
        launcher.communicate(timeout=60)
        assert launcher.returncode != 0
        before = {line for path in shards.rank_files(output) for line in acknowledged(path)}
        launcher = start(words)
        wait_for(lambda: records_in(folder) >= len(before) + 2)
        ranks = [pid_of_rank(output, rank) for rank in range(2)]
        launcher.kill()
        launcher.communicate()
        wait_for(lambda: not any(map(alive, ranks)))
    assert before <= {line for path in shards.rank_files(output) for line in acknowledged(path)}
    assert not seen
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 1, 3])
def test_f02_a_rank_and_the_launcher_killed(ranks_killed: Path, tmp_path: Path, ranks: int):
    folder = shutil.copytree(ranks_killed, tmp_path / "run")
    there = {line for path in shards.rank_files(folder / "out.jsonl") for line in acknowledged(path)}
    with Watch(folder / "out.jsonl") as seen:
        launcher = [*TORCHRUN, f"--nproc_per_node={ranks}"] if ranks > 1 else []
        run_script(*launcher, *infer(folder))
    merged = (folder / "out.jsonl").read_bytes()
    assert seen <= {merged}
    assert there <= set(merged.split(b"\n"))
    assert [row["id"] for row in read_rows(folder / "out.jsonl")] == [problem(number)["id"] for number in range(24)]
    assert not shards.rank_files(folder / "out.jsonl")


@pytest.mark.slow
def test_f03_cut_at_every_byte_of_the_last_two_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Cuts a rank file at over 400 places, also inside multi-byte characters. The stage resumes from each."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing is killed here, and disks are slow
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number, id=f"ä{number}𝕏") for number in range(4)])
    words = infer(tmp_path, model="fake")[1:]
    output, rank_file = tmp_path / "out.jsonl", shards.rank_file(tmp_path / "out.jsonl", 0)
    assert infer_parallel.main(words) == 0
    whole = output.read_bytes()
    running = {**jsonl.read_json(manifest.path_for(output)), "status": "running", "outputs": {}}
    ends = [match.end() for match in re.finditer(b"\n", whole)]
    for cut in range(ends[-3], ends[-1] + 1):
        output.unlink()
        manifest.path_for(output).write_bytes(jsonl.json_bytes(running))
        rank_file.write_bytes(whole[:cut])
        assert infer_parallel.main(words) == 0
        assert output.read_bytes() == whole, cut
    cuts = ends[-1] + 1 - ends[-3]
    assert cuts > 400
    torn = Path(f"{rank_file}.torn").read_bytes()
    assert torn.count(b"\n") == cuts - 5  # three cuts at a line's end and two just before it tear no record


def test_f04_garbage_in_the_middle(tmp_path: Path):
    words = interrupted(tmp_path)
    path = shards.rank_file(tmp_path / "out.jsonl", 0)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"garbage", *lines[1:]]))
    before = path.read_bytes()
    done = run_script(*words, check=False)
    refused(done, f"{path}:2: not a JSON record")
    assert done.returncode == 1
    assert path.read_bytes() == before


LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Sends what is written to paths that match the pattern FULL to a device that is always full.
FULL = """
import builtins, os, re, runpy, sys
real = open
def opened(path, mode="r", *rest, **named):
    full = re.search(os.environ["FULL"], str(path)) and mode in ("ab", "wb")
    return real("/dev/full" if full else path, mode, *rest, **named)
builtins.open = opened
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def no_space(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode == 1, done
    assert done.stderr.strip().split("\n")[-1].startswith("error: ")
    assert done.stderr.rstrip().endswith(reason)
    assert "Traceback" not in done.stderr


def test_f05_a_file_that_may_not_grow(tmp_path: Path):
    """EFBIG at 100 kB: the old output is unchanged, and the same command completes once there is space."""
    run_script(*teach(tmp_path))
    old = (tmp_path / "out.jsonl").read_bytes()
    words = teach(tmp_path, model="fake:bytes=20000")
    no_space(run_script("-c", LIMITED, *words, "--overwrite", check=False, PYTHONPATH=str(ROOT)), "File too large")
    assert (tmp_path / "out.jsonl").read_bytes() == old
    run_script(*words)
    assert len((tmp_path / "out.jsonl").read_bytes()) > 30 * 20_000


@pytest.mark.parametrize("full", [r"\.rank0$", r"jsonl\.\d+\.tmp$", r"manifest"])
def test_f05_a_full_disk_under_the_teacher(tmp_path: Path, full: str):
    """ENOSPC while rows are added, while they are merged, and while the manifest is written."""
    run_script(*teach(tmp_path))
    old = (tmp_path / "out.jsonl").read_bytes()
    words = teach(tmp_path, model="fake:bytes=600")
    done = run_script("-c", FULL, *words, "--overwrite", check=False, PYTHONPATH=str(ROOT), FULL=full)
    no_space(done, "No space left on device")
    assert (tmp_path / "out.jsonl").read_bytes() == old
    run_script(*words, *(["--overwrite"] if "manifest" in full else []))
    run_script(*teach(tmp_path, "fresh.jsonl", "fake:bytes=600"))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "fresh.jsonl").read_bytes()


def test_f05_a_full_disk_under_filter_and_score(tmp_path: Path):
    """ENOSPC while outputs are written: old outputs are unchanged. Behind stdout: one line and exit code 1."""
    run_script(*infer(tmp_path, "p.jsonl", "fake"))
    run_script(*teach(tmp_path))
    stages = [(filtering(tmp_path), "kept", "out.jsonl"), (scoring(tmp_path), "p.s", "p.jsonl")]
    for words, name, source in stages:
        run_script(*words)
        old = {path: path.read_bytes() for path in tmp_path.glob(f"{name}*") if "manifest" not in path.name}
        assert len(old) >= 2
        rows = read_rows(tmp_path / source)
        changed = [{**row, "response": row["response"].replace("no model", "no other model")} for row in rows]
        write_rows(tmp_path / source, changed)
        done = run_script("-c", FULL, *words, check=False, PYTHONPATH=str(ROOT), FULL=rf"/\.{name}")
        no_space(done, "No space left on device")
        assert {path: path.read_bytes() for path in old} == old
        run_script(*words)
        assert {path: path.read_bytes() for path in old} != old
    explain = [sys.executable, *stages[1][0], "--explain", rows[0]["id"]]
    shell = ["bash", "-c", '"$@" >/dev/full', "-", *explain]
    done = subprocess.run(shell, check=False, cwd=ROOT, capture_output=True, text=True)
    no_space(done, "No space left on device")
