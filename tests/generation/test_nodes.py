"""Several nodes: two torchrun agents that meet at a loopback rendezvous, with a shared output folder and without."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, refused, run_script, write_rows

from cotkit.generation import shards

pytestmark = pytest.mark.slow


def infer(root: Path, output: Path, *more: Any) -> list[str]:
    words = "infer_parallel.py --dataset gsm8k --base_model fake --backend fake".split()
    return [str(word) for word in [*words, "--data_root", root, "--output_path", output, *more]]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch(*nodes: list[str]) -> list[str]:
    """Runs each command as one node of a launch, with one rank each; returns what each node wrote to stderr."""
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=test"]
    ranks = [f"--nnodes={len(nodes)}", "--nproc_per_node=1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *ranks, *meeting]
    agents = [
        subprocess.Popen([*launcher, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        for words in nodes
    ]
    errors = [agent.communicate(timeout=300)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0] * len(nodes), errors
    return errors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen problems: the ranks' shares differ in size."""
    root = tmp_path_factory.mktemp("nodes")
    write_rows(root / "gsm8k/test.jsonl", [problem(number) for number in range(13)])
    return root


@pytest.fixture(scope="module")
def alone(data: Path) -> bytes:
    """The bytes of a run by one process."""
    run_script(*infer(data, data / "alone.jsonl"))
    return (data / "alone.jsonl").read_bytes()


def test_two_nodes_with_a_shared_folder_write_what_one_process_writes(data: Path, tmp_path: Path, alone: bytes):
    """By the SLURM script; `srun` here starts its command twice, two ranks each, as it would on two nodes."""
    output = tmp_path / "out $(touch run).jsonl"
    for name, line in (("scontrol", "echo localhost; echo localhost"), ("srun", 'shift; "$@" & "$@"; wait $!')):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{line}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[0-1]",
        "RANKS_PER_NODE": "2",
        "RDZV_PORT": str(free_port()),
    }
    words = ["bash", "scripts/slurm_infer.sh", *infer(data, output)]
    done = subprocess.run(words, check=False, cwd=ROOT, env={**os.environ, **environment}, timeout=300)
    assert done.returncode == 0
    assert output.read_bytes() == alone
    assert not shards.rank_files(output)
    assert not (ROOT / "run").exists()
    assert run_script(*infer(data, output, "--is_done")).returncode == 0


def test_two_nodes_without_one_are_merged_by_hand(data: Path, tmp_path: Path, alone: bytes):
    here, there = tmp_path / "node 0/out.jsonl", tmp_path / "node 1/out.jsonl"
    errors = launch(*(infer(data, output, "--separate_folders") for output in (here, there)))
    assert "results of other ranks are missing" in errors[0] + errors[1]
    assert [path.name for path in shards.rank_files(here)] == ["out.jsonl.rank0"]
    assert [path.name for path in shards.rank_files(there)] == ["out.jsonl.rank1"]
    short = run_script(*infer(data, here, "--merge_only"), check=False)
    refused(short, "not merged, 6 of 13 results are missing: gsm8k-test-00001, gsm8k-test-00003")
    shutil.copy(shards.rank_file(there, 1), here.parent)
    run_script(*infer(data, here, "--merge_only"))
    assert here.read_bytes() == alone
    bare = tmp_path / "bare/out.jsonl"
    bare.parent.mkdir()
    shutil.copy(shards.rank_file(there, 1), bare.parent)
    refused(run_script(*infer(data, bare, "--merge_only"), check=False), "out.jsonl.manifest.json: is missing")
