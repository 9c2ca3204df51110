"""The vllm backend. What needs an engine runs with the real vLLM, in the environment of `scripts/setup.sh --vllm`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SMOLLM2, problem, read_rows, write_rows

from cotkit.core import machine
from cotkit.core.errors import OtherPython, UserError
from cotkit.generation import engines
from cotkit.generation.backends import vllm_backend as backend
from cotkit.generation.options import EngineOptions
from cotkit.generation.types import Sampling

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "OMP_NUM_THREADS": "1",
}


def test_the_engine_sees_nothing_of_torchrun(monkeypatch: pytest.MonkeyPatch):
    for name in ("CUDA_VISIBLE_DEVICES", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_LOGGING_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with backend.engine_environment(tensor_parallel_size=2):
        assert not (TORCHRUN.keys() - {"OMP_NUM_THREADS"}) & os.environ.keys()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
        assert os.environ["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 4))
        assert (os.environ["VLLM_CPU_OMP_THREADS_BIND"], os.environ["VLLM_LOGGING_LEVEL"]) == ("nobind", "ERROR")
    assert dict(os.environ) == before


def test_the_engine_does_not_outlive_a_killed_command():
    """A child that would sleep for a minute, of a process that guards it and is killed by SIGKILL."""
    code = (
        "import multiprocessing, sys, time; from cotkit.generation.backends.vllm_backend import guard_children\n"
        "child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,), daemon=True); child.start()\n"
        "guard_children(); print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    child = Path("/proc", process.stdout.readline().strip())
    assert child.exists()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone
        while "(zombie)" not in (child / "status").read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_each_rank_has_its_own_gpus():
    assert [backend.gpus_of_rank(None, rank, 2, 1) for rank in (0, 1)] == ["0", "1"]
    assert [backend.gpus_of_rank("4,5,6,7", rank, 2, 2) for rank in (0, 1)] == ["4,5", "6,7"]
    with pytest.raises(
        UserError, match="2 ranks with --tensor_parallel_size 2 need 4 GPUs, CUDA_VISIBLE_DEVICES has 3"
    ):
        backend.gpus_of_rank("0,1,2", 0, 2, 2)


def options(model: Path, **changes: Any) -> EngineOptions:
    return EngineOptions("vllm", str(model), seed=1, **changes)


def test_an_adapter_with_complete_layers_is_merged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = tmp_path / "adapter_config.json"
    config.write_text('{"r": 8, "modules_to_save": null}', encoding="utf-8")
    choices = [(None, True), (None, False), (True, False), (False, True)]
    assert [backend.merges(tmp_path, wanted, on_cpu) for wanted, on_cpu in choices] == [True, False, True, False]
    config.write_text('{"r": 8, "modules_to_save": ["embed_tokens", "lm_head"]}', encoding="utf-8")
    with caplog.at_level("INFO"):
        assert backend.merges(tmp_path, None, on_cpu=False)
    assert "complete copies of embed_tokens and lm_head" in caplog.text and "is merged" in caplog.text
    with pytest.raises(UserError, match="remove --no-merge_adapter"):
        backend.merges(tmp_path, False, on_cpu=False)


def test_without_vllm_the_command_that_makes_its_environment_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    monkeypatch.setattr(backend, "VLLM_PYTHON", tmp_path / "bin/python")
    with pytest.raises(UserError, match=r"vLLM is not installed here; .*`bash scripts/setup\.sh --vllm` makes"):
        engines.check(options(ROOT), Sampling(8))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    with pytest.raises(OtherPython) as other:
        engines.check(options(ROOT), Sampling(8))
    assert other.value.python == tmp_path / "bin/python"
    monkeypatch.setattr(sys, "prefix", str(tmp_path))  # in that environment, where an installation was interrupted
    with pytest.raises(UserError, match="makes") as error:
        engines.check(options(ROOT), Sampling(8))
    assert not isinstance(error.value, OtherPython)


OTHER = """#!/bin/sh
echo "$PYTHONPATH" "$@"
exit 5
"""


def test_a_command_goes_on_in_the_other_environment_with_its_arguments(tmp_path: Path):
    """In the same process, with the exit code of the other Python, which finds the package cotkit."""
    python = tmp_path / "python"
    python.write_text(OTHER, encoding="utf-8")
    python.chmod(0o755)
    script = tmp_path / "script.py"
    code = f"""import pathlib, sys
from cotkit.core import cli, errors
def main():
    print("first")
    raise errors.OtherPython("elsewhere", pathlib.Path({str(python)!r}))
sys.exit(cli.run(main))
"""
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-u", script, "--name", "a b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (5, "")
    assert done.stdout == f"first\n{ROOT}:{ROOT} -u {script} --name a b\n"


# ---------------------------------------------------------------------------------------------------- with the real vLLM
needs_vllm = pytest.mark.skipif(
    not backend.VLLM_PYTHON.is_file() or not SMOLLM2.is_dir(),
    reason="needs vLLM's environment and SmolLM2; `bash scripts/setup.sh --vllm` makes both",
)
SECONDS = 1500  # an engine starts in 20 seconds on two idle cores, in minutes on a busy machine

PROBE = """
import json, logging, sys
from cotkit.core.errors import UserError
from cotkit.generation import engines
from cotkit.generation.options import EngineOptions
from cotkit.generation.prompts import student_messages, teacher_messages
from cotkit.generation.types import Request, Sampling

model, problems = sys.argv[1], json.loads(sys.argv[2])
options = EngineOptions("vllm", model, seed=1)
rewrites = [Request(row["id"], 0, teacher_messages(row, "rewrite")) for row in problems]
found = {}
try:
    engines.load(EngineOptions("vllm", model, device="cuda"), Sampling(8))
except UserError as error:
    found["cuda"] = str(error)
greedy = Sampling(64)
engine = engines.load(options, greedy)
reference = engines.load(EngineOptions("transformers", model, seed=1, dtype="float32"), greedy)

def ask(backend, requests, sampling):
    backend.sampling = sampling
    done = [(request.id, [text.text, text.finish_reason, text.prompt_tokens, text.completion_tokens, text.error])
            for request, text in backend.generate(requests)]
    assert len(done) == len(requests)
    assert backend is reference or not backend.engine.has_unfinished_requests()
    return dict(done)

found["vllm"], found["transformers"] = ask(engine, rewrites, greedy), ask(reference, rewrites, greedy)
found["complete"] = ask(engine, rewrites, Sampling(64, stop_at_answer=False))
short = [Request("short", 0, rewrites[0].messages, max_new_tokens=5), rewrites[1]]
found["limits"] = ask(engine, short, greedy)
long = Request("long", 0, student_messages("7 " * 9000))
found["long"] = ask(engine, [long, rewrites[0]], greedy)
sampled = Sampling(24, 0.8, 0.95, 40)
found["sampled"], found["again"] = ask(engine, rewrites, sampled), ask(engine, rewrites[:1:-1], sampled)
# More tokens than one pass of the engine reads: some prompts wait, and none is read in part.
crowd = [Request(f"crowd {number}", 0, student_messages("7 " * 500), max_new_tokens=2) for number in range(6)]
found["crowd"] = ask(engine, crowd, sampled)
engine.seed = 2
found["other seed"] = ask(engine, rewrites, sampled)
window, engine.window = engine.window, 2  # few at a time: all are answered
found["narrow"] = ask(engine, rewrites, greedy)
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What one engine gave for several lists of requests, and the transformers backend beside it."""
    command = [backend.VLLM_PYTHON, "-c", PROBE, SMOLLM2, json.dumps([problem(number) for number in range(6)])]
    # One thread: waiting threads would slow a busy machine.
    environment = {**os.environ, **machine.DEFAULTS, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("FOUND")[1])


@needs_vllm
@pytest.mark.slow
def test_greedy_texts_are_those_of_the_transformers_backend(found: dict[str, Any]):
    assert found["vllm"] == found["transformers"]
    reasons = {reason for _, reason, *_ in found["vllm"].values()}
    assert reasons <= {"stop", "answer", "length"}


@needs_vllm
@pytest.mark.slow
def test_a_text_that_ends_at_its_answer_is_the_beginning_of_the_complete_text(found: dict[str, Any]):
    for name, (text, reason, _, tokens, _) in found["vllm"].items():
        complete, how, _, all_tokens, _ = found["complete"][name]
        assert complete.startswith(text) and tokens <= all_tokens
        assert how != "answer" and (reason == "answer" or (text, reason) == (complete, how))


@needs_vllm
@pytest.mark.slow
def test_limits_and_failures_concern_one_request_alone(found: dict[str, Any]):
    first = problem(0)["id"]
    assert found["limits"]["short"][1::2] == ["length", 5]
    assert found["long"]["long"][1] == "error" and "context of 8192" in found["long"]["long"][4]
    assert found["long"][first] == found["vllm"][first]
    assert found["narrow"] == found["vllm"]


@needs_vllm
@pytest.mark.slow
def test_samples_follow_their_seed_and_not_their_neighbours(found: dict[str, Any]):
    assert len(found["again"]) == 4
    assert all(found["sampled"][name] == text for name, text in found["again"].items())
    changed = [name for name, text in found["other seed"].items() if found["sampled"][name] != text]
    assert len(changed) >= len(found["sampled"]) // 2
    assert len(found["crowd"]) == 6 and all(error is None for *_, error in found["crowd"].values())


@needs_vllm
@pytest.mark.slow
def test_a_device_that_this_vllm_was_not_built_for_is_refused(found: dict[str, Any]):
    if not list(backend.VLLM_PYTHON.parents[1].glob("lib/python3*/site-packages/vllm_cpu-*")):
        pytest.skip("this vLLM was built for a GPU")
    assert found["cuda"] == "--device cuda: this vLLM was built for cpu"


@needs_vllm
@pytest.mark.slow
def test_a_stage_that_is_started_elsewhere_runs_there_with_a_merged_adapter(tmp_path: Path):
    """infer_parallel.py, started in this environment, against the transformers backend here: same rows, same exit code."""
    adapter = random_adapter(tmp_path / "adapter")
    rows = [*map(problem, range(3)), problem(3, question="7 " * 9000)]
    write_rows(tmp_path / "data/gsm8k/test.jsonl", rows)
    written = {}
    for engine in ("vllm", "transformers"):
        words = ["infer_parallel.py", "--dataset", "gsm8k", "--base_model", SMOLLM2, "--data_root", tmp_path / "data"]
        words += ["--output_path", tmp_path / f"{engine}.jsonl", "--max_new_tokens", 16, "--backend", engine]
        command = [sys.executable, *map(str, [*words, "--lora_path", adapter])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 3, done.stderr
        assert "context of 8192" in done.stderr
        written[engine] = read_rows(tmp_path / f"{engine}.jsonl")
        manifest = json.loads((tmp_path / f"{engine}.jsonl.manifest.json").read_text(encoding="utf-8"))
        assert any(name.startswith("vllm") for name in manifest["versions"]) == (engine == "vllm")
    assert written["vllm"] == written["transformers"]


def random_adapter(folder: Path) -> Path:
    """An adapter for SmolLM2 that changes its texts, with a head of its own beside the embedding that was its head."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        modules_to_save=["lm_head"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(SMOLLM2), config)
    head = model.get_output_embeddings().weight
    head.data += 0.3 * head.std().item() * torch.randn(head.shape)
    model.save_pretrained(folder)
    return folder
