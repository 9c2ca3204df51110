"""The chain model -> training set -> adapter -> predictions -> scores -> comparison: every broken link is named."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, refused, run_script, save_tiny_qwen2, write_rows

import filter_teacher_cot
import infer_parallel
import score
import teacher_cot
from cotkit.core import lineage
from cotkit.core.errors import UserError
from cotkit.training.config import read_config

pytestmark = pytest.mark.slow
RUN, ADAPTER = Path("run"), "run/train/distilled"
FILTER = ["--input_path", "run/teacher.jsonl", "--output_path", "run/kept.jsonl"]
METHOD = "dataset: distilled\nstage: sft\ntemplate: qwen\nmodel_name_or_path: {model}\n"


def record_training(run: Path, model: str, adapter: Path, method: str = "distilled") -> None:
    """Puts an adapter where a training of a method would, with the manifest that the training would write."""
    yaml = Path("preset/train") / f"{method}.yaml"
    yaml.parent.mkdir(parents=True, exist_ok=True)
    yaml.write_text(METHOD.format(model=model), encoding="utf-8")
    manifest = read_config(yaml, [], run).manifest(overwrite=True)
    folder = run / "train" / method
    if adapter != folder:
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
    manifest.finish([folder / lineage.WEIGHTS, folder / "adapter_config.json"], {"steps": 1, "trained_tokens": 9})


def infer(model: str, method: str, adapter: str | None = None, *words: str) -> None:
    lora = [] if adapter is None else ["--lora_path", adapter]
    flags = [
        "--dataset",
        "gsm8k",
        "--base_model",
        model,
        *lora,
        "--output_path",
        f"run/predictions/gsm8k/{method}.jsonl",
    ]
    assert infer_parallel.main([*flags, "--max_new_tokens", "4", *words]) == 0


def scored(method: str, *words: str) -> int:
    return score.main(["--dataset", "gsm8k", "--pred_path", f"run/predictions/gsm8k/{method}.jsonl", *words])


def script(name: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return run_script(ROOT / f"scripts/{name}.py", RUN, check=check, cwd=Path.cwd())


@pytest.fixture(scope="module")
def made(tiny_model: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, model/, other/ (a model of the same shape), adapter/ and a finished run/. All paths are relative."""
    root = tmp_path_factory.mktemp("lineage")
    with contextlib.chdir(root):
        write_rows(Path("data/gsm8k/test.jsonl"), [problem(number) for number in range(6)])
        train = [problem(number, id=f"gsm8k-train-{number:05d}", split="train") for number in range(12)]
        write_rows(Path("data/gsm8k/train.jsonl"), train)
        shutil.copytree(tiny_model, "model")
        shutil.copytree(tiny_model, "other")
        vocabulary = json.loads(Path("model/config.json").read_text(encoding="utf-8"))["vocab_size"]
        save_tiny_qwen2(Path("other"), vocabulary, seed=7, tie_word_embeddings=True)
        shutil.copytree(tiny_adapter, "adapter")
        edit(Path("adapter/adapter_config.json"), base_model_name_or_path="model")
        teacher = ["--input_path", "data/gsm8k/train.jsonl", "--output_path", "run/teacher.jsonl"]
        assert teacher_cot.main(["--backend", "fake", "--model_name", "fake", *teacher]) == 0
        assert filter_teacher_cot.main(FILTER) == 0
        record_training(RUN, "model", Path("adapter"))
        infer("model", "baseline")
        infer("model", "distilled", ADAPTER)
        for method in ("baseline", "distilled"):
            assert scored(method) == 0
        script("compare", check=True)
    return root


@pytest.fixture(autouse=True)
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it is the working directory."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def change_the_model() -> str:
    edit(Path("model/config.json"), rope_theta=5.0)
    return "its model "


def change_a_training_set() -> str:
    with open("run/datasets/distilled.jsonl", "ab") as file:
        file.write(b'{"system": "", "instruction": "", "input": "", "output": ""}\n')
    return "distilled.manifest.json: input distilled "


def filter_again() -> str:
    """Every file then agrees with the filter's manifest, but the adapter was trained on another set."""
    assert filter_teacher_cot.main([*FILTER, "--skip_rules", "wrong_answer", "unreached_answer", "--overwrite"]) == 0
    return "distilled.manifest.json: input distilled "


def change_an_adapter() -> str:
    path = Path(ADAPTER, lineage.WEIGHTS)
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    return f"{path}: was changed after it was written"


def train_again() -> str:
    """The training's manifest and its files agree; the predictions are the former adapter's."""
    change_an_adapter()
    record_training(RUN, "model", Path(ADAPTER))
    return "distilled.jsonl: was made with another adapter"


def train_on_the_other_model() -> str:
    record_training(RUN, "other", Path("adapter"))
    return "baseline.jsonl: is based on "


def answer_without_the_adapter() -> str:
    infer("model", "distilled", None, "--overwrite")
    return "distilled.jsonl: is the base model's, without an adapter, but "


def answer_with_another_baseline() -> str:
    infer("other", "baseline", None, "--overwrite")
    return "baseline.jsonl: is based on "


def answer_again() -> str:
    """The scores are those of texts that are gone."""
    infer("model", "baseline", None, "--overwrite", "--max_new_tokens", "5")
    return "baseline.summary.json.manifest.json: input predictions "


def score_again() -> str:
    """The comparison is of scores that are gone."""
    assert scored("baseline", "--protocol", "original", "--overwrite") == 0
    return "comparison.json.manifest.json: input gsm8k/baseline.summary.json "


def score_one_more() -> str:
    infer("model", "another")
    assert scored("another") == 0
    return "comparison.json: leaves out gsm8k/another.summary.json; run scripts/compare.py"


def change_the_comparison() -> str:
    edit(RUN / "comparison.json", finding="distilled is better")
    return "comparison.json: was changed after it was written"


BREAKS = [change_the_model, change_a_training_set, filter_again, change_an_adapter, train_again]
BREAKS += [train_on_the_other_model, answer_without_the_adapter, answer_with_another_baseline, answer_again]
BREAKS += [score_again, score_one_more, change_the_comparison]


def test_an_unbroken_chain_has_no_findings():
    assert "is right" in script("verify", check=True).stdout


@pytest.mark.parametrize("damage", BREAKS)
def test_verify_finds_a_broken_link(damage: Callable[[], str]):
    says = damage()
    done = script("verify")
    assert done.returncode == 1
    assert any(says in line for line in done.stdout.split("\n")), done.stdout


@pytest.mark.parametrize(
    ("damage", "method"),
    [
        (train_again, "distilled"),
        (train_on_the_other_model, "baseline"),
        (answer_without_the_adapter, "distilled"),
        (answer_with_another_baseline, "baseline"),
    ],
)
def test_scores_and_comparison_refuse_what_does_not_belong_to_the_run(damage: Callable[[], str], method: str):
    says = damage()
    with pytest.raises(UserError) as refusal:
        scored(method)
    assert says in str(refusal.value) and "; run infer_parallel.py again with --" in str(refusal.value)
    refused(script("compare"), says)


def test_training_on_one_model_and_answering_with_another_is_refused():
    """Of the same shape, so that the adapter would load."""
    with pytest.raises(UserError, match="is another model than other; give --base_model model"):
        infer("other", "distilled", ADAPTER, "--overwrite")
    change_the_model()
    with pytest.raises(UserError, match="before that model's files were changed; train the adapter again"):
        infer("model", "distilled", ADAPTER, "--overwrite")


def test_an_adapter_that_was_changed_or_is_not_finished_does_not_answer():
    change_an_adapter()
    with pytest.raises(UserError, match="was changed after its training; run scripts/train.sh again with --overwrite"):
        infer("model", "distilled", ADAPTER, "--overwrite")
    edit(Path(f"{ADAPTER}.manifest.json"), status="running")
    with pytest.raises(UserError, match="its training is not finished; run scripts/train.sh again, which continues it"):
        infer("model", "distilled", ADAPTER, "--overwrite")


def test_a_comparison_refuses_adapters_of_different_bases_and_scores_of_other_predictions():
    """Here the run has no trainings of its own, so only the predictions tell."""
    Path("foreign").mkdir()
    shutil.copytree("run/datasets", "foreign/datasets")
    record_training(Path("foreign"), "other", Path("adapter"))
    Path("run/train").rename("train")
    infer("other", "foreign", "foreign/train/distilled")
    assert scored("foreign") == 0
    done = script("compare")
    refused(done, "baseline is based on model and foreign on other, another model")
    for path in Path("run/predictions/gsm8k").glob("foreign*"):
        path.unlink()
    answer_again()
    refused(script("compare"), "baseline.summary.json: scores other predictions")


def test_a_stronger_model_may_answer_under_a_name_of_its_own():
    infer("other", "teacher")
    assert scored("teacher") == 0
    assert "teacher" in script("compare", check=True).stdout


def test_predictions_without_manifests_and_of_earlier_versions_are_taken():
    folder = RUN / "predictions/gsm8k"
    edit(folder / "distilled.jsonl.manifest.json", adapter_training=None)
    assert scored("distilled") == 0  # its adapter's files are still those that it names
    (folder / "distilled.jsonl.manifest.json").unlink()
    assert scored("distilled") == 0
    script("compare", check=True)
