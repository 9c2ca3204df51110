"""Chat templates that refuse the system message that every prompt has, and the remedy that the message points to."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import CHATML, ROOT, make_tokenizer

import infer_parallel
from cotkit.core.errors import UserError
from cotkit.generation import prompts
from cotkit.generation.chat_model import load_generation_config, load_tokenizer, turn_end_ids

GEMMA = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
MISTRAL = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}{% endfor %}" + CHATML
)
QUESTION = prompts.student_messages("How many?")


def with_template(model: Path, folder: Path, template: str) -> Path:
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@pytest.mark.parametrize("template", [GEMMA, MISTRAL], ids=["as Gemma's", "as Mistral's"])
def test_a_template_without_a_system_role_is_refused_and_the_remedy_works(
    data_root: Path, tiny_model: Path, tmp_path: Path, template: str
):
    model = with_template(tiny_model, tmp_path / "model", template)
    words = [
        "--dataset",
        "gsm8k",
        "--data_root",
        data_root,
        "--base_model",
        model,
        "--output_path",
        tmp_path / "o.jsonl",
    ]
    words = [str(word) for word in [*words, "--limit", 1, "--max_new_tokens", 2, "--dry_run"]]
    with pytest.raises(
        UserError, match=r"no system role \((System|Conversation) role.*Templates without a system role"
    ):
        infer_parallel.main(words)
    text = (ROOT / "docs/GENERATION.md").read_text(encoding="utf-8")
    section = text.split("\n## Templates without a system role\n")[1].split("\n## ")[0]
    [remedy] = re.findall(r"```jinja\n(.*)\n```", section)
    (model / "chat_template.jinja").write_text(remedy + template, encoding="utf-8")
    assert infer_parallel.main(words) == 0
    system, user = (message["content"] for message in QUESTION)
    assert f"user\n{system}\n\n{user}<" in prompts.render(load_tokenizer(str(model)), QUESTION, False)
    problem = {"question": "How many?", "solution": "1+1=2", "answer": "2"}
    shown = prompts.render(load_tokenizer(str(model)), prompts.teacher_messages(problem, "rewrite"), False)
    assert shown.count("<|im_start|>") == 6  # five turns without the system's, and the one to be written


def test_a_template_that_cannot_be_rendered_at_all_says_why(tiny_model: Path, tmp_path: Path):
    model = with_template(tiny_model, tmp_path / "model", "{{ raise_exception('no chat here') }}")
    with pytest.raises(UserError, match=r"cannot be rendered \(no chat here\); correct chat_template\.jinja"):
        load_tokenizer(str(model))


@pytest.mark.parametrize("special", [True, False])
def test_a_tag_of_html_ends_a_turn_only_where_the_tokenizer_calls_it_special(special: bool, tmp_path: Path):
    from tokenizers import AddedToken

    tokenizer = make_tokenizer(tmp_path)
    tokenizer.add_tokens([AddedToken("</s>", special=special)])
    ends = tokenizer.convert_ids_to_tokens(sorted(turn_end_ids(tokenizer, load_generation_config(str(tmp_path)))))
    assert ends == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *["</s>"] * special]


def test_the_date_in_a_prompt_is_always_the_same(tiny_model: Path, tmp_path: Path):
    today = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    tokenizer = load_tokenizer(str(with_template(tiny_model, tmp_path / "model", today + CHATML)))
    assert prompts.render(tokenizer, QUESTION, False).startswith("26 Jul 2024<|im_start|>")
