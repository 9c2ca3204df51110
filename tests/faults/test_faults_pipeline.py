"""Faults 23 to 27 and 30: signals, a pipeline that fails and is killed in every stage, odd names, secrets, servers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, read_rows, refused, run_script, write_rows
from faults.faults_tools import (
    CANARIES,
    STAGES,
    TORCHRUN,
    Pipeline,
    acknowledged,
    alive,
    edit_yaml,
    infer,
    make_preset,
    pid_of_rank,
    records_in,
    start,
    teach,
    wait_for,
    write_yaml,
)
from generation.chat_server import ChatServer

from cotkit.core import jsonl
from cotkit.generation import shards


@pytest.mark.slow
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


@pytest.mark.slow
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
    """One preset run twice: undisturbed, and made to fail and killed in every stage."""

    undisturbed: Pipeline
    pipeline: Pipeline
    failures: dict[str, tuple[int, str]]  # stage -> exit code and printed text
    kills: dict[str, str]  # stage -> text printed until the kill
    end: tuple[int, str]


def break_stage(stage: str, preset: Path, run: Path) -> Callable[[], object]:
    """Makes a stage fail, by what no check of the preset can see; returns a function that undoes this."""
    if stage == "critic":
        write_yaml(preset / "critic.yaml", {"model_name": str(run / "no model")})
        return (preset / "critic.yaml").unlink
    obstacle = {  # a folder where the stage writes a file
        "data": preset.parent / "data/amc23/test.jsonl",
        "teacher": run / "teacher.jsonl",
        "filter": run / "kept.jsonl",
        "train": run / "train/distilled.yaml",
        "infer": run / "predictions/amc23/baseline.jsonl",
        "score": run / "predictions/amc23/baseline.summary.json",
        "compare": run / "comparison.json",
        "report": run / "report.html",
    }[stage]
    obstacle.mkdir(parents=True)
    return obstacle.rmdir


def under_way(stage: str, run: Path) -> Callable[[str], Any]:
    """A condition on the printed text or the files: the stage is in the middle of its work."""
    if stage == "teacher":
        return lambda printed: records_in(run, "teacher.jsonl") >= 3
    if stage == "train":
        return lambda printed: len(list((run / "train/distilled").glob("checkpoint-*/trainer_state.json"))) >= 2
    if stage == "infer":
        return lambda printed: records_in(run / "predictions/amc23", "baseline.jsonl") >= 1
    return lambda printed: f"== {stage}" in printed


@pytest.fixture(scope="module")
def disturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """With secrets in the environment, wandb on, and paths that a careless shell script would run as code."""
    root = tmp_path_factory.mktemp("pipeline")
    preset = make_preset(root / "it's $(touch HACKED) ä", tiny_model)
    undisturbed = Pipeline(preset, root / "undisturbed")
    code, text = undisturbed.finish()
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
        if stage == "critic":  # optional; this preset has no critic.yaml
            continue
        kills[stage] = pipeline.killed_when(under_way(stage, pipeline.run))
        if stage == "train":
            checkpoints = pipeline.run.glob("train/distilled/checkpoint-*")
            newest = max(checkpoints, key=lambda path: int(path.name.split("-")[1]))
            (newest / "trainer_state.json").write_text("", encoding="utf-8")
    return Disturbed(undisturbed, pipeline, failures, kills, pipeline.finish())


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_f24_a_stage_that_fails_or_is_killed(disturbed: Disturbed, stage: str):
    """The pipeline stops there with the stage's exit code. Finished stages are not repeated."""
    number = STAGES.index(stage)
    code, text = disturbed.failures[stage]
    assert code == 1
    assert (
        text.rstrip().split("\n")[-1].startswith(f"pipeline stopped in stage {stage} (exit code 1). The same command")
    )
    finished = [1, 1, 1, 1, 1, 0, 2, 0, 0]  # how often each stage says that it is done: score of each method
    resumed = max(number - 1, 0)  # the stage before was killed, so this run resumed it
    for printed, before in ((text, resumed), (disturbed.kills.get(stage), number)):
        if printed is not None:
            assert re.findall(r"^== (\w+)", printed, re.MULTILINE) == list(STAGES[: number + 1])
            assert len(re.findall("done already|trained already", printed)) >= sum(finished[:before])


@pytest.mark.slow
def test_f24_outputs_equal_those_of_an_undisturbed_run(disturbed: Disturbed):
    code, text = disturbed.end
    assert code == 0, text
    ends = []
    for run in (disturbed.undisturbed.run, disturbed.pipeline.run):
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
    """Each name is the output of one stage and the input of the next; the command runs in another folder."""
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(4)])
    fake, data = ["--backend", "fake"], ["--dataset", "gsm8k", "--data_root", "data"]
    source = ["--input_path", "data/gsm8k/test.jsonl"]
    for words in (
        [ROOT / "teacher_cot.py", *fake, "--model_name", "fake", *source, f"--output_path={name}"],
        [ROOT / "filter_teacher_cot.py", f"--input_path={name}", f"--output_path=kept {name}"],
        [ROOT / "infer_parallel.py", *fake, *data, "--base_model", "fake", f"--output_path=answers {name}"],
        [ROOT / "score.py", *data, f"--pred_path=answers {name}"],
    ):
        run_script(*words, cwd=tmp_path)
    assert len(read_rows(tmp_path / name)) == len(read_rows(tmp_path / f"answers {name}")) == 4
    assert jsonl.read_json((tmp_path / f"answers {name}").with_suffix(".summary.json"))["n"] == 4
    assert not list(tmp_path.rglob("HACKED*"))


def test_f25_names_that_are_not_utf8_or_look_like_flags_are_refused(tmp_path: Path):
    words = teach(tmp_path)[:-2]
    refused(run_script(*words, "--output_path", "-x.jsonl", check=False), "--output_path: expected one argument")
    command = [sys.executable, *words, b"--output_path=\xff.jsonl"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    refused(done, "not UTF-8")
    assert [path.name for path in tmp_path.iterdir()] == ["problems.jsonl"]


@pytest.mark.slow
def test_f25_no_part_of_a_preset_s_name_is_executed(disturbed: Disturbed):
    assert not [path for path in (ROOT / "HACKED", Path("/HACKED")) if path.exists()]
    assert not list(disturbed.undisturbed.run.parents[1].rglob("HACKED"))
    shellcheck = Path(sys.executable).with_name("shellcheck")
    subprocess.run([shellcheck, "--external-sources", *ROOT.glob("scripts/**/*.sh")], check=True, cwd=ROOT)


def leaks(text: bytes) -> list[str]:
    return [name for name, canary in CANARIES.items() if canary.encode() in text]


@pytest.mark.slow
def test_f26_secrets_of_a_pipeline(disturbed: Disturbed):
    """Training with wandb, failures and kills: no secret in the printed text, the run folder or wandb's folder."""
    root = disturbed.pipeline.log.parent
    files = [path for path in root.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".wandb"]
    assert disturbed.pipeline.log in files
    assert {str(path): found for path in files if (found := leaks(path.read_bytes()))} == {}


def test_f26_secrets_with_debug(tmp_path: Path):
    """The traceback that --debug shows contains no secret."""
    done = run_script(*teach(tmp_path, model="fake:no=1"), "--overwrite", "--debug", check=False, **CANARIES)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert not leaks((done.stdout + done.stderr).encode())


@pytest.mark.slow
def test_f27_a_server_that_fails_in_every_way(tmp_path: Path):
    """Passing faults are retried. Lasting ones are listed, give exit code 3, and are tried again by the next run.

    tests/generation/test_openai_faults.py tests the faults one by one.
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
    assert re.search("1 results failed: gsm8k-test-0001[23] ", done.stderr)
    assert run_script(*words, server.url, "--is_done", check=False).returncode == 4
    with ChatServer() as server:
        run_script(*words, server.url)
    assert len(server.bodies) == 1
    assert Counter(row["finish_reason"] for row in read_rows(tmp_path / "out.jsonl")) == {"answer": 13, "length": 1}


@pytest.mark.slow
def test_f30_training_killed_and_its_newest_checkpoint_damaged(disturbed: Disturbed):
    """LLaMA-Factory resumes from the last complete checkpoint and reaches the last step."""
    printed = disturbed.failures["infer"][1]  # the run after the kill: it resumed training, then failed in infer
    damaged = re.search(r"checkpoint-(\d+): is damaged .* set aside as damaged-checkpoint-\1", printed)
    resumed = re.search(r"resuming from checkpoint-(\d+)", printed)
    assert damaged and resumed
    assert 0 < int(resumed[1]) < int(damaged[1])
    records = [
        jsonl.read_json(pipeline.run / "train/distilled.manifest.json")
        for pipeline in (disturbed.undisturbed, disturbed.pipeline)
    ]
    for key in ("steps", "rows", "trained_tokens"):
        assert records[0]["counts"][key] == records[1]["counts"][key]
    assert records[1]["counts"]["steps"] > int(damaged[1])
    curves = [[point["step"] for point in record["losses"] if "loss" in point] for record in records]
    assert curves[0] == curves[1]
