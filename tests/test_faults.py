"""The 31 faults that a run must survive, by number: real processes, real signals, and no model where none is the point.

What a fault's own code promises in detail is tested beside it; here every number has its figure.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from answer_cases import CASES
from conftest import ROOT, problem, read_rows, refused, run_script, write_rows
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
)
from test_answers import item_of
from test_generate import REQUESTS, load, texts
from test_grader_pool import EASY, UNEQUAL, bench
from test_static import CODE, violations

import filter_teacher_cot
import infer_parallel
import score
import teacher_cot
from cotkit import jsonl, manifest, prompts, shards
from cotkit.answers import Item, grade_many
from cotkit.generate import Request, Sampling
from cotkit.training_sets import write_dataset_info, write_training_set


def test_f01_killed_fifty_times(tmp_path: Path):
    """20 KB records; what was acknowledged is never lost, and a kill repeats at most the batch of one that it hit."""
    model = "fake:seconds=0.02,bytes=20000"
    run_script(*teach(tmp_path, "undisturbed.jsonl", model, rows=400))
    rank_file, ledger = shards.rank_file(tmp_path / "out.jsonl", 0), tmp_path / "ledger"
    chance = random.Random(1)
    words, lost, kills, safe = teach(tmp_path, "out.jsonl", model), 0, 0, set[bytes]()
    while kills < 50:
        process = start_counted(words, ledger)
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
        write_rows(tmp_path / source, [{**row, "response": row["response"].replace("no model", "no other model")} for row in rows])
        done = run_script("-c", FULL, *words, check=False, PYTHONPATH=str(ROOT), FULL=rf"/\.{name}")
        no_space(done, "No space left on device")
        assert {path: path.read_bytes() for path in old} == old
        run_script(*words)
        assert {path: path.read_bytes() for path in old} != old
    done = subprocess.run(["bash", "-c", '"$@" >/dev/full', "-", sys.executable, *stages[1][0], "--explain", rows[0]["id"]],
                          check=False, cwd=ROOT, capture_output=True, text=True)  # fmt: skip
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
    words = ["infer_parallel.py", "--dataset", "gsm8k", "--data_root", tmp_path / "data", "--base_model", tmp_path / "empty"]
    says = {"file": "a folder is needed here, but a file is in the way", "fixed": "Permission denied", "fixed/new": "Permission denied"}
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
    write_rows(folder / "data/gsm8k/test.jsonl", rows)
    write_rows(folder / "tests.jsonl", rows[:2])
    words = ["--problems_path", folder / "problems.jsonl", "--test_paths", folder / "tests.jsonl", "--max_overlap", "0.99"]
    run_script(*filtering(folder), *words)
    assert ids["a"][0] in {row["id"] for row in read_rows(folder / "kept.rejected.jsonl") if row["reason"] == "contaminated"}
    run_script(*infer(folder, "p.jsonl", "fake"))
    run_script(*scoring(folder))
    assert [row["id"] for row in read_rows(folder / "p.scores.jsonl")] == ids["a"]
    assert rows[2]["question"] in run_script(*scoring(folder), "--explain", ids["a"][2]).stdout
    assert rows[2]["question"] in run_script("scripts/trace.py", ids["a"][2], "--run", folder, "--data_root", folder / "data").stdout
    assert "is right" in run_script("scripts/verify.py", folder).stdout
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
    "duplicate key": (LINE + b"\n" + OTHER.replace(b"{", b'{"id": "x", ', 1) + b"\n", ":2: not a JSON record (key 'id'"),
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
    code = "import resource, sys, score; peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; " \
        "before = peak(); score.main(sys.argv[1:]); print(peak() - before)"  # fmt: skip
    done = run_script("-c", code, *scoring(tmp_path)[1:], PYTHONPATH=str(ROOT))
    assert int(done.stdout.split()[-1]) < 30 * 1024  # kB
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


REWORDED = "import sys, teacher_cot; from cotkit import cli, prompts; prompts.SYSTEM = 'Hm.'; sys.exit(cli.run(teacher_cot.main))"


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
    assert (tmp_path / "ledger").read_text(encoding="utf-8").split() == [problem(number)["id"] for number in (30, 31, 32)]
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
        ([prediction(0, "#### 1"), prediction(9, "#### 3")], "p.jsonl:2: id 'gsm8k-test-00009' is not among the 4 problems"),
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
