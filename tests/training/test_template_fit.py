"""Whether LLaMA-Factory's template fits a model: other families, models of the hub, and rows of exactly cutoff_len."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import CHATML, make_tokenizer
from training.test_train import CONFIG

from cotkit.core.errors import UserError
from cotkit.filtering.token_count import token_counter
from cotkit.generation import prompts
from cotkit.generation.chat_model import load_tokenizer
from cotkit.training import preflight
from cotkit.training.config import TrainConfig, read_config

# As the templates of Llama 3.2 and Gemma 3 write a system message and a question.
LLAMA = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% if m.role == 'system' %}{{ 'Today Date: ' + strftime_now('%d %b %Y') + '\n\n' }}{% endif %}"
    "{{ m.content + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<bos><start_of_turn>user\n' + messages[0].content + '\n\n' + messages[1].content + '<end_of_turn>\n' }}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def model(folder: Path, chat_template: str, kind: str, *special: str, bos: str | None = None) -> Path:
    """A folder with a tokenizer and the little of a model's configuration that is looked at."""
    tokenizer = make_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.bos_token = bos
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(f'{{"model_type": "{kind}"}}', encoding="utf-8")
    return folder


def config_of(name: Path | str, template: str) -> TrainConfig:
    return read_config(CONFIG, [f"model_name_or_path={name}", f"template={template}"])


def test_a_template_that_writes_a_date_is_named(tmp_path: Path):
    folder = model(tmp_path, LLAMA, "llama", "<|begin_of_text|>", "<|eot_id|>", bos="<|begin_of_text|>")
    says = "writes a date into every prompt ('Today Date: 26 Jul 2024'), and no template of LLaMA-Factory does"
    with pytest.raises(UserError, match=re.escape(says)):
        preflight.check_template(config_of(folder, "llama3"))


def test_a_template_that_wants_a_processor_fits_only_a_model_that_has_one(tmp_path: Path):
    folder = model(tmp_path, GEMMA, "gemma3_text", "<bos>", "<start_of_turn>", "<end_of_turn>", bos="<bos>")
    with pytest.raises(UserError, match="wants an image processor, which the model does not have; fitting are gemma"):
        preflight.check_template(config_of(folder, "gemma3"))
    preflight.check_template(config_of(folder, "gemma"))


def test_a_model_of_the_hub_is_compared_once_it_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    preflight.check_template(config_of("some/model", "llama3"))  # not here, and not downloaded
    repository = tmp_path / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc", encoding="ascii")
    (repository / "snapshots").mkdir()
    model(repository / "snapshots/abc", CHATML, "qwen2")
    with pytest.raises(UserError, match="does not fit some/model: .*; fitting are qwen"):
        preflight.check_template(config_of("some/model", "llama3"))
    preflight.check_template(config_of("some/model", "qwen"))


def test_the_filter_counts_the_tokens_that_are_trained(tmp_path: Path):
    """ChatML writes a newline behind the end of turn, and LLaMA-Factory trains it."""
    from llamafactory.data.template import TEMPLATES

    folder = model(tmp_path, CHATML, "qwen2")
    count, row = token_counter(str(folder)), prompts.training_row("How many?", "3+4=7\n#### 7")
    chat = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
    prompt, answer = TEMPLATES["qwen"].encode_oneturn(load_tokenizer(str(folder)), chat, system=row["system"])
    assert count({"question": "How many?"}, row["output"]) == len(prompt) + len(answer)
