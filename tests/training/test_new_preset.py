"""A new preset for models of other families: it has no fault, and it trains what inference serves.

The hub's models cannot be had here. Tiny random models stand in for them, with chat templates of the same structure.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CHATML, ROOT, make_tokenizer, problem, write_rows
from training.test_check_training import QWEN3, THOUGHT, write_sets
from training.test_template_fit import GEMMA, LLAMA

from cotkit.core.errors import UserError

DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
WITHOUT_DATE = LLAMA.replace("'Today Date: ' + strftime_now('%d %b %Y') + '\n\n'", "''")
LLAMA_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")
GEMMA_TOKENS = ("<bos>", "<start_of_turn>", "<end_of_turn>")
# Name -> class of its configuration, chat template, special tokens, first token of a prompt, ends of a turn
FAMILIES = {
    "qwen2.5": ("Qwen2Config", DEFAULT_SYSTEM + CHATML, (), None, "<|im_end|>"),
    "qwen3": ("Qwen3Config", QWEN3, ("<think>", "</think>"), None, "<|im_end|>"),
    "llama3.2": ("LlamaConfig", WITHOUT_DATE, LLAMA_TOKENS, LLAMA_TOKENS[0], "<|eot_id|> <|eom_id|>"),
    "gemma3": ("Gemma3TextConfig", GEMMA, GEMMA_TOKENS, GEMMA_TOKENS[0], "<end_of_turn>"),
}
TEMPLATES = {"qwen2.5": "qwen", "qwen3": "qwen3", "llama3.2": "llama3", "gemma3": "gemma"}


def stand_in(folder: Path, family: str, template: str | None = None, is_chat: bool = True) -> Path:
    """A tiny random model of a family; as a base model, it has no end of turn in its generation config."""
    import torch
    import transformers

    kind, usual, tokens, first, ends = FAMILIES[family]
    tokenizer = make_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.bos_token, tokenizer.chat_template = first, template or usual
    tokenizer.save_pretrained(folder)
    end_id = tokenizer.convert_tokens_to_ids(ends.split()) if is_chat else tokenizer.eos_token_id
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    torch.manual_seed(0)
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer), num_hidden_layers=2, max_position_embeddings=1024, eos_token_id=end_id,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id, **sizes,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def script(name: str, *words: Any) -> int:
    return runpy.run_path(str(ROOT / f"scripts/{name}.py"), run_name=name)["main"]([str(word) for word in words])


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for presets; the working directory is the repository, where data are looked up."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")
    (tmp_path / "configs").mkdir()
    return tmp_path / "configs"


def new_preset(configs: Path, student: Path | str, teacher: Path | str = "some/teacher", *words: str) -> Path:
    words = words or ("--data", "gsm8k", "math500")
    script("new_preset", "mine", "--configs", configs, "--student", student, "--teacher", teacher, *words)
    return configs / "mine"


def train_values(preset: Path) -> dict[str, Any]:
    return yaml.safe_load((preset / "train.yaml").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_s_preset_has_no_fault_and_trains_what_is_served(
    family: str, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    student, teacher = stand_in(tmp_path / "student", family), stand_in(tmp_path / "teacher", family)
    preset = new_preset(configs, student, teacher)
    values = train_values(preset)
    assert values["template"] == TEMPLATES[family]
    assert values.get("enable_thinking") is (False if family == "qwen3" else None)
    assert "additional_target" not in values
    assert script("check_preset", preset, "--methods", "all", "--run", tmp_path / "run") == 0
    write_sets(tmp_path / "run")
    assert script("check_training", preset, "--run", tmp_path / "run") == 0
    methods = {path.name for path in (ROOT / "configs/qwen2_1.5b_tuned/train").iterdir()}
    assert {path.name for path in (preset / "train").iterdir()} == methods
    assert capsys.readouterr().out.count("are what inference serves") == len(methods)
    texts = "".join(path.read_text(encoding="utf-8") for path in preset.rglob("*.yaml"))
    for foreign in ("Qwen/Qwen2-1.5B", "Qwen/Qwen3-8B", "151,646", "model card for non-thinking"):
        assert foreign not in texts
    assert max(map(len, texts.split("\n"))) <= 120 + len(str(tmp_path))


def test_a_template_with_a_date_is_refused_with_what_to_do(configs: Path, tmp_path: Path):
    with pytest.raises(UserError, match="writes a date .*remove the date from its chat_template.jinja"):
        new_preset(configs, stand_in(tmp_path / "student", "llama3.2", LLAMA))
    assert not list(configs.iterdir())


def test_a_template_of_its_own_is_refused_with_what_to_do(configs: Path, tmp_path: Path):
    own = CHATML.replace("'<|im_start|>' + m['role']", "'<|im_start|>The ' + m['role']")
    with pytest.raises(UserError, match="no template of LLaMA-Factory writes .*'<|im_start|>The system.*ChatML"):
        new_preset(configs, stand_in(tmp_path / "student", "qwen2.5", own))


def test_a_base_model_trains_its_embeddings_and_what_is_unknown_is_printed(
    configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    student = stand_in(tmp_path / "my #1: student", "qwen2.5", is_chat=False)
    preset = new_preset(configs, student)
    assert train_values(preset)["model_name_or_path"] == str(student)
    assert train_values(preset)["additional_target"] == "embed_tokens,lm_head"
    printed = capsys.readouterr().out
    for words in ("writes <|im_end|>: if it is a chat model", "some/teacher, which is not on this machine"):
        assert words in printed
    assert not (preset / "train/logit_kd.yaml").exists()
    teacher = yaml.safe_load((preset / "teacher.yaml").read_text(encoding="utf-8"))
    assert (teacher["temperature"], teacher["top_p"], "top_k" in teacher) == (0.7, 0.95, False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--data", "gsm8q"), "no such data set; did you mean 'gsm8k'"),
        (("--data", "math500"), "no set has a train split; add one of gsm8k, gsm_symbolic, math"),
        (("--data", "math"), "no set has a test split; add one of"),
    ],
)
def test_data_that_cannot_be_are_refused(words: tuple[str, ...], says: str, configs: Path, tmp_path: Path):
    with pytest.raises(UserError, match=says):
        new_preset(configs, stand_in(tmp_path / "student", "qwen2.5"), "some/teacher", *words)
    assert not list(configs.iterdir())


def test_an_existing_folder_and_an_absent_student_are_refused(configs: Path):
    with pytest.raises(UserError, match="is not on this machine.*hf download some/student --include"):
        new_preset(configs, "some/student")
    (configs / "mine").mkdir()
    with pytest.raises(UserError, match="mine: exists; choose another name"):
        new_preset(configs, "some/student")


def test_competition_problems_get_longer_rows(configs: Path, tmp_path: Path):
    student = stand_in(tmp_path / "student", "qwen2.5")
    config = student / "config.json"
    config.write_text(config.read_text("utf-8").replace("1024", "4096"), encoding="utf-8")
    preset = new_preset(configs, student, "some/teacher", "--data", "math", "math500")
    assert train_values(preset)["cutoff_len"] == 2048
    assert yaml.safe_load((preset / "filter.yaml").read_text(encoding="utf-8"))["max_tokens"] == 2048


@pytest.mark.slow
def test_a_student_that_thinks_is_two_keys_away(configs: Path, tmp_path: Path):
    preset = new_preset(configs, stand_in(tmp_path / "student", "qwen3"))
    for file, old, new in (
        ("train.yaml", "enable_thinking: false", "enable_thinking: true"),
        ("infer.yaml", "base_model:", "thinking: true\nbase_model:"),
    ):
        text = (preset / file).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (preset / file).write_text(text.replace(old, new), encoding="utf-8")
    write_sets(tmp_path / "run", THOUGHT)
    assert script("check_training", preset, "--methods", "distilled", "--run", tmp_path / "run") == 0


def test_prepared_problems_are_measured(configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    student = stand_in(tmp_path / "student", "qwen2.5")
    monkeypatch.chdir(tmp_path)
    write_rows(
        tmp_path / "data/gsm8k/train.jsonl", [problem(n, solution=f"{n}+1={n + 1} apples. " * 40) for n in range(3)]
    )
    preset = new_preset(configs, student)
    assert "gold rows have not been measured" not in (text := (preset / "train.yaml").read_text(encoding="utf-8"))
    assert "the longest gold row has " in text
