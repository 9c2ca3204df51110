"""scripts/pipeline.sh with the real SmolLM2 on four problems."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, read_rows

STAGES = ("data", "teacher", "filter", "train", "infer", "critic", "score", "compare", "report")
METHODS = ("baseline", "distilled", "strong_baseline")


def pipeline(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / "scripts/pipeline.sh", *map(str, words)],
        check=False,
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1500,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the default preset with --limit 4, started in another working directory."""
    root = tmp_path_factory.mktemp("out puts")
    done = pipeline("--limit", 4, "--output_root", root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| baseline |" in done.stdout
    for number, stage in enumerate(STAGES, 1):
        assert f"\n== {stage}: stage {number} of 9" in done.stdout
    assert re.search(r"^== train: stage 4 of 9; log: \S.*/logs/train\.log$", done.stdout, re.MULTILINE)
    finding = json.loads((root / "smollm2_cpu-limit4/comparison.json").read_text(encoding="utf-8"))["finding"]
    last = [finding, f"The report, with every output: {root}/smollm2_cpu-limit4/report.html"]
    assert done.stdout.rstrip().split("\n")[-2:] == last
    assert re.search(r"/train/distilled: trained in .*: \d+ steps, .*, held-out loss ", done.stdout)
    assert not re.search("deprecat|total_flos|UserWarning|font", done.stdout + done.stderr)
    return root / "smollm2_cpu-limit4"


@pytest.mark.slow
def test_every_stage_leaves_its_files(finished: Path):
    teacher = read_rows(finished / "teacher.jsonl")
    later = [row for path in finished.glob("teacher.round*.jsonl") for row in read_rows(path)]
    kept, rejected = read_rows(finished / "kept.jsonl"), read_rows(finished / "kept.rejected.jsonl")
    assert [row["id"] for row in teacher] == [f"gsm_symbolic-train-{number:05d}" for number in range(4)]
    assert len(kept) + len(rejected) == 4 + len(later)
    kept_first = {row["id"] for row in kept if row["sample"] == 0}
    assert {row["id"] for row in later if row["sample"] == 1} == {row["id"] for row in teacher} - kept_first
    (dataset,) = json.loads((finished / "comparison.json").read_text(encoding="utf-8"))["datasets"]
    assert sorted(method["method"] for method in dataset["methods"]) == sorted(METHODS)
    for method in METHODS:
        folder = finished / "predictions/gsm_symbolic"
        predictions = read_rows(folder / f"{method}.jsonl")
        scores = read_rows(folder / f"{method}.scores.jsonl")
        assert [row["id"] for row in predictions] == [row["id"] for row in scores]
        assert [row["id"] for row in scores] == [f"gsm_symbolic-test-{number:05d}" for number in range(4)]
        assert all(row["response"].strip() for row in predictions)
    for method in METHODS[1:]:
        assert (finished / f"train/{method}/adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_each_stage_keeps_what_it_printed(finished: Path):
    logs = {path.stem: path.read_text(encoding="utf-8") for path in (finished / "logs").iterdir()}
    assert {"teacher", "filter", "train", "infer", "score", "report", "train-distilled"} <= logs.keys()
    assert "teacher.jsonl: 4 texts: " in logs["teacher"]
    assert "training sets in" in logs["filter"] and "trained in" in logs["train"]
    assert "Total optimization steps" in logs["train-distilled"]
    assert not list((finished / "logs").glob("*.part"))


def rounds_of(run: Path) -> int:
    """Number of outputs of later rounds: lists of problems that are asked again, and the teacher's rows for them."""
    return len(list(run.glob("retry.round*.jsonl"))) + len(list(run.glob("teacher.round*.jsonl")))


@pytest.mark.slow
def test_every_manifest_is_marked_done(finished: Path):
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in finished.rglob("*.manifest.json")]
    # teacher, later rounds, filter, two trainings, three predictions, three scores, comparison, report
    assert len(manifests) == 1 + rounds_of(finished) + 1 + 2 + 3 + 3 + 1 + 1
    assert {manifest["status"] for manifest in manifests} == {"done"}
    assert not list(finished.rglob("*.rank*[0-9]"))
    assert not list(finished.rglob("*.tmp"))


@pytest.mark.slow
def test_a_second_run_reports_that_all_is_done_and_changes_no_file(finished: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    done = pipeline("--limit", 4, "--output_root", finished.parent)
    assert done.returncode == 0, done.stderr
    # data, teacher, later rounds, filter, predictions, three scores, report
    assert done.stdout.count("done already") == 1 + 1 + rounds_of(finished) + 1 + 1 + 3 + 1
    assert done.stdout.count("trained already") == 2
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.slow
def test_it_stops_at_the_first_failure_and_names_the_stage(finished: Path, tmp_path: Path):
    preset = tmp_path / "my preset"
    shutil.copytree(ROOT / "configs/smollm2_cpu", preset)
    run = finished.parent / "my preset-limit4"
    (run / "kept.jsonl").mkdir(parents=True)
    for name in ("teacher.jsonl", "teacher.jsonl.manifest.json"):
        shutil.copy(finished / name, run / name)
    done = pipeline(preset, "--limit", 4, "--output_root", finished.parent)
    assert done.returncode == 1
    assert f"{run / 'kept.jsonl'}: exists" in done.stderr
    assert "pipeline stopped in stage filter (exit code 1)" in done.stderr
    assert not (run / "datasets").exists()


@pytest.mark.slow
def test_a_mistake_in_a_later_stage_s_yaml_is_refused_before_the_first_stage(tmp_path: Path):
    preset = tmp_path / "mistaken"
    shutil.copytree(ROOT / "configs/smollm2_cpu", preset)
    with open(preset / "infer.yaml", "a", encoding="utf-8") as file:
        file.write("max_new_tokenz: 3\n")
    done = pipeline(preset, "--limit", 4, "--output_root", tmp_path / "outputs")
    assert done.returncode == 1
    assert "unknown key 'max_new_tokenz'; did you mean 'max_new_tokens'?" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["configs/none"], 1, "configs/none: not a preset folder"),
        (["--from", "filtre"], 2, "stages are data teacher filter train infer critic score compare report"),
        (["--limit", "many"], 2, "a whole number of at least 1 is expected"),
        (["--quick"], 2, "unknown option --quick"),
        (["--limit"], 2, "--limit needs a value"),
        (["configs/qwen2_1.5b", "configs/smollm2_cpu"], 2, "one preset is expected"),
    ],
)
def test_wrong_arguments_are_refused_at_once(words: list[str], code: int, message: str):
    done = pipeline(*words)
    assert done.returncode == code
    assert message in done.stderr


def test_fast_is_refused_on_a_machine_with_a_gpu(tmp_path: Path):
    done = pipeline("--fast", "--output_root", tmp_path, COTKIT_GPUS="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --fast is for CPUs") and done.stderr.count("\n") == 1


@pytest.mark.skipif((ROOT / ".venv-vllm").exists(), reason="the environment of vLLM is there")
def test_a_preset_for_vllm_is_refused_at_once_without_its_environment(tmp_path: Path):
    shutil.copytree(ROOT / "configs/smollm2_cpu", tmp_path / "served")
    with open(tmp_path / "served/infer.yaml", "a", encoding="utf-8") as file:
        file.write("backend: vllm\n")
    done = pipeline(tmp_path / "served", "--output_root", tmp_path)
    assert done.returncode == 1
    assert "bash scripts/setup.sh --vllm makes it" in done.stderr


@pytest.mark.parametrize(
    ("gpus", "given", "kept"), [(0, "", True), (0, "glibc.malloc.arena_max=1", False), (1, "", False)]
)
def test_glibc_keeps_freed_memory_unless_there_is_a_gpu_or_the_user_sets_tunables(gpus: int, given: str, kept: bool):
    environment = {**os.environ, "COTKIT_GPUS": str(gpus), "GLIBC_TUNABLES": given}
    command = 'source "$0"; with_tensors sh -c \'echo "$GLIBC_TUNABLES"; exit 7\''
    words = ["bash", "-c", command, str(ROOT / "scripts/internal/common.sh")]
    done = subprocess.run(words, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 7
    assert ("mmap_max=0" in done.stdout) == kept
    assert given in done.stdout


def test_lines_of_nvidia_smi_are_no_gpus(tmp_path: Path):
    """A broken driver's messages, hidden GPUs and parts of GPUs are lines too; the scripts that follow get the number."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\necho Failed to initialize NVML\necho Driver/library version mismatch\n", encoding="utf-8"
    )
    smi.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "COTKIT_GPUS"}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    command = 'source "$0"; count_gpus; find_gpus; sh -c \'echo "$COTKIT_GPUS"\''
    words = ["bash", "-c", command, str(ROOT / "scripts/internal/common.sh")]
    done = subprocess.run(words, check=False, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0\n0\n")
