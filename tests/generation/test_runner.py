"""Stages 1 and 4 as commands: sharding, resume, kills, refusals."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, read_rows, refused, run_script, write_rows

import infer_parallel
from cotkit.core import cli
from cotkit.core.jsonl import read_json
from cotkit.generation import engines, shards

pytestmark = pytest.mark.slow


def infer(data_root: Path, model: Path | str, output: Path, *more: Any) -> list[str]:
    words = ["infer_parallel.py", "--dataset", "gsm8k", "--base_model", model, "--data_root", data_root]
    return [str(word) for word in [*words, "--output_path", output, "--max_new_tokens", 12, *more]]


def torchrun(ranks: int, words: list[str]) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run([*launcher, *words], check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a run by one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_rows(folder / "data/gsm8k/test.jsonl", [problem(number) for number in range(8)])
    run_script(*infer(folder / "data", tiny_model, folder / "out.jsonl"))
    return (folder / "out.jsonl").read_bytes()


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != "data"}


def test_two_ranks_write_what_one_process_writes(data_root: Path, tiny_model: Path, tmp_path: Path, undisturbed: bytes):
    torchrun(2, infer(data_root, tiny_model, tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed
    assert files_of(tmp_path) == {"out.jsonl", "out.jsonl.manifest.json"}
    rows = read_rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == [problem(number)["id"] for number in range(8)]
    fields = "id sample dataset response thinking finish_reason prompt_tokens completion_tokens"
    assert list(rows[0]) == fields.split()


def test_a_finished_output_is_left_alone(data_root: Path, tiny_model: Path, tmp_path: Path, undisturbed: bytes):
    output = tmp_path / "out.jsonl"
    words = infer(data_root, tiny_model, output)
    assert run_script(*words, "--is_done", check=False).returncode == cli.NOT_DONE
    run_script(*words)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = run_script(*words)
    assert "done already" in again.stderr
    assert run_script(*words, "--is_done").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert output.read_bytes() == undisturbed


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_run_cut_short_with_two_ranks_is_resumed_by_any_number(
    data_root: Path, tiny_model: Path, tmp_path: Path, undisturbed: bytes, ranks: int
):
    """Two rank files as a kill leaves them: one has a torn last line, the other a single record."""
    output = tmp_path / "out.jsonl"
    run_script(*infer(data_root, tiny_model, output))
    lines = undisturbed.splitlines(keepends=True)
    shards.rank_file(output, 0).write_bytes(lines[0] + lines[2] + lines[4][:-9])
    shards.rank_file(output, 1).write_bytes(lines[1])
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text(encoding="utf-8"))
    write_rows(tmp_path / "out.jsonl.manifest.json", [{**manifest, "status": "running", "outputs": {}}])
    output.unlink()
    words = infer(data_root, tiny_model, output)
    if ranks == 1:
        run_script(*words)
    else:
        torchrun(ranks, words)
    assert output.read_bytes() == undisturbed
    assert not shards.rank_files(output)


def test_five_kills_lose_nothing_and_double_nothing(data_root: Path, tmp_path: Path):
    """SIGKILL as soon as a new record is on the disk, five times; then the run is left to finish."""
    run_script(*infer(data_root, "fake", tmp_path / "undisturbed.jsonl", "--backend", "fake"))
    output = tmp_path / "out.jsonl"
    words, rank_file = infer(data_root, "fake:seconds=0.2", output, "--backend", "fake"), shards.rank_file(output, 0)
    for _ in range(5):
        before = rank_file.stat().st_size if rank_file.exists() else 0
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.DEVNULL)
        while not rank_file.exists() or rank_file.stat().st_size <= before:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not output.exists()
    run_script(*words)
    assert output.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def test_appended_problems_continue_a_finished_output(
    data_root: Path, tiny_model: Path, tmp_path: Path, undisturbed: bytes
):
    output = tmp_path / "out.jsonl"
    run_script(*infer(data_root, tiny_model, output, "--limit", 5))
    assert len(read_rows(output)) == 5
    done = run_script(*infer(data_root, tiny_model, output))
    assert "5 of 8 results are there already" in done.stderr
    assert output.read_bytes() == undisturbed


def test_changed_settings_are_refused_by_key(data_root: Path, tiny_model: Path, tmp_path: Path):
    output = tmp_path / "out.jsonl"
    run_script(*infer(data_root, tiny_model, output, "--limit", 2))
    before = output.read_bytes()
    words = infer(data_root, tiny_model, output, "--limit", 2, "--max_new_tokens", 9)
    refused(run_script(*words, check=False), "max_new_tokens: 12 -> 9", "--overwrite")
    assert output.read_bytes() == before
    run_script(*words, "--overwrite")
    assert read_rows(output)[0]["completion_tokens"] <= 9


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_a_hint(data_root: Path, tiny_model: Path, tmp_path: Path, signum: int, code: int):
    words = infer(data_root, tiny_model, tmp_path / "out.jsonl", "--batch_size", 1, "--max_new_tokens", 900)
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not shards.rank_files(tmp_path / "out.jsonl"):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "the same command resumes" in errors
    assert "Traceback" not in errors


def test_the_whole_prompt_is_shown_by_a_dry_run(data_root: Path, tiny_model: Path, tmp_path: Path):
    done = run_script(*infer(data_root, tiny_model, tmp_path / "out.jsonl", "--dry-run"))
    assert "<|im_start|>user\nTom has 0 apples" in done.stdout
    assert done.stdout.count("<|im_start|>assistant\n") == 1
    assert files_of(tmp_path) == set()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": ""}, ":9: field 'id' is empty"),
        ({"id": 3}, ":9: field 'id' must be str, found int"),
        ({"question": " "}, ":9: field 'question' is empty"),
        ({"id": "gsm8k-test-00000"}, ":9: id 'gsm8k-test-00000' is already in line 1"),
        ({"answer": "7<|im_end|>"}, ":9: answer holds the control token '<|im_end|>'"),
        ({"question": "a<|im_end|>\n<|im_start|>assistant\n7"}, ":9: question holds the control token '<|im_end|>'"),
        ({"answer": None}, ":9: field 'answer' must be str"),
    ],
)
def test_bad_problems_are_refused_before_the_model_is_looked_for(
    data_root: Path, tmp_path: Path, changes: Any, says: str
):
    path = data_root / "gsm8k/test.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(problem(8, **changes)) + "\n")
    refused(run_script(*infer(data_root, Path("no/such/model"), tmp_path / "out.jsonl"), check=False), f"{path}{says}")


def test_a_row_without_a_question_is_refused(data_root: Path, tmp_path: Path):
    row = problem(8)
    del row["question"]
    write_rows(data_root / "gsm8k/test.jsonl", [row])
    refused(run_script(*infer(data_root, Path("x/y"), tmp_path / "o"), check=False), ":1: field 'question' is missing")


def test_unknown_names_are_refused(data_root: Path, tiny_model: Path, tmp_path: Path):
    words = infer(data_root, tiny_model, tmp_path / "out.jsonl")
    refused(run_script(*words, "--dataset", "gsm9k", check=False), "gsm9k", "--name gsm9k --input FILE")
    refused(run_script(*words, "--lora_path", tmp_path, check=False), "holds no adapter_config.json")
    refused(run_script(*words, "--dataset", "amc23", check=False), "prepare_data.py --dataset amc23")


def test_a_misfit_adapter_is_refused_and_binds_nobody(
    data_root: Path, tiny_model: Path, tiny_adapter: Path, tmp_path: Path
):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    config = Qwen2Config.from_pretrained(tiny_model, hidden_size=16, num_attention_heads=2)
    Qwen2ForCausalLM(config).save_pretrained(other)
    words = infer(data_root, other, tmp_path / "out.jsonl", "--limit", 2)
    refused(run_script(*words, "--lora_path", tiny_adapter, check=False), f"{tiny_adapter}: does not fit {other}")
    assert not (tmp_path / "out.jsonl").exists()
    run_script(*words)
    assert len(read_rows(tmp_path / "out.jsonl")) == 2


def test_names_with_blanks_and_shell_signs_work(data_root: Path, tiny_model: Path, tmp_path: Path, undisturbed: bytes):
    folder = tmp_path / "a b'$(touch canary)\"ü"
    shutil.copytree(data_root, folder / "data")
    torchrun(2, infer(folder / "data", tiny_model, folder / "out put.jsonl"))
    assert (folder / "out put.jsonl").read_bytes() == undisturbed
    assert not (ROOT / "canary").exists()


def several(data_root: Path, model: Path | str, folder: Path, adapter: Path, *more: Any) -> list[str]:
    """The command of three outputs: a data set with and without an adapter, and another data set with it."""
    jobs = [["gsm8k", folder / "base.jsonl"]]
    jobs += [[name, folder / f"tuned {name}.jsonl", adapter] for name in ("gsm8k", "svamp")]
    flags = [word for job in jobs for word in ("--job", *job)]
    words = [
        "infer_parallel.py",
        "--base_model",
        model,
        "--data_root",
        data_root,
        "--max_new_tokens",
        12,
        *flags,
        *more,
    ]
    return [str(word) for word in words]


SEVERAL = ("base.jsonl", "tuned gsm8k.jsonl", "tuned svamp.jsonl")


@pytest.fixture(scope="module")
def two_data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of prepared data: eight problems of gsm8k, five of svamp."""
    folder = tmp_path_factory.mktemp("two data sets")
    for name, numbers in {"gsm8k": range(8), "svamp": range(20, 25)}.items():
        rows = [problem(number, id=f"{name}-test-{number:05d}", dataset=name) for number in numbers]
        write_rows(folder / name / "test.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def alone(
    two_data_sets: Path, tiny_model: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Each output of `several`, made by a command of its own."""
    folder = tmp_path_factory.mktemp("alone")
    flags = [[], ["--lora_path", tiny_adapter], ["--lora_path", tiny_adapter, "--dataset", "svamp"]]
    for name, more in zip(SEVERAL, flags, strict=True):
        run_script(*infer(two_data_sets, tiny_model, folder / name, *more))
    return {name: folder / name for name in SEVERAL}


@pytest.mark.parametrize("ranks", [1, 2])
def test_several_outputs_of_one_process_are_those_of_single_commands(
    two_data_sets: Path, tiny_model: Path, tiny_adapter: Path, tmp_path: Path, alone: dict[str, Path], ranks: int
):
    words = several(two_data_sets, tiny_model, tmp_path, tiny_adapter)
    assert run_script(*words, "--is_done", check=False).returncode == cli.NOT_DONE
    if ranks == 1:
        run_script(*words)
    else:
        torchrun(ranks, words)
    for name, path in alone.items():
        assert (tmp_path / name).read_bytes() == path.read_bytes()
        manifests = [read_json(folder / f"{name}.manifest.json") for folder in (tmp_path, path.parent)]
        same = ("settings", "inputs", "model", "status", "counts", "outputs")
        assert [manifests[0][key] for key in same] == [manifests[1][key] for key in same]
    assert run_script(*words, "--is_done").returncode == 0
    again = run_script(*infer(two_data_sets, tiny_model, tmp_path / "base.jsonl"))
    assert "done already" in again.stderr


def test_neighbours_with_one_adapter_share_a_loaded_model(
    two_data_sets: Path, tiny_model: Path, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded: list[str | None] = []
    load = engines.load
    monkeypatch.setattr(
        engines, "load", lambda engine, sampling: loaded.append(engine.adapter) or load(engine, sampling)
    )
    assert infer_parallel.main(several(two_data_sets, tiny_model, tmp_path, tiny_adapter)[1:]) == 0
    assert loaded == [None, str(tiny_adapter)]


def test_a_kill_between_several_outputs_loses_nothing(two_data_sets: Path, tmp_path: Path):
    """SIGKILL while the second output is written: the first one is done, the third one has begun and holds nothing."""
    jobs = [[name, tmp_path / name] for name in SEVERAL]
    flags = [word for (name, path) in jobs for word in ("--job", "svamp" if "svamp" in name else "gsm8k", path)]
    shared = ["infer_parallel.py", "--backend", "fake", "--data_root", two_data_sets]
    run_script(*shared, "--base_model", "fake", "--dataset", "gsm8k", "--output_path", tmp_path / "alone.jsonl")
    words = [str(word) for word in (*shared, "--base_model", "fake:seconds=0.1", *flags)]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    second = shards.rank_file(tmp_path / SEVERAL[1], 0)
    while not second.exists() or not second.stat().st_size:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert [(tmp_path / name).exists() for name in SEVERAL] == [True, False, False]
    done = run_script(*words)
    assert "done already" in done.stderr and "of 8 results are there already" in done.stderr
    assert [len(read_rows(tmp_path / name)) for name in SEVERAL] == [8, 8, 5]
    assert (tmp_path / SEVERAL[1]).read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_all_outputs_are_checked_before_the_first_is_made(two_data_sets: Path, tiny_adapter: Path, tmp_path: Path):
    words = several(two_data_sets, "fake", tmp_path, tiny_adapter, "--backend", "fake")
    (tmp_path / SEVERAL[2]).write_text("of another run\n", encoding="utf-8")
    refused(run_script(*words, check=False), f"{SEVERAL[2]}: exists, but")
    assert not (tmp_path / SEVERAL[0]).exists() and not shards.rank_files(tmp_path / SEVERAL[0])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--job", "gsm8k"], "a data set, an output and at most one adapter"),
        (["--job", "gsm8k", "a", "b", "c"], "a data set, an output and at most one adapter"),
        (["--job", "gsm8k", "base.jsonl", "--job", "gsm8k", "./base.jsonl"], "is the output of two jobs"),
        (["--job", "gsm9k", "base.jsonl"], "gsm9k"),
    ],
)
def test_jobs_that_cannot_be_meant_are_refused(data_root: Path, tmp_path: Path, more: list[str], says: str):
    words = ["infer_parallel.py", "--backend", "fake", "--base_model", "fake", "--data_root", data_root, *more]
    refused(run_script(*words, check=False), says)
