"""The cards as a browser shows them: complete tables, no Markdown that is left over, nothing that widens a phone's page."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from publishing.card_page import check, shown, tables

from cotkit.core.jsonl import read_json, write_json_atomic
from cotkit.core.manifest import path_for

export = import_module("scripts.export")

AWKWARD = "<teacher> | *all* _x_ __y__ `a` [b](c) ${oc.env:NAME} " + 20 * "long"


@pytest.fixture
def awkward_run(run: Path) -> Path:
    """A run whose training has a setting that Markdown and HTML would read."""
    manifest = path_for(run / "train/distilled")
    record = read_json(manifest)
    record["settings"]["awkward"] = AWKWARD
    write_json_atomic(manifest, record)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--adapter"]])
def test_a_card_is_shown_complete_on_a_desktop_and_a_phone(
    awkward_run: Path, tmp_path: Path, browser: Any, words: list[str], capsys: pytest.CaptureFixture[str]
):
    assert export.main([str(awkward_run), "distilled", *words, "--dry_run"]) == 0
    card = capsys.readouterr().out
    for width in (1280, 390):
        page = shown(browser, card, width, tmp_path)
        check(page, width)
        results, settings, files = tables(page)
        assert [row[0] for row in results] == ["method", "baseline", "distilled"] and len(results[0]) == 5
        assert ["awkward", AWKWARD] in settings and ["lora_rank", "4"] in settings
        assert [len(row[1]) for row in files[1:]] == [64] * 3
        assert page.locator("h2").all_inner_texts() == [
            *["Results", "What was not shown", "Use", "Training", "How it was made"]
        ]
        assert "apply_chat_template" in page.locator("pre").first.inner_text()
        page.close()
