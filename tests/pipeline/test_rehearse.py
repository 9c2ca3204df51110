"""The Qwen presets with Qwen's real vocabulary and templates, and tiny models, by scripts/dev/rehearse.py."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, read_rows

PRESET, METHODS = "qwen2_1.5b_tuned", ("baseline", "distilled")
TEST_SETS = ("gsm8k", "math500", "aime", "amc23")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder of the tuned preset, and what the rehearsal printed."""
    folder = tmp_path_factory.mktemp("rehearsal") / "project"
    words = ["--presets", PRESET, "--methods", ",".join(METHODS[1:]), "--keep", str(folder)]
    done = subprocess.run(
        [sys.executable, "scripts/dev/rehearse.py", *words],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    if "cannot be downloaded" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "outputs" / f"{PRESET}-limit6", done.stdout


@pytest.mark.slow
def test_the_tuned_preset_runs_end_to_end(rehearsed: tuple[Path, str]):
    run, printed = rehearsed
    assert printed.count("prompts, answers and ends are what inference serves") == len(METHODS) - 1
    assert f"{PRESET}: rehearsed in " in printed  # verify.py found nothing
    comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    assert [one["dataset"] for one in comparison["datasets"]] == sorted(TEST_SETS)
    for one in comparison["datasets"]:
        assert sorted(method["method"] for method in one["methods"]) == sorted(METHODS)
    assert (run / "report.html").is_file()


@pytest.mark.slow
def test_a_base_model_ends_its_turns_and_the_embeddings_are_trained(rehearsed: tuple[Path, str]):
    run, _ = rehearsed
    for method in METHODS[1:]:
        config = json.loads((run / f"train/{method}/adapter_config.json").read_text(encoding="utf-8"))
        assert sorted(config["modules_to_save"]) == ["embed_tokens", "lm_head"]
    rows = [row for name in TEST_SETS for row in read_rows(run / f"predictions/{name}/distilled.jsonl")]
    assert len(rows) == 24
    assert {row["finish_reason"] for row in rows} <= {"stop", "answer", "length"}
    assert sum(row["finish_reason"] != "length" for row in rows) > 12


def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts/dev/rehearse.py"), run_name="rehearse")


def test_a_vocabulary_s_merges_are_the_two_parts_of_each_token():
    """`abcd` is made of ab and cd, since `cd` has the lower rank than `abc`."""
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"d": 3, b"ab": 4, b"cd": 5, b"abc": 6, b"abcd": 7}
    pairs = [(b"a", b"b"), (b"c", b"d"), (b"ab", b"c"), (b"ab", b"cd")]
    assert script()["merges_of"](ranks) == pairs


def test_half_precision_is_all_that_changes_in_a_preset_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    presets = script()["PRESETS"]
    script()["copy_project"](tmp_path, presets)
    changed = []
    for preset in presets:
        for file in (ROOT / "configs" / preset).rglob("*.yaml"):
            before, after = (path / file.relative_to(ROOT) for path in (ROOT, tmp_path))
            pairs = zip(before.read_text("utf-8").split("\n"), after.read_text("utf-8").split("\n"), strict=True)
            changed += [f"{preset}/{file.name}: {new.split('#')[0].strip()}" for old, new in pairs if old != new]
    assert changed == [f"{preset}/train.yaml: bf16: false" for preset in presets]
