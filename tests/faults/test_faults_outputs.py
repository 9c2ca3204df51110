"""Faults 6 to 8 and 11 to 15: output folders, ids, locks, shards, and reruns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT, problem, read_rows, refused, run_script, write_rows
from faults.faults_tools import (
    acknowledged,
    filtering,
    infer,
    interrupted,
    records_in,
    scoring,
    start,
    start_counted,
    teach,
    wait_for,
)

import infer_parallel
from cotkit.core import jsonl
from cotkit.generation import shards

# Drops root's right to write anywhere, so that a folder's mode applies to root too.
BOUND = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; fails without root, which has nothing to drop
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_f06_the_output_folder(tmp_path: Path):
    """A missing folder is made. Other faults give one line before the model is loaded: this model has no weights."""
    run_script(*teach(tmp_path, "a/b/out.jsonl"))
    assert (tmp_path / "a/b/out.jsonl").is_file()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "fixed").mkdir(mode=0o555)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text("{}", encoding="utf-8")
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(0)])
    words = ["infer_parallel.py", "--dataset", "gsm8k", "--data_root", tmp_path / "data"]
    words += ["--base_model", tmp_path / "empty"]
    denied = "Permission denied"
    messages = {"file": "a folder is needed here, but a file is in the way", "fixed": denied, "fixed/new": denied}
    for folder, needle in messages.items():
        done = run_script("-c", BOUND, *words, "--output_path", tmp_path / folder / "out.jsonl", check=False)
        refused(done, f"{tmp_path / folder}", needle)
    (tmp_path / "out.jsonl").mkdir()
    refused(run_script(*teach(tmp_path), check=False), "out.jsonl")


@pytest.mark.slow
def test_f07_duplicate_ids(tmp_path: Path):
    """Identical copies in two rank files are merged and counted. Contradictions are refused and both lines named."""
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
    for rows, message in (
        ([problem(0), problem(1), problem(0)], ":3: id 'gsm8k-test-00000' is already in line 1"),
        ([problem(0), problem(0, question="Else?")], ":2: id 'gsm8k-test-00000' is already in line 1"),
        ([problem(0, id="1"), problem(1, id=1)], ":2: field 'id' must be str, found int"),
    ):
        write_rows(source, rows)
        refused(run_script(*teach(tmp_path, "new.jsonl"), check=False), f"{source}{message}")


@pytest.mark.slow
def test_f08_problems_without_ids(tmp_path: Path):
    """The id is computed from the content. It is the same in every run, file and order, and all stages accept it."""
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
    words = ["--problems_path", folder / "problems.jsonl", "--test_paths", folder / "tests.jsonl"]
    run_script(*filtering(folder), *words, "--max_overlap", "0.99")
    rejected = read_rows(folder / "kept.rejected.jsonl")
    assert ids["a"][0] in {row["id"] for row in rejected if row["reason"] == "contaminated"}
    run_script(*infer(folder, "p.jsonl", "fake"))
    run_script(*scoring(folder))
    assert [row["id"] for row in read_rows(folder / "p.scores.jsonl")] == ids["a"]
    assert rows[2]["question"] in run_script(*scoring(folder), "--explain", ids["a"][2]).stdout
    traced = run_script("scripts/trace.py", ids["a"][2], "--run", folder, "--data_root", folder / "data")
    assert rows[2]["question"] in traced.stdout
    for path in [folder / "datasets", *folder.glob("out*"), *folder.glob("kept*"), *folder.glob("p.*")]:
        path.rename((tmp_path / "run") / path.name)
    assert "is right" in run_script("scripts/verify.py", tmp_path / "run").stdout
    write_rows(folder / "problems.jsonl", [*rows, rows[0]])
    refused(run_script(*teach(folder, "new.jsonl"), check=False), f"{ids['a'][0]!r} is already in line 1")


@pytest.mark.slow
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
    """Shards of an unknown run or of other settings are refused. --overwrite removes the latter and says so."""
    stale = shards.rank_file(tmp_path / "out.jsonl", 3)
    stale.write_bytes(b'{"id": "gsm8k-test-00000", "sample": 0}\n')
    refused(run_script(*teach(tmp_path), check=False), "out.jsonl.rank3", "unknown run")
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
    """One of two ranks is done; then the other rank's file lacks only its last record."""
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
from cotkit.core import cli
from cotkit.generation import prompts
prompts.SYSTEM = "Hm."
sys.exit(cli.run(teacher_cot.main))
"""


@pytest.mark.slow
def test_f14_changed_settings_and_inputs(tmp_path: Path):
    """A changed setting or problem is refused as key: old -> new. Of appended problems only the new ones are done."""
    words = interrupted(tmp_path)
    changes: dict[str, list[str]] = {
        "model: 'fake:seconds=0.05' -> 'fake'": teach(tmp_path),
        "mode: 'rewrite' -> 'solve'": [*words, "--mode", "solve"],
        "max_new_tokens: 512 -> 7": [*words, "--max_new_tokens", "7"],
        "temperature: 0.0 -> 0.7": [*words, "--temperature", "0.7"],
        "prompt: '": ["-c", REWORDED, *words[1:]],
    }
    before = shards.rank_file(tmp_path / "out.jsonl", 0).read_bytes()
    for message, changed in changes.items():
        done = run_script(*changed, check=False, PYTHONPATH=str(ROOT))
        refused(done, message, " -> ", "give another output path, or --overwrite")
    assert shards.rank_file(tmp_path / "out.jsonl", 0).read_bytes() == before
    run_script(*words)
    write_rows(tmp_path / "problems.jsonl", [problem(number) for number in range(33)])
    start_counted(words, tmp_path / "ledger").communicate()
    names = [problem(number)["id"] for number in range(33)]
    assert (tmp_path / "ledger").read_text(encoding="utf-8").split() == names[30:]
    assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == names
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


@pytest.mark.slow
def test_f15_a_finished_output(tmp_path: Path, tiny_model: Path):
    """Every stage says that it is done, imports no engine and changes no file."""
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
