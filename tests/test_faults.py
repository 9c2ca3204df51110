"""The 31 faults that a run must survive, by number: real processes, real signals, and no model where none is the point.

What a fault's own code promises in detail is tested beside it; here every number has its figure.
"""

from __future__ import annotations

import ast
import json
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from answer_cases import CASES
from chat_server import ChatServer
from conftest import ROOT, memory_growth, problem, read_rows, refused, run_script, write_rows
from faults_tools import (
    CANARIES,
    STAGES,
    TORCHRUN,
    Pipeline,
    acknowledged,
    alive,
    edit_yaml,
    filtering,
    infer,
    interrupted,
    make_preset,
    pid_of_rank,
    records_in,
    scoring,
    start,
    start_counted,
    teach,
    wait_for,
    write_yaml,
)
from test_answers import item_of
from test_generate import REQUESTS, load
from test_grader_pool import EASY, ENDLESS, MARGIN_S, UNEQUAL
from test_static import CODE, violations

import filter_teacher_cot
import infer_parallel
from cotkit import jsonl, manifest, prompts, shards
from cotkit.answers import Item, grade_many
from cotkit.equivalence import Outcome
from cotkit.generate import Sampling
from cotkit.grader_pool import GraderPool
from cotkit.training_sets import write_dataset_info, write_training_set


def test_f01_killed_fifty_times(tmp_path: Path):
    """20 KB records; what was acknowledged is never lost, and a kill repeats at most the batch of one that it hit."""
    model = "fake:seconds=0.02,bytes=20000"
    run_script(*teach(tmp_path, "undisturbed.jsonl", model, rows=400))
    rank_file, ledger = shards.rank_file(tmp_path / "out.jsonl", 0), tmp_path / "ledger"
    chance = random.Random(1)
    words, lost, kills = teach(tmp_path, "out.jsonl", model), 0, 0
    safe: set[bytes] = set()
    while kills < 50:
        process = start_counted(words, ledger)
        if kills % 2:  # every other one while rows are being written, however slow the machine is to start
            wait_for(lambda: len(acknowledged(rank_file)) > len(safe))  # noqa: B023  called at once
            time.sleep(0.05 * chance.random())
        else:
            time.sleep(0.15 + 0.25 * chance.random())
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "finished before 50 kills"
        kills += 1
        now = set(acknowledged(rank_file))
        lost += len(safe - now)
        safe = now
    assert lost == 0
    assert 10 < len(safe) < 400
    start_counted(words, ledger).communicate()
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()
    made = Counter(ledger.read_text(encoding="utf-8").split())
    assert len(made) == 400
    assert made.total() - 400 <= kills
    assert not list(tmp_path.glob(".*.tmp"))
    assert not shards.rank_files(tmp_path / "out.jsonl")


class Watch(threading.Thread):
    """Looks at a file all the time; `seen` are the contents that it ever had."""

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
    """Two ranks of which one was killed and, in a second run, the launcher; nothing was merged meanwhile."""
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


@pytest.mark.parametrize("ranks", [2, 1, 3])
def test_f02_a_rank_and_the_launcher_killed(ranks_killed: Path, tmp_path: Path, ranks: int):
    folder = shutil.copytree(ranks_killed, tmp_path / "run")
    there = {line for path in shards.rank_files(folder / "out.jsonl") for line in acknowledged(path)}
    with Watch(folder / "out.jsonl") as seen:
        launcher = [*TORCHRUN, f"--nproc_per_node={ranks}"] if ranks > 1 else []
        run_script(*launcher, *infer(folder))
    whole = (folder / "out.jsonl").read_bytes()
    assert seen <= {whole}
    assert there <= set(whole.split(b"\n"))
    assert [row["id"] for row in read_rows(folder / "out.jsonl")] == [problem(number)["id"] for number in range(24)]
    assert not shards.rank_files(folder / "out.jsonl")


def test_f03_cut_at_every_byte_of_the_last_two_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Some 400 cuts of a rank file, through characters of several bytes too, each resumed by the stage itself."""
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
    assert torn.count(b"\n") == cuts - 5  # three cuts at a line's end and two just before it tear nothing


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

# Everything that is written under a name like the pattern FULL goes to a device that is always full.
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


def no_space(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 1, done
    assert done.stderr.strip().split("\n")[-1].startswith("error: ")
    assert done.stderr.rstrip().endswith(says)
    assert "Traceback" not in done.stderr


def test_f05_a_file_that_may_not_grow(tmp_path: Path):
    """EFBIG at 100 kB; the old output stays as it was, and with space the run that began over is completed."""
    run_script(*teach(tmp_path))
    old = (tmp_path / "out.jsonl").read_bytes()
    words = teach(tmp_path, model="fake:bytes=20000")
    no_space(run_script("-c", LIMITED, *words, "--overwrite", check=False, PYTHONPATH=str(ROOT)), "File too large")
    assert (tmp_path / "out.jsonl").read_bytes() == old
    run_script(*words)
    assert len((tmp_path / "out.jsonl").read_bytes()) > 30 * 20_000


@pytest.mark.parametrize("full", [r"\.rank0$", r"jsonl\.\d+\.tmp$", r"manifest"])
def test_f05_a_full_disk_under_the_teacher(tmp_path: Path, full: str):
    """ENOSPC while rows are added, while they are merged, and when the manifest is written."""
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
    run_script(*infer(tmp_path, "p.jsonl", "fake"))
    run_script(*teach(tmp_path))
    stages = [(filtering(tmp_path), "kept", "out.jsonl"), (scoring(tmp_path), "p.s", "p.jsonl")]
    for words, name, source in stages:
        run_script(*words)
        old = {path: path.read_bytes() for path in tmp_path.glob(f"{name}*") if "manifest" not in path.name}
        assert len(old) >= 2
        rows = read_rows(tmp_path / source)
        write_rows(
            tmp_path / source,
            [{**row, "response": row["response"].replace("no model", "no other model")} for row in rows],
        )
        done = run_script("-c", FULL, *words, check=False, PYTHONPATH=str(ROOT), FULL=rf"/\.{name}")
        no_space(done, "No space left on device")
        assert {path: path.read_bytes() for path in old} == old
        run_script(*words)
        assert {path: path.read_bytes() for path in old} != old
    explain = [sys.executable, *stages[1][0], "--explain", rows[0]["id"]]
    shell = ["bash", "-c", '"$@" >/dev/full', "-", *explain]
    done = subprocess.run(shell, check=False, cwd=ROOT, capture_output=True, text=True)
    no_space(done, "No space left on device")


# Takes away root's right to write anywhere, so that a folder's mode binds it as it binds everybody.
BOUND = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; refused where there is nothing to take
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_f06_the_output_folder(tmp_path: Path):
    """Made where it is missing; else one line, before the model is loaded: this one has no weights."""
    run_script(*teach(tmp_path, "a/b/out.jsonl"))
    assert (tmp_path / "a/b/out.jsonl").is_file()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "fixed").mkdir(mode=0o555)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text("{}", encoding="utf-8")
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(0)])
    words = [
        "infer_parallel.py",
        "--dataset",
        "gsm8k",
        "--data_root",
        tmp_path / "data",
        "--base_model",
        tmp_path / "empty",
    ]
    says = {
        "file": "a folder is needed here, but a file is in the way",
        "fixed": "Permission denied",
        "fixed/new": "Permission denied",
    }
    for folder, needle in says.items():
        done = run_script("-c", BOUND, *words, "--output_path", tmp_path / folder / "out.jsonl", check=False)
        refused(done, f"{tmp_path / folder}", needle)
    (tmp_path / "out.jsonl").mkdir()
    refused(run_script(*teach(tmp_path), check=False), "out.jsonl")


def test_f07_duplicate_ids(tmp_path: Path):
    """Copies in two rank files are merged and counted; what contradicts is refused, and both lines are named."""
    words = interrupted(tmp_path)
    first, other = (shards.rank_file(tmp_path / "out.jsonl", rank) for rank in (0, 5))
    lines = acknowledged(first)
    other.write_bytes(b"\n".join([lines[2], lines[0], b""]))
    run_script(*words)
    assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == [problem(number)["id"] for number in range(30)]
    assert jsonl.read_json(tmp_path / "out.jsonl.manifest.json")["counts"]["identical_copies"] == 2

    (tmp_path / "c").mkdir()
    words = interrupted(tmp_path / "c")
    first, other = (shards.rank_file(tmp_path / "c/out.jsonl", rank) for rank in (0, 5))
    other.write_bytes(b"\n".join([lines[0], lines[2].replace(b"no model", b"another model"), b""]))
    refused(run_script(*words, check=False), f"{other}:2: gsm8k-test-00002 has another result in {first}:3")

    source = tmp_path / "problems.jsonl"
    for rows, says in (
        ([problem(0), problem(1), problem(0)], ":3: id 'gsm8k-test-00000' stands already in line 1"),
        ([problem(0), problem(0, question="Else?")], ":2: id 'gsm8k-test-00000' stands already in line 1"),
        ([problem(0, id="1"), problem(1, id=1)], ":2: field 'id' must be str, found int"),
    ):
        write_rows(source, rows)
        refused(run_script(*teach(tmp_path, "new.jsonl"), check=False), f"{source}{says}")


def test_f08_problems_without_ids(tmp_path: Path):
    """The id comes from the content: the same in another run, file and order, and good for every later stage."""
    rows = [{key: value for key, value in problem(number).items() if key != "id"} for number in range(6)]
    ids = {}
    for name, given in (("a", rows), ("b", rows[::-1])):
        write_rows(tmp_path / name / "problems.jsonl", given)
        run_script(*teach(tmp_path / name))
        ids[name] = [row["id"] for row in read_rows(tmp_path / name / "out.jsonl")]
    assert ids["a"] == ids["b"][::-1]
    assert len(set(ids["a"])) == 6
    assert all(re.fullmatch(r"gsm8k-test-[0-9a-f]{16}", name) for name in ids["a"])
    folder = tmp_path / "a"
    (tmp_path / "run").mkdir()
    write_rows(folder / "data/gsm8k/test.jsonl", rows)
    write_rows(folder / "tests.jsonl", rows[:2])
    words = [
        "--problems_path",
        folder / "problems.jsonl",
        "--test_paths",
        folder / "tests.jsonl",
        "--max_overlap",
        "0.99",
    ]
    run_script(*filtering(folder), *words)
    assert ids["a"][0] in {
        row["id"] for row in read_rows(folder / "kept.rejected.jsonl") if row["reason"] == "contaminated"
    }
    run_script(*infer(folder, "p.jsonl", "fake"))
    run_script(*scoring(folder))
    assert [row["id"] for row in read_rows(folder / "p.scores.jsonl")] == ids["a"]
    assert rows[2]["question"] in run_script(*scoring(folder), "--explain", ids["a"][2]).stdout
    assert (
        rows[2]["question"]
        in run_script("scripts/trace.py", ids["a"][2], "--run", folder, "--data_root", folder / "data").stdout
    )
    for path in [folder / "datasets", *folder.glob("out*"), *folder.glob("kept*"), *folder.glob("p.*")]:
        path.rename((tmp_path / "run") / path.name)
    assert "is right" in run_script("scripts/verify.py", tmp_path / "run").stdout
    write_rows(folder / "problems.jsonl", [*rows, rows[0]])
    refused(run_script(*teach(folder, "new.jsonl"), check=False), f"{ids['a'][0]!r} stands already in line 1")


LINE = json.dumps(problem(0)).encode()
OTHER = json.dumps(problem(1)).encode()
MALFORMED: dict[str, tuple[bytes, str | None]] = {  # file, and what is said; None: it is taken as two problems
    "bad UTF-8": (LINE + b"\n" + OTHER.replace(b"Tom", b"T\xffm") + b"\n", ":2: not UTF-8"),
    "byte-order mark": (b"\xef\xbb\xbf" + LINE + b"\n" + OTHER + b"\n", None),
    "CRLF": (LINE + b"\r\n" + OTHER + b"\r\n", None),
    "blank lines": (b"\n" + LINE + b"\n  \n" + OTHER + b"\n\n", None),
    "NUL": (LINE + b"\n" + OTHER.replace(b"Tom", b"T\x00m") + b"\n", ":2: not a JSON record"),
    "lone surrogate": (LINE + b"\n" + OTHER.replace(b"Tom", rb"T\ud800m") + b"\n", ":2: holds a lone surrogate"),
    "line separators in text": (LINE + b"\n" + OTHER.replace(b"Tom", "T\u2028\u0085m".encode()) + b"\n", None),
    "NaN": (LINE + b"\n" + OTHER.replace(b'"2"', b"NaN") + b"\n", ":2: not a JSON record (NaN"),
    "Infinity": (LINE + b"\n" + OTHER.replace(b'"2"', b"Infinity") + b"\n", ":2: not a JSON record (Infinity"),
    "5,000 digits": (LINE + b"\n" + OTHER.replace(b'"2"', b"7" * 5000) + b"\n", ":2: not a JSON record"),
    "100,000 brackets": (LINE + b"\n" + OTHER.replace(b'"2"', b"[" * 100_000) + b"\n", ":2: nested too deeply"),
    "duplicate key": (
        LINE + b"\n" + OTHER.replace(b"{", b'{"id": "x", ', 1) + b"\n",
        ":2: not a JSON record (key 'id'",
    ),
    "top-level array": (b"[" + LINE + b",\n" + OTHER + b"]\n", ":1: not a JSON record"),
    "wrong type": (LINE + b"\n" + OTHER.replace(b'"2"', b"2") + b"\n", ":2: field 'answer' must be str, found int"),
    "empty file": (b"", ": holds no problems"),
    "no final newline": (LINE + b"\n" + OTHER, None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_f09_malformed_inputs(tmp_path: Path, name: str):
    raw, says = MALFORMED[name]
    (tmp_path / "problems.jsonl").write_bytes(raw)
    done = run_script(*teach(tmp_path), check=says is None)
    if says is None:
        assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == ["gsm8k-test-00000", "gsm8k-test-00001"]
    else:
        refused(done, f"{tmp_path / 'problems.jsonl'}{says}")
        assert not (tmp_path / "out.jsonl").exists()
    assert (tmp_path / "problems.jsonl").read_bytes() == raw


def test_f10_long_files_and_lines(tmp_path: Path):
    """Memory of the grader's stage over its size after imports; 100 MB for a million rows, and 60,000 are measured."""
    rows = 60_000
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(rows)])
    base = {"sample": 0, "dataset": "gsm8k", "finish_reason": "stop"}
    predictions = [{"id": problem(number)["id"], "response": f"#### {number + 1}", **base} for number in range(rows)]
    write_rows(tmp_path / "p.jsonl", predictions)
    assert memory_growth("score", *scoring(tmp_path)[1:])[1] < 30 * 1024
    write_rows(tmp_path / "p.jsonl", [{**predictions[0], "response": "7" * 50_000_000}])
    refused(run_script(*scoring(tmp_path), check=False), "p.jsonl:1: the line is longer than 16 MiB")


def test_f11_two_processes_on_one_output(tmp_path: Path):
    words = teach(tmp_path, model="fake:seconds=0.2")
    process = start(words)
    wait_for(lambda: records_in(tmp_path) >= 1)
    refused(run_script(*words, check=False), f"process {process.pid} is writing")
    process.kill()
    process.communicate()
    run_script(*words)
    assert len(read_rows(tmp_path / "out.jsonl")) == 30


def test_f12_left_over_shards(tmp_path: Path):
    """Of an unknown run: refused. Of other settings: refused, or removed under --overwrite, which is said."""
    stale = shards.rank_file(tmp_path / "out.jsonl", 3)
    stale.write_bytes(b'{"id": "gsm8k-test-00000", "sample": 0}\n')
    refused(run_script(*teach(tmp_path), check=False), "out.jsonl.rank3", "left over")
    stale.unlink()
    interrupted(tmp_path)
    shards.rank_file(tmp_path / "out.jsonl", 0).rename(stale)
    refused(run_script(*teach(tmp_path), check=False), "model: 'fake:seconds=0.05' -> 'fake'")
    done = run_script(*teach(tmp_path), "--overwrite")
    assert f"{stale}: belongs to an older run and is removed" in done.stderr
    run_script(*teach(tmp_path, "fresh.jsonl"))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "fresh.jsonl").read_bytes()


def test_f12_a_kill_after_the_manifest_leaves_no_shard(tmp_path: Path):
    run_script(*teach(tmp_path))
    shards.rank_file(tmp_path / "out.jsonl", 0).write_bytes((tmp_path / "out.jsonl").read_bytes())
    assert "done already" in run_script(*teach(tmp_path)).stderr
    assert not shards.rank_files(tmp_path / "out.jsonl")


def test_f13_a_shard_missing_or_short(tmp_path: Path):
    """One of two ranks is done, then the other's file is there but for its last record."""
    output = tmp_path / "out.jsonl"
    words = infer(tmp_path, model="fake")
    run_script(*words, RANK="0", WORLD_SIZE="2")
    names = [problem(number)["id"] for number in range(24)]
    done = run_script(*words, "--merge_only", check=False)
    refused(done, f"12 of 24 results are missing: {', '.join(names[1:20:2])}, ...")
    assert not output.exists()
    run_script(*infer(tmp_path, "other.jsonl", "fake"))
    lines = (tmp_path / "other.jsonl").read_bytes().splitlines(keepends=True)
    shards.rank_file(output, 1).write_bytes(b"".join(lines[1::2])[:-5])
    done = run_script(*words, "--merge_only", check=False)
    refused(done, f"1 of 24 results are missing: {names[23]}")
    assert done.returncode == 1
    assert not output.exists()


REWORDED = """
import sys, teacher_cot
from cotkit import cli, prompts
prompts.SYSTEM = "Hm."
sys.exit(cli.run(teacher_cot.main))
"""


def test_f14_changed_settings_and_inputs(tmp_path: Path):
    words = interrupted(tmp_path)
    changes: dict[str, list[str]] = {
        "model: 'fake:seconds=0.05' -> 'fake'": teach(tmp_path),
        "mode: 'rewrite' -> 'solve'": [*words, "--mode", "solve"],
        "max_new_tokens: 512 -> 7": [*words, "--max_new_tokens", "7"],
        "temperature: 0.0 -> 0.7": [*words, "--temperature", "0.7"],
        "prompt: '": ["-c", REWORDED, *words[1:]],
    }
    before = shards.rank_file(tmp_path / "out.jsonl", 0).read_bytes()
    for says, changed in changes.items():
        done = run_script(*changed, check=False, PYTHONPATH=str(ROOT))
        refused(done, says, " -> ", "give another output path, or --overwrite")
    assert shards.rank_file(tmp_path / "out.jsonl", 0).read_bytes() == before
    run_script(*words)
    write_rows(tmp_path / "problems.jsonl", [problem(number) for number in range(33)])
    start_counted(words, tmp_path / "ledger").communicate()
    assert (tmp_path / "ledger").read_text(encoding="utf-8").split() == [
        problem(number)["id"] for number in (30, 31, 32)
    ]
    assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == [problem(number)["id"] for number in range(33)]
    write_rows(tmp_path / "problems.jsonl", [problem(number, question="Else?") for number in range(33)])
    refused(run_script(*words, check=False), "its content differs")


NO_ENGINE = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("engines:", sorted({"torch", "transformers", "vllm"} & set(sys.modules)))
"""


def test_f15_a_finished_output(tmp_path: Path, tiny_model: Path):
    """Every stage says so without an engine, and touches no file."""
    answer = [word if word != "fake" else str(tiny_model) for word in infer(tmp_path, "p.jsonl", "fake", rows=2)]
    answer[answer.index("--backend") + 1] = "transformers"
    assert infer_parallel.main([*answer[1:], "--max_new_tokens", "4"]) == 0
    kept = [*filtering(tmp_path), "--student_model", str(tiny_model)]
    stages = [teach(tmp_path), kept, [*answer, "--max_new_tokens", "4"], scoring(tmp_path)]
    for words in stages:
        run_script(*words)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for words in stages:
        done = run_script("-c", NO_ENGINE, *words, PYTHONPATH=str(ROOT))
        assert "done already" in done.stdout + done.stderr
        assert done.stdout.endswith("engines: []\n")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def prediction(number: int, response: str, **changes: Any) -> dict[str, Any]:
    row = {"id": problem(number)["id"], "sample": 0, "dataset": "gsm8k", "response": response, "finish_reason": "stop"}
    return {**row, **changes}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([prediction(0, "#### 1"), prediction(2, "#### 3")], None),
        (
            [prediction(0, "#### 1"), prediction(9, "#### 3")],
            "p.jsonl:2: id 'gsm8k-test-00009' is not among the 4 problems",
        ),
        ([prediction(0, "#### 1")] * 2, "p.jsonl:2: gsm8k-test-00000 stands already in line 1"),
        ([], "p.jsonl: holds no predictions"),
    ],
    ids=["missing", "extra", "duplicated", "empty"],
)
def test_f16_predictions_and_gold(tmp_path: Path, rows: list[dict[str, Any]], says: str | None):
    """Four problems, one without a gold answer, are the denominator whatever was predicted."""
    golds = [problem(number) for number in range(3)] + [problem(3, answer="")]
    write_rows(tmp_path / "data/gsm8k/test.jsonl", golds)
    write_rows(tmp_path / "p.jsonl", rows)
    done = run_script(*scoring(tmp_path), check=says is None)
    if says is not None:
        refused(done, says)
        assert not (tmp_path / "p.summary.json").exists()
        return
    summary = jsonl.read_json(tmp_path / "p.summary.json")
    assert (summary["n"], summary["accuracy"], summary["missing"]) == (4, 0.5, 2)
    assert summary["verdicts"]["gold_unparsable"] == 1
    assert "2 without a prediction (counted as wrong)" in done.stdout


HOSTILE = """
import json, os, resource, sys, time
from test_grader_pool import EASY, UNEQUAL, bench, resident_mb
from cotkit.answers import Item, grade_many
golds = (("math500", EASY[0]), ("gsm8k", "5"))
items = []
for n, text in enumerate(bench().hostile_answers(sys.argv[1])):
    items += [Item(f"h{n}", *golds[n % 2], text), Item(f"n{n}", *golds[0], f"\\\\boxed{{{(EASY, UNEQUAL)[n % 2][1]}}}")]
list(grade_many([Item(str(n), "math500", EASY[0], EASY[1] + f" + {n}") for n in range(4)], workers=2))  # both are there
slowest, began = 0.0, time.monotonic()
verdicts, last = [], began
for grade in grade_many(items, workers=2):
    slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
    verdicts.append(grade.verdict)
# ru_maxrss of this process itself would be inherited from the pytest that started it.
peak = max(resident_mb(os.getpid()) * 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(json.dumps([verdicts, slowest, time.monotonic() - began, peak]))
"""


def test_f17_hostile_answers(tmp_path: Path):
    """3 s an answer, 60 s for all on two workers, 1 GB, and nothing of what they ask for is done."""
    done = run_script("-c", HOSTILE, tmp_path / "canary", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    verdicts, slowest, seconds, peak = json.loads(done.stdout)
    hostile, neighbours = verdicts[::2], verdicts[1::2]
    assert len(hostile) >= 40
    assert set(hostile) <= {"wrong", "no_answer", "grader_timeout"}
    assert neighbours == ["correct", "wrong"] * (len(hostile) // 2)
    assert slowest < 3 + MARGIN_S
    assert seconds < 60
    assert peak < 2**20  # kB
    assert not list(tmp_path.iterdir())


def test_f17_a_worker_that_dies_costs_one_item():
    """Its answer is marked as such; those before and after it have their grades."""
    pool = GraderPool(1)
    assert pool.submit(*EASY).result().verdict == "correct"
    first = pool.pids()[0]
    lost = pool.submit(*ENDLESS)
    time.sleep(0.2)
    os.kill(first, signal.SIGKILL)
    assert lost.result() == Outcome("grader_timeout", "worker_died")
    assert pool.submit(*UNEQUAL).result() == Outcome("wrong", "math_verify")
    assert pool.pids()[0] != first
    pool.close()


def test_f18_labelled_answers_and_plain_pairs():
    """A table of equivalences with at most 2 % disagreement (here: none), and 1,000 plain pairs in a moment."""
    assert len({case[:3] for case in CASES}) >= 300
    graded = grade_many((item_of(case, number) for number, case in enumerate(CASES)), workers=2)
    off = [
        f"{case.gold!r} | {case.response!r}: {case.verdict} expected ({case.reason}), {found.verdict} by {found.rule}"
        for case, found in zip(CASES, graded, strict=True)
        if found.verdict != case.verdict
    ]
    assert not off, "\n".join(off)
    began = time.monotonic()
    plain = [Item(str(number), "gsm8k", str(number), f"so\n#### {number + number % 2}") for number in range(1000)]
    assert Counter(found.verdict for found in grade_many(plain, workers=1)) == {"correct": 500, "wrong": 500}
    assert time.monotonic() - began < 5


def test_f19_generations_that_are_no_solution(tmp_path: Path):
    """Each is rejected under its reason; none that was cut off is kept."""
    good = "Tom starts with 4 apples.\nThen he has 4+1=5 apples.\n#### 5"
    rows = {
        "truncated": {"response": good.replace("#### 5", ""), "finish_reason": "length"},
        "no_answer_line": {"response": ""},
        "unclosed_think": {"response": "<think>4+1=5, so #### 5"},
        "no_answer_line ": {"response": "He has \\boxed{4} or rather \\boxed{5} apples."},
        "no_answer_line  ": {"response": "He has some.", "thinking": "so \\boxed{5}"},
        "kept": {"response": good},
    }
    base = {
        "sample": 0,
        "thinking": "",
        "finish_reason": "stop",
        "prompt_tokens": 9,
        "completion_tokens": 9,
        "model": "m",
    }
    teacher = [{**problem(4, id=f"gsm8k-test-{number:05d}"), **base, **row} for number, row in enumerate(rows.values())]
    write_rows(tmp_path / "out.jsonl", teacher)
    assert filter_teacher_cot.main(filtering(tmp_path)[1:]) == 0
    found = {row["id"]: row["reason"] for row in read_rows(tmp_path / "kept.rejected.jsonl")}
    kept = {row["id"]: "kept" for row in read_rows(tmp_path / "kept.jsonl")}
    assert [(found | kept)[row["id"]] for row in teacher] == [reason.strip() for reason in rows]


@pytest.mark.parametrize("template", ["qwen", "qwen3_nothink"])
@pytest.mark.parametrize(
    "system", [prompts.SYSTEM, "Think.", "Zähle → 𝕏.\nLine two & {braces}. " * 5], ids=["ours", "short", "long"]
)
def test_f20_what_llamafactory_loads(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, template: str, system: str
):
    """All rows, none cut, each ending in the end of turn, its prompt token for token the one that inference sends."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    from transformers import AutoTokenizer

    monkeypatch.setattr(prompts, "SYSTEM", system)
    questions = ["2024-01-01", "null", "7", "Wie → viel\u2028ist {x} & \\frac{1}{2}?", "line\nline", "q" * 300]
    rows = [prompts.training_row(question, prompts.target("1+1=2", "2")) for question in questions]
    write_training_set(tmp_path, "distilled", rows)
    write_dataset_info(tmp_path, {"distilled": False})
    values = {"model_name_or_path": str(tiny_model), "stage": "sft", "do_train": True, "finetuning_type": "lora",
              "dataset": "distilled", "dataset_dir": str(tmp_path), "template": template, "cutoff_len": 1024,
              "output_dir": str(tmp_path / "o"), "overwrite_cache": True, "report_to": "none"}  # fmt: skip
    model_args, data_args, training_args, _, _ = get_train_args(values)
    tokenizer = load_tokenizer(model_args)
    chat = get_template_and_fix_tokenizer(tokenizer["tokenizer"], data_args)
    loaded = get_dataset(chat, model_args, data_args, training_args, stage="sft", **tokenizer)["train_dataset"]
    assert len(loaded) == len(rows)
    serving = AutoTokenizer.from_pretrained(tiny_model)
    for row, question in zip(loaded, questions, strict=True):
        served = prompts.render(serving, prompts.student_messages(question), thinking=False)
        prompt = serving(served, add_special_tokens=False)["input_ids"]
        trained = [label for label in row["labels"] if label >= 0]
        assert row["input_ids"] == prompt + trained
        assert serving.decode(trained).rstrip("\n") == "1+1=2\n#### 2<|im_end|>"


@pytest.mark.parametrize("ending", ["<|im_end|>", "<|endoftext|>"])
def test_f21_an_adapter_ends_its_turn(tiny_model: Path, tiny_adapter: Path, ending: str):
    """The base model's configuration names one of the two marks only; every row of a batch stops at either."""
    engine = load(tiny_model, Sampling(12), adapter=tiny_adapter)
    token, calls = engine.tokenizer.convert_tokens_to_ids(ending), []

    def force(_module: Any, _inputs: Any, scores: Any) -> Any:
        calls.append(scores.shape)
        if len(calls) > 4:
            scores[..., token] = 1e9
        return scores

    engine.model.lm_head.register_forward_hook(force)
    done = [completion for _, completion in engine.generate(REQUESTS[:4])]
    assert {completion.finish_reason for completion in done} == {"stop"}
    assert all(completion.completion_tokens <= 5 and ending not in completion.text for completion in done)


def test_f22_texts_depend_on_neither_batch_nor_ranks(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Greedy, float32, questions of many lengths."""
    rows = [problem(number, question="apples " * (1 + 7 * (number % 4)) + f"{number}?") for number in range(9)]
    write_rows(tmp_path / "data/gsm8k/test.jsonl", rows)
    words = [
        "--dataset",
        "gsm8k",
        "--data_root",
        str(tmp_path / "data"),
        "--base_model",
        str(tiny_model),
        "--max_new_tokens",
        "12",
    ]
    outputs = []
    for batch, world in ((1, 1), (2, 1), (7, 1), (7, 2)):
        output = tmp_path / f"{batch}-{world}.jsonl"
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(world))
            assert infer_parallel.main([*words, "--batch_size", str(batch), "--output_path", str(output)]) == 0
        outputs.append(output.read_bytes())
    assert len(read_rows(output)) == 9
    assert len(set(outputs)) == 1


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_f23_signals(tmp_path: Path, signum: int, code: int):
    words = teach(tmp_path, model="fake:seconds=0.1,bytes=20000")
    process = start(words)
    wait_for(lambda: records_in(tmp_path) >= 1)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=5)
    assert process.returncode == code
    assert "the same command resumes" in errors
    assert "Traceback" not in errors
    rank_file = shards.rank_file(tmp_path / "out.jsonl", 0)
    assert rank_file.read_bytes().endswith(b"\n")
    assert all(jsonl.loads(line, "") for line in acknowledged(rank_file))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_f23_no_orphan_ranks(tmp_path: Path, signum: int):
    launcher = start([*TORCHRUN, "--nproc_per_node=2", *infer(tmp_path, model="fake:seconds=2")])
    wait_for(lambda: len(shards.rank_files(tmp_path / "out.jsonl")) == 2)
    ranks = [pid_of_rank(tmp_path / "out.jsonl", rank) for rank in range(2)]
    launcher.send_signal(signum)
    launcher.communicate(timeout=30)
    assert launcher.returncode != 0
    wait_for(lambda: not any(map(alive, ranks)))
    assert not (tmp_path / "out.jsonl").exists()


@dataclass
class Disturbed:
    """One preset run twice: left alone, and made to fail and killed in every stage."""

    alone: Pipeline
    pipeline: Pipeline
    failures: dict[str, tuple[int, str]]  # stage -> exit code and what was printed
    kills: dict[str, str]  # stage -> what was printed until then
    end: tuple[int, str]


def break_stage(stage: str, preset: Path, run: Path) -> Callable[[], object]:
    """Makes a stage fail; returns what mends it."""
    if stage in ("compare", "report"):
        obstacle = run / ("comparison.json" if stage == "compare" else "report.html")
        obstacle.mkdir()
        return obstacle.rmdir
    if stage == "critic":
        write_yaml(preset / "critic.yaml", {"nonsense": 1})
        return (preset / "critic.yaml").unlink
    config = preset / ("train/distilled.yaml" if stage == "train" else f"{stage}.yaml")
    text = config.read_bytes()
    edit_yaml(config, **({"dataset": "nothing"} if stage == "train" else {"nonsense": 1}))
    return lambda: config.write_bytes(text)


def under_way(stage: str, run: Path) -> Callable[[str], Any]:
    """Whether a stage is in the middle of its work, by what was printed or lies on the disk."""
    if stage == "teacher":
        return lambda printed: records_in(run, "teacher.jsonl") >= 3
    if stage == "train":
        return lambda printed: len(list((run / "train/distilled").glob("checkpoint-*/trainer_state.json"))) >= 2
    if stage == "infer":
        return lambda printed: records_in(run / "predictions/amc23", "baseline.jsonl") >= 1
    return lambda printed: f"== {stage}" in printed


@pytest.fixture(scope="module")
def disturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """With secrets in the environment and wandb switched on, under names that a shell could trip over."""
    root = tmp_path_factory.mktemp("pipeline")
    preset = make_preset(root / "it's $(touch HACKED) ä", tiny_model)
    alone = Pipeline(preset, root / "alone")
    code, text = alone.finish()
    assert code == 0, text
    shutil.rmtree(root / "data")
    edit_yaml(preset / "train.yaml", report_to="wandb")
    wandb = {"WANDB_MODE": "offline", "WANDB_DIR": str(root), "WANDB_SILENT": "true"}
    pipeline = Pipeline(preset, root / "dis turbed", **CANARIES, **wandb)
    failures, kills = {}, {}
    for stage in STAGES:
        mend = break_stage(stage, preset, pipeline.run)
        failures[stage] = pipeline.finish()
        mend()
        if stage == "critic":  # an optional stage, which this preset leaves out
            continue
        kills[stage] = pipeline.killed_when(under_way(stage, pipeline.run))
        if stage == "train":
            newest = max(
                pipeline.run.glob("train/distilled/checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
            )
            (newest / "trainer_state.json").write_text("", encoding="utf-8")
    return Disturbed(alone, pipeline, failures, kills, pipeline.finish())


@pytest.mark.parametrize("stage", STAGES)
def test_f24_a_stage_that_fails_or_is_killed(disturbed: Disturbed, stage: str):
    """The pipeline stops there with the stage's code; what was finished before it is not done again."""
    number = STAGES.index(stage)
    code, text = disturbed.failures[stage]
    assert code == 1
    assert text.rstrip().endswith(f"pipeline stopped in stage {stage} (exit code 1); the same command goes on there")
    finished = [1, 1, 1, 1, 2, 0, 2, 0, 0]  # how often each stage says that it is done: infer and score on two methods
    resumed = max(number - 1, 0)  # the stage before had been killed, so this run took it up again
    for printed, before in ((text, resumed), (disturbed.kills.get(stage), number)):
        if printed is not None:
            assert re.findall(r"^== (\w+)", printed, re.MULTILINE) == list(STAGES[: number + 1])
            assert len(re.findall("done already|trained already", printed)) >= sum(finished[:before])


def test_f24_the_end_is_that_of_an_undisturbed_run(disturbed: Disturbed):
    code, text = disturbed.end
    assert code == 0, text
    ends = []
    for run in (disturbed.alone.run, disturbed.pipeline.run):
        files = [path for path in run.rglob("*") if path.is_file() and "manifest" not in path.name]
        made = [path for path in files if path.suffix in (".jsonl", ".json", ".md") and path.name != "report.md"]
        ends.append(
            {str(path.relative_to(run)): path.read_bytes() for path in made if not {"train", "logs"} & {*path.parts}}
        )
        adapter = run / "train/distilled/adapter_model.safetensors"
        ends[-1]["adapter"] = adapter.read_bytes()
    assert sorted(ends[0]) == sorted(ends[1])
    assert [name for name in ends[0] if ends[0][name] != ends[1][name]] == []
    assert json.loads(ends[0]["predictions/amc23/distilled.summary.json"])["n"] == 24
    assert "is right" in run_script("scripts/verify.py", disturbed.pipeline.run).stdout


@pytest.mark.parametrize(
    "name", ["a b.jsonl", 'it\'s "x".jsonl', "$(touch HACKED).jsonl", "new\nline.jsonl", "-x.jsonl"]
)
def test_f25_odd_names(tmp_path: Path, name: str):
    """As the output of one stage and the input of the next, from a folder of its own."""
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(4)])
    fake, data = ["--backend", "fake"], ["--dataset", "gsm8k", "--data_root", "data"]
    for words in (
        [
            ROOT / "teacher_cot.py",
            *fake,
            "--model_name",
            "fake",
            "--input_path",
            "data/gsm8k/test.jsonl",
            f"--output_path={name}",
        ],
        [ROOT / "filter_teacher_cot.py", f"--input_path={name}", f"--output_path=kept {name}"],
        [ROOT / "infer_parallel.py", *fake, *data, "--base_model", "fake", f"--output_path=answers {name}"],
        [ROOT / "score.py", *data, f"--pred_path=answers {name}"],
    ):
        run_script(*words, cwd=tmp_path)
    assert len(read_rows(tmp_path / name)) == len(read_rows(tmp_path / f"answers {name}")) == 4
    assert jsonl.read_json((tmp_path / f"answers {name}").with_suffix(".summary.json"))["n"] == 4
    assert not list(tmp_path.rglob("HACKED*"))


def test_f25_names_that_are_no_text_or_no_value_are_refused(tmp_path: Path):
    words = teach(tmp_path)[:-2]
    refused(run_script(*words, "--output_path", "-x.jsonl", check=False), "--output_path: expected one argument")
    command = [sys.executable, *words, b"--output_path=\xff.jsonl"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    refused(done, "not UTF-8")
    assert [path.name for path in tmp_path.iterdir()] == ["problems.jsonl"]


def test_f25_nothing_of_a_preset_s_name_is_executed(disturbed: Disturbed):
    assert not [path for path in (ROOT / "HACKED", Path("/HACKED")) if path.exists()]
    assert not list(disturbed.alone.run.parents[1].rglob("HACKED"))
    subprocess.run(["shellcheck", "--external-sources", *ROOT.glob("scripts/*.sh")], check=True, cwd=ROOT)


def leaks(text: bytes) -> list[str]:
    return [name for name, canary in CANARIES.items() if canary.encode() in text]


def test_f26_secrets_of_a_whole_run(disturbed: Disturbed):
    """Training with wandb, failures and kills: no canary in what was printed, in the run folder or in wandb's."""
    root = disturbed.pipeline.log.parent
    files = [path for path in root.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".wandb"]
    assert disturbed.pipeline.log in files
    assert {str(path): found for path in files if (found := leaks(path.read_bytes()))} == {}


def test_f26_secrets_with_debug(tmp_path: Path):
    """A traceback, asked for, shows no canary either."""
    done = run_script(*teach(tmp_path, model="fake:no=1"), "--overwrite", "--debug", check=False, **CANARIES)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert not leaks((done.stdout + done.stderr).encode())


def test_f27_a_server_that_fails_in_every_way(tmp_path: Path):
    """What passes is retried; what lasts is listed, ends in exit code 3, and is tried again by the next run.

    More of them, one by one: test_openai_faults.py.
    """
    words = teach(tmp_path, model="m", rows=12)
    words[words.index("--backend") + 1] = "openai"
    words += ["--request_timeout", "1", "--max_retries", "2", "--concurrency", "1", "--base_url"]
    passing = [429, 500, "hang", "cut", "broken_json", "empty_choices", "null_content"]
    with ChatServer(*[step for fault in passing for step in (fault, "answer")]) as server:
        run_script(*words, server.url)
    assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == [problem(number)["id"] for number in range(12)]
    assert len(server.bodies) == 12 + len(passing)

    write_rows(tmp_path / "problems.jsonl", [problem(number) for number in range(14)])
    with ChatServer("answer", then=500, text="3+4", reason="length") as server:
        done = run_script(*words, server.url, check=False)
    assert done.returncode == 3
    assert len(server.bodies) == 1 + 3
    assert re.search("1 results failed for good: gsm8k-test-0001[23] ", done.stderr)
    assert run_script(*words, server.url, "--is_done", check=False).returncode == 4
    with ChatServer() as server:
        run_script(*words, server.url)
    assert len(server.bodies) == 1
    assert Counter(row["finish_reason"] for row in read_rows(tmp_path / "out.jsonl")) == {"answer": 13, "length": 1}


def test_f28_out_of_memory(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The batch halves until it fits; a row that does not fit alone is marked, and the next run tries it again."""
    import torch
    from transformers import Qwen2ForCausalLM

    rows = [problem(number) for number in range(8)]
    rows[5]["question"] = "apples " * 200
    write_rows(tmp_path / "data/gsm8k/test.jsonl", rows)
    words = infer(tmp_path, model=str(tiny_model))[1:]
    words[words.index("--backend") + 1] = "transformers"
    real, sizes = Qwen2ForCausalLM.forward, []

    def small_memory(self: Any, input_ids: Any, **named: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2 or input_ids.shape[1] > 200:
            raise torch.OutOfMemoryError("raised by the test")
        return real(self, input_ids=input_ids, **named)

    monkeypatch.setattr(Qwen2ForCausalLM, "forward", small_memory)
    assert infer_parallel.main([*words, "--max_new_tokens", "6", "--batch_size", "8"]) == 3
    found = read_rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["id"] for row in found if row["finish_reason"] == "error"] == [rows[5]["id"]]
    assert f"1 results failed for good: {rows[5]['id']} (out of memory" in capsys.readouterr().err
    assert max(sizes) > 2
    monkeypatch.setattr(Qwen2ForCausalLM, "forward", real)
    assert infer_parallel.main([*words, "--max_new_tokens", "6", "--batch_size", "8"]) == 0
    assert all(row["finish_reason"] != "error" for row in read_rows(tmp_path / "out.jsonl"))


def test_f29_locale_folder_and_time_zone(tmp_path: Path):
    """Every stage under names and texts beyond ASCII: the same bytes, in files and printed."""
    said = []
    for name, environment in (("ä", {}), ("ö", {"LC_ALL": "C", "PYTHONUTF8": "0", "TZ": "Asia/Kathmandu"})):
        folder = tmp_path / name
        write_rows(
            folder / "data/gsm8k/test.jsonl", [problem(number, question=f"Wie → {number}?") for number in range(6)]
        )
        shutil.copy(folder / "data/gsm8k/test.jsonl", folder / "problems.jsonl")
        stages = [teach(folder), filtering(folder), infer(folder, "p.jsonl", "fake"), scoring(folder)]
        stages.append([*scoring(folder), "--explain", problem(3)["id"]])
        cwd = tmp_path if environment else ROOT
        said.append([run_script(*words, cwd=cwd, **environment).stdout for words in stages][-1])
    files = [
        path
        for path in (tmp_path / "ä").rglob("*")
        if path.is_file() and "manifest" not in path.name and path.name[0] != "."
    ]
    assert len(files) > 10
    for path in files:
        assert (tmp_path / "ö" / path.relative_to(tmp_path / "ä")).read_bytes() == path.read_bytes(), path
    assert said[0] == said[1]
    assert "→" in said[0]


def test_f30_training_killed_and_its_newest_checkpoint_damaged(disturbed: Disturbed):
    """LLaMA-Factory goes on from the last whole checkpoint and reaches the last step."""
    printed = disturbed.failures["infer"][1]  # the run after the kill: it trained on, then failed as it was made to
    damaged = re.search(r"checkpoint-(\d+): is damaged .* set aside as damaged-checkpoint-\1", printed)
    resumed = re.search(r"resuming from checkpoint-(\d+)", printed)
    assert damaged and resumed
    assert 0 < int(resumed[1]) < int(damaged[1])
    records = [jsonl.read_json(pipeline.run / "train/distilled.manifest.json")
               for pipeline in (disturbed.alone, disturbed.pipeline)]  # fmt: skip
    for key in ("steps", "rows", "trained_tokens"):
        assert records[0]["counts"][key] == records[1]["counts"][key]
    assert records[1]["counts"]["steps"] > int(damaged[1])
    curves = [[point["step"] for point in record["losses"] if "loss" in point] for record in records]
    assert curves[0] == curves[1]


def test_f31_nothing_that_runs_data_as_code():
    """More on what is looked for: test_static.py."""
    found = {path.name: list(violations(ast.parse(path.read_text(encoding="utf-8")))) for path in CODE}
    assert len(found) > 40
    assert not {name: lines for name, lines in found.items() if lines}
