"""export.py --data: the rows as they are, the card's account of the filter, and the upload."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import problem, refused, run_script, write_rows
from publishing.card_page import check, shown, tables
from publishing.hub_server import HubServer

from cotkit.core.errors import UserError
from cotkit.core.jsonl import write_json_atomic
from cotkit.core.manifest import Input, Manifest, path_for
from cotkit.filtering.training_sets import gold_rows, write_dataset_info, write_training_set
from cotkit.generation import prompts

export = import_module("scripts.export")


LIMITS = dict.fromkeys(("min_words", "max_words", "max_tokens", "max_similarity"), 5)


def make_set(run: Path, folder: str, name: str, output: str, inputs: dict[str, Path]) -> None:
    """What the filter leaves of one training set: its row, its account and its manifest."""
    path = run / folder / f"{name}.jsonl"
    write_training_set(path.parent, name, [prompts.training_row("1+1?", "1+1=2\n#### 2")])
    write_dataset_info(path.parent, {name: False})
    rejected = {"wrong_answer": 3, "contaminated": 0}
    account = {"read": 4, "kept": 1, "rejected": rejected, "training_sets": {name: 1}}
    write_json_atomic(run / f"{output}.report.json", account)
    kept = write_rows(run / f"{output}.jsonl", [{"id": "a"}])
    settings = {**LIMITS, "max_overlap": 0.5, "ngram": 8, "skip_rules": [], "sets": [f"{name} = kept"]}
    read = {key: Input(file) for key, file in inputs.items()}
    Manifest("filter", kept, settings, read).finish([kept, path], account)


@pytest.fixture
def set_run(tmp_path: Path) -> Path:
    """What the filter leaves of a run: one training set with its account."""
    folder = tmp_path / "set run"
    (folder / "datasets").mkdir(parents=True)
    make_set(
        folder,
        "datasets",
        "distilled",
        "kept",
        {"test data/gsm8k/test.jsonl": write_rows(tmp_path / "test.jsonl", [problem(0)])},
    )
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


def test_the_set_of_a_vote_has_its_account_and_says_how_the_answers_were_found(set_run: Path):
    voted = write_rows(set_run / "voted.voters.jsonl", [{"id": "a"}])
    Manifest("vote", voted, {}, {}).finish([voted], {"questions": 8, "voted": 6})
    (set_run / "datasets/voters").mkdir()
    make_set(set_run, "datasets/voters", "voters", "kept.voters", {"teacher": voted})
    assert export.main([str(set_run), "--data", "voters"]) == 0
    folder = set_run / "export/data-voters"
    assert (folder / "voters.jsonl").read_bytes() == (set_run / "datasets/voters/voters.jsonl").read_bytes()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "of 8 questions 6 have one" in card and "`voters = kept`" in card and "75.0% were rejected" in card


def test_the_set_of_published_solutions_names_their_file_and_what_it_was_compared_with(set_run: Path):
    folder = set_run / "datasets/expert"
    folder.mkdir()
    sets = {"expert": [problem(1)], "gold_dev": [problem(2)], "distilled": [problem(3)]}
    for name, problems in sets.items():
        write_training_set(folder, name, gold_rows(problems))
    write_dataset_info(folder, dict.fromkeys(sets, False))
    source = write_rows(set_run / "problems.jsonl", [problem(1)])
    made = Manifest("gold_set", folder / "expert.jsonl", {}, {"problems": Input(source)})
    files = [folder / f"{name}.jsonl" for name in sets]
    made.finish(files, {"training_sets": dict.fromkeys(sets, 1)}, compared_with=["data/gsm8k/test.jsonl"])
    assert export.main([str(set_run), "--data", "expert"]) == 0
    card = (set_run / "export/data-expert/README.md").read_text(encoding="utf-8")
    assert f"those of `{source}`" in card and "none of the questions is in `data/gsm8k/test.jsonl`" in card
    assert "The filter" not in card and "teacher" not in card
    assert export.main([str(set_run), "--data", "expert/distilled"]) == 0  # not the one that the run has of that name
    copy = set_run / "export/data-expert-distilled/distilled.jsonl"
    assert copy.read_bytes() == (folder / "distilled.jsonl").read_bytes()
    with pytest.raises(UserError, match="no training set 'expert/destilled'; did you mean 'expert/distilled'"):
        export.main([str(set_run), "--data", "expert/destilled"])
    write_rows(folder / "expert.jsonl", [])
    with pytest.raises(UserError, match=r"is not what scripts/gold_set.py wrote; run scripts/gold_set.py again with"):
        export.main([str(set_run), "--data", "expert", "--overwrite"])


def test_a_set_without_a_finished_manifest_is_refused(set_run: Path):
    path_for(set_run / "kept.jsonl").unlink()
    with pytest.raises(
        UserError, match="distilled.jsonl: no finished manifest says how it was made; run filter_teacher"
    ):
        export.main([str(set_run), "--data", "distilled"])


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
    assert "\nlicense: cc-by-4.0\n" in card and "Look it up" not in card


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
