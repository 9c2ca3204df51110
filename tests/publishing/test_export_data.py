"""export.py --data: the rows as they are, the card's account of the filter, and the upload."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import problem, refused, run_script, write_rows
from publishing.card_page import check, shown, tables
from publishing.hub_server import HubServer

from cotkit.core.jsonl import write_json_atomic
from cotkit.core.manifest import Input, Manifest
from cotkit.filtering.training_sets import write_dataset_info, write_training_set
from cotkit.generation import prompts

export = import_module("scripts.export")


@pytest.fixture
def set_run(tmp_path: Path) -> Path:
    """What the filter leaves of a run: one training set with its account."""
    folder = tmp_path / "set run"
    path = folder / "datasets/distilled.jsonl"
    path.parent.mkdir(parents=True)
    write_training_set(path.parent, "distilled", [prompts.training_row("1+1?", "1+1=2\n#### 2")])
    write_dataset_info(path.parent, {"distilled": False})
    rejected = {"wrong_answer": 3, "contaminated": 0}
    account = {"read": 4, "kept": 1, "rejected": rejected, "training_sets": {"distilled": 1}}
    write_json_atomic(folder / "kept.report.json", account)
    kept = write_rows(folder / "kept.jsonl", [{"id": "a"}])
    test = write_rows(tmp_path / "test.jsonl", [problem(0)])
    limits = dict.fromkeys(("min_words", "max_words", "max_tokens", "max_similarity"), 5)
    settings = {**limits, "max_overlap": 0.5, "ngram": 8, "skip_rules": [], "sets": ["distilled = kept"]}
    Manifest("filter", kept, settings, {"test data/gsm8k/test.jsonl": Input(test)}).finish([kept, path], account)
    return folder


def test_a_data_set_has_its_rows_and_the_share_that_was_rejected(set_run: Path):
    from huggingface_hub import DatasetCard

    assert export.main([str(set_run), "--data", "distilled"]) == 0
    folder = set_run / "export/data-distilled"
    assert (folder / "distilled.jsonl").read_bytes() == (set_run / "datasets/distilled.jsonl").read_bytes()
    card = DatasetCard.load(folder / "README.md")
    assert card.data.configs[0]["data_files"][0]["path"] == "distilled.jsonl"
    assert "75.0% were rejected" in card.text and "| wrong_answer | 3 |" in card.text
    assert "50% of its 8-word runs with a question of `data/gsm8k/test.jsonl`" in card.text


def test_without_a_token_nothing_is_made(set_run: Path, tmp_path: Path):
    words = ["scripts/export.py", set_run, "--data", "distilled", "--push_to_hub", "owner/name"]
    done = run_script(*words, check=False, HF_HOME=str(tmp_path / "home"), HF_TOKEN="", HF_TOKEN_PATH="/none")
    refused(done, "no token; run `hf auth login` once, or set HF_TOKEN")
    assert not (set_run / "export").exists()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_card_is_shown_complete(
    set_run: Path, tmp_path: Path, browser: Any, width: int, capsys: pytest.CaptureFixture[str]
):
    assert export.main([str(set_run), "--data", "distilled", "--dry_run"]) == 0
    page = shown(browser, capsys.readouterr().out, width, tmp_path)
    check(page, width)
    rules, files = tables(page)
    assert rules == [["rule", "rejected rows"], ["wrong_answer", "3"], ["contaminated", "0"]]
    assert [len(row[1]) for row in files[1:]] == [64] * 3
    page.close()


def test_a_given_license_is_in_the_card(set_run: Path, capsys: pytest.CaptureFixture[str]):
    assert export.main([str(set_run), "--data", "distilled", "--license", "cc-by-4.0", "--dry_run"]) == 0
    card = capsys.readouterr().out
    assert "\nlicense: cc-by-4.0\n" in card and "Look both up" not in card


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_data_set_is_pushed_with_its_card_and_a_failed_push_keeps_it(set_run: Path, fails: bool):
    words = ["scripts/export.py", set_run, "--data", "distilled", "--push_to_hub", "owner/name", "--private"]
    with HubServer(fails) as hub:
        done = run_script(*words, check=False, **hub.environment)
    (made,) = hub.repositories
    assert made["name"] == "name" and made["visibility"] == "private" and made["type"] == "dataset"
    assert hub.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in done.stdout + done.stderr
    folder = set_run / "export/data-distilled"
    if fails:
        assert (folder / "README.md").is_file()
        return refused(done, "owner/name: the hub refused", "the same command tries again")
    assert done.returncode == 0, done.stderr
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
