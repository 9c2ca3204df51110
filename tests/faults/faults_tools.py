"""Shared by the fault tests: commands on the fake backend, child processes that count their work, a preset of seconds."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT, problem, write_rows

from cotkit.generation import shards

TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]
CANARIES = {"HF_TOKEN": "hf_canary11", "WANDB_API_KEY": "c0ffee22" * 5, "OPENAI_API_KEY": "sk-canary33"}

# Runs a script. Its fake backend appends the id of every request to the file LEDGER before it completes the request.
COUNTED = """
import os, runpy, sys
from cotkit.generation.backends.fake_backend import FakeBackend
complete = FakeBackend.complete
def logged(self, request):
    descriptor = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{request.id}\\n".encode())
    os.close(descriptor)
    return complete(self, request)
FakeBackend.complete = logged
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def teach(folder: Path, output: str = "out.jsonl", model: str = "fake", rows: int = 30) -> list[str]:
    """Command of teacher_cot.py on `rows` problems in the folder."""
    path = folder / "problems.jsonl"
    if not path.exists():
        write_rows(path, [problem(number) for number in range(rows)])
    words = ["--backend", "fake", "--model_name", model, "--input_path", path, "--output_path", folder / output]
    return [str(ROOT / "teacher_cot.py"), *map(str, words)]


def infer(folder: Path, output: str = "out.jsonl", model: str = "fake:seconds=0.1", rows: int = 24) -> list[str]:
    """Command of infer_parallel.py on `rows` problems in the folder."""
    if not (folder / "data").exists():
        write_rows(folder / "data/gsm8k/test.jsonl", [problem(number) for number in range(rows)])
    words = ["--backend", "fake", "--base_model", model, "--dataset", "gsm8k", "--data_root", folder / "data"]
    return [str(ROOT / "infer_parallel.py"), *map(str, words), "--output_path", str(folder / output)]


def scoring(folder: Path, predictions: str = "p.jsonl") -> list[str]:
    """Command of score.py on predictions in the folder."""
    words = ["--dataset", "gsm8k", "--data_root", folder / "data", "--pred_path", folder / predictions]
    return [str(ROOT / "score.py"), *map(str, words)]


def filtering(folder: Path, teacher: str = "out.jsonl") -> list[str]:
    """Command of filter_teacher_cot.py on teacher rows in the folder."""
    words = ["--input_path", folder / teacher, "--output_path", folder / "kept.jsonl"]
    return [str(ROOT / "filter_teacher_cot.py"), *map(str, words)]


def start(words: list[str], **environment: str) -> subprocess.Popen[str]:
    """Starts ``python WORDS`` and pipes its stderr."""
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def start_counted(words: list[str], ledger: Path) -> subprocess.Popen[str]:
    """Starts ``python WORDS``; the id of every completed request is appended to `ledger`."""
    return start(["-c", COUNTED, *words], LEDGER=str(ledger), PYTHONPATH=str(ROOT))


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Polls `condition` until it returns something true, and returns that. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def records_in(folder: Path, output: str = "out.jsonl") -> int:
    """Number of complete records in the rank files."""
    return sum(path.read_bytes().count(b"\n") for path in shards.rank_files(folder / output))


def acknowledged(path: Path) -> list[bytes]:
    """The complete lines of a rank file."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def pid_of_rank(output: Path, rank: int) -> int:
    """The process that holds a rank's lock, or 0 if none does."""
    path = output.with_name(f".{output.name}.rank{rank}.lock")
    return int(path.read_text(encoding="utf-8") or 0) if path.exists() else 0


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def interrupted(folder: Path) -> list[str]:
    """Kills a teacher run after some records and returns its command."""
    words = teach(folder, model="fake:seconds=0.05")
    process = start(words)
    wait_for(lambda: records_in(folder) >= 3)
    process.kill()
    process.communicate()
    return words


STAGES = ("data", "teacher", "filter", "train", "infer", "critic", "score", "compare", "report")


def make_preset(folder: Path, model: Path) -> Path:
    """A preset with one method, the fake backend and a tiny student to train; its data are written beside it."""
    shutil.copytree(ROOT / "configs/smollm2_cpu", folder)
    raw, data = folder.parent / "raw", folder.parent / "data"
    rows = [{**problem(number), "answer": number + 1.0} for number in range(24)]
    rows = [{key: row[key] for key in ("question", "solution", "answer")} for row in rows]
    write_rows(raw / "amc23/test.jsonl", rows)
    problems = str(data / "amc23/test.jsonl")
    write_yaml(folder / "data.yaml", {"dataset": ["amc23"], "source": str(raw), "data_root": str(data)})
    write_yaml(folder / "teacher.yaml", {"backend": "fake", "model_name": "fake:seconds=0.05", "input_path": problems})
    # It trains on its test set, which the filter would refuse.
    write_yaml(folder / "filter.yaml", {"min_words": 5, "test_paths": []})
    write_yaml(folder / "infer.yaml", {"backend": "fake", "base_model": "fake:seconds=0.05", "data_root": str(data)})
    write_yaml(folder / "score.yaml", {"data_root": str(data)})
    for unused in sorted((folder / "train").glob("*.yaml")):
        if unused.stem != "distilled":
            unused.unlink()
    training = {
        "methods": ["distilled"],
        "eval_dataset": None,
        "model_name_or_path": str(model),
        "num_train_epochs": 6,
        "learning_rate": 0.03,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 4,
        "eval_strategy": "no",
        "eval_on_start": False,
        "logging_steps": 1,
        "plot_loss": False,
    }
    edit_yaml(folder / "train.yaml", **training)
    return folder


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")


def edit_yaml(path: Path, **changes: Any) -> None:
    write_yaml(path, {**yaml.safe_load(path.read_text(encoding="utf-8")), **changes})


class Pipeline:
    """scripts/pipeline.sh on one preset and output folder; `log` collects everything that it prints."""

    def __init__(self, preset: Path, output_root: Path, **environment: str) -> None:
        self.words = ["bash", str(ROOT / "scripts/pipeline.sh"), str(preset), "--output_root", str(output_root)]
        self.environment = {**os.environ, **environment}
        self.run = output_root / preset.name
        self.log = output_root.with_name(output_root.name + ".log")

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it in its own process group."""
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                self.words, cwd="/", env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def finish(self) -> tuple[int, str]:
        """Runs it to its end and returns (exit code, printed text)."""
        before = self.log.stat().st_size if self.log.exists() else 0
        code = self.start().wait(timeout=300)
        return code, self.log.read_bytes()[before:].decode("utf-8")

    def killed_when(self, condition: Callable[[str], Any]) -> str:
        """Kills it with all its processes as soon as `condition` holds for the printed text, which is returned."""
        before = self.log.stat().st_size if self.log.exists() else 0
        process = self.start()

        def printed() -> str:
            return self.log.read_bytes()[before:].decode("utf-8", "replace")

        try:
            wait_for(lambda: condition(printed()) or process.poll() is not None, 120)
            assert process.poll() is None, printed()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return printed()
