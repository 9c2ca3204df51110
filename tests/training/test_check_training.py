"""The parity gate: every preset and method passes; each planted defect is named with its row and the line to change.

The hub's tokenizers cannot be had here, so small ones with the chat formats of Qwen2 and Qwen3 stand in for them.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CHATML, ROOT, make_tokenizer

from cotkit.core.errors import UserError
from cotkit.filtering.options import unfillable_sets
from cotkit.filtering.training_sets import write_dataset_info, write_training_set
from cotkit.generation import prompts
from cotkit.training import prompt_parity
from cotkit.training.config import methods_of, read_config

pytestmark = pytest.mark.slow

PRESETS = sorted(path.parent.name for path in ROOT.glob("configs/*/train.yaml"))
# Qwen3's format: with thinking off, the model's turn begins with an empty think block.
QWEN3 = CHATML.replace(
    "assistant\n' }}{% endif %}",
    "assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
)
SETS = (
    "gold",
    "gold_split",
    "teacher_raw",
    "distilled",
    "complete",
    "aligned",
    "rejection_sampled",
    "mixed",
    "gold_dev",
)
THOUGHT = "<think>\nThree and four.\n</think>\n\n"
# Methods with training sets of their own, in <run>/datasets/<method>: of the solutions of their `gold_path`, or the teacher's
# of their `questions_path`.
OWN_SETS = {"expert": ("expert", "gold_dev"), "more_questions": ("more_questions", "gold_dev")}


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("qwen2"), CHATML)


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("qwen3"), QWEN3, "<think>", "</think>")


def stand_in(folder: Path, chat_template: str, *more_tokens: str) -> Path:
    """A folder with a tokenizer and the little of a model's configuration that is looked at."""
    tokenizer = make_tokenizer(folder)
    tokenizer.add_tokens(list(more_tokens))
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    return folder


def write_sets(run: Path, thought: str = "") -> None:
    """Small training sets of a run, with every name that the shipped presets know."""
    rows = [
        prompts.training_row(f"What is {n} + 4? Use {{x}}.", f"{thought}{n}+4={n + 4}\n#### {n + 4}") for n in range(5)
    ]
    for training_set in SETS:
        write_training_set(run / "datasets", training_set, rows)
    pairs = [
        {
            **{key: row[key] for key in ("system", "instruction", "input")},
            "chosen": row["output"],
            "rejected": "7\n#### 7",
        }
        for row in rows
    ]
    write_training_set(run / "datasets", "preference", pairs, ranking=True)
    write_dataset_info(run / "datasets", {**dict.fromkeys(SETS, False), "preference": True})
    for method, sets in OWN_SETS.items():
        for training_set in sets:
            write_training_set(run / "datasets" / method, training_set, rows)
        write_dataset_info(run / "datasets" / method, dict.fromkeys(sets, False))


class Preset:
    """A copy of a shipped preset with its own small training sets."""

    def __init__(self, folder: Path, name: str, model: Path, thought: str = "", teacher: Path | None = None) -> None:
        self.folder, self.run = folder / "configs" / name, folder / "run"
        shutil.copytree(ROOT / "configs" / name, self.folder)
        self.change("train.yaml", model_name_or_path=str(model))
        for path in self.folder.glob("train/*.yaml"):  # a teacher from the hub cannot be had here
            if "/" in str(yaml.safe_load(path.read_text(encoding="utf-8")).get("teacher", "")):
                self.change(f"train/{path.name}", teacher=str(teacher or model))
        write_sets(self.run, thought)

    def change(self, file: str, **values: Any) -> None:
        """Sets keys of a YAML of the preset; None removes one."""
        path = self.folder / file
        now = {**yaml.safe_load(path.read_text(encoding="utf-8")), **values}
        path.write_text(
            yaml.safe_dump({key: value for key, value in now.items() if value is not None}), encoding="utf-8"
        )

    def rewrite_row(self, number: int, **fields: Any) -> None:
        """Changes a row of the set `distilled` as other hands would."""
        path = self.run / "datasets/distilled.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows[number - 1].update(fields)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def check(self, *words: str) -> int:
        script = runpy.run_path(str(ROOT / "scripts/check_training.py"), run_name="check_training")
        return script["main"]([str(self.folder), "--run", str(self.run), *words])


@pytest.mark.parametrize("name", PRESETS)
def test_every_method_of_every_preset_trains_what_is_served(
    name: str, qwen2: Path, qwen3: Path, tmp_path: Path, capsys: Any
):
    preset = Preset(tmp_path, name, qwen2, teacher=qwen3)
    assert preset.check() == 0
    output = capsys.readouterr().out
    methods = {path.stem for path in methods_of(preset.folder, "all", unfillable_sets(preset.folder))}
    assert {line.split(":")[0] for line in output.splitlines()} == methods
    assert output.count("5 rows load") == len(methods)
    assert output.count("are what inference serves") == len(methods)


@pytest.mark.parametrize(("template", "thinking"), [("qwen3", True), ("qwen3", False), ("qwen3_nothink", True)])
def test_the_gate_knows_which_ways_of_thinking_fit(template: str, thinking: bool, qwen3: Path, tmp_path: Path):
    """Thought rows with thinking on, plain rows with thinking off; qwen3_nothink trains any row as it is."""
    preset = Preset(tmp_path, "smollm2_cpu", qwen3, THOUGHT if thinking else "")
    preset.change("train.yaml", template=template, enable_thinking=thinking)
    preset.change("infer.yaml", thinking=thinking)
    assert preset.check("--methods", "distilled") == 0


def cutoff_too_short(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    preset.change("train.yaml", cutoff_len=60)


def system_prompt_changed_on_one_side(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prompts, "SYSTEM", "You are a careful tutor.")


def instruction_changed_on_one_side(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    preset.rewrite_row(3, instruction="What is 2 + 4? Think.")


def input_joined_to_the_instruction(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    preset.rewrite_row(2, input="Think first.")


def system_column_lost(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    path = preset.run / "datasets/dataset_info.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    del index["distilled"]["columns"]["system"]
    path.write_text(json.dumps(index), encoding="utf-8")


def row_without_a_text(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    preset.rewrite_row(4, output=None)


def row_with_an_empty_answer(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    preset.rewrite_row(5, output="")


def rows_left_out(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    preset.change("train.yaml", max_samples=3)


def prompt_trained_on(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    preset.change("train.yaml", train_on_prompt=True)


def end_of_turn_missing(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    from llamafactory.data.formatter import StringFormatter
    from llamafactory.data.template import TEMPLATES

    patch.setattr(TEMPLATES["qwen"], "format_assistant", StringFormatter(slots=["{{content}}"]))


def ends_at_a_token_that_inference_does_not_know(preset: Preset, patch: pytest.MonkeyPatch) -> None:
    from llamafactory.data.template import TEMPLATES

    patch.setattr(TEMPLATES["qwen"], "stop_words", ["<|im_end|>", "<|done|>"])


DEFECTS: list[tuple[Callable[[Preset, pytest.MonkeyPatch], None], str]] = [
    (
        cutoff_too_short,
        r"distilled row 1: has \d+ tokens, so cutoff_len 60 would truncate it\n    change \S+train.yaml:\d+: `cutoff_len: 60`",
    ),
    (
        system_prompt_changed_on_one_side,
        (
            r"row 1: its training prompt is not the served prompt\n    from token \d+ on: trained '.*math tutor.*'\n"
            r" +served  '.*careful tutor.*'\n    change the rows' system prompt"
        ),
    ),
    (
        instruction_changed_on_one_side,
        r"row 3: its training prompt is not the served prompt\n(.*\n){2}    change the rows' wording",
    ),
    (
        input_joined_to_the_instruction,
        r"row 2: .*\n    from token \d+ on: trained '.*Think first.*'\n.*\n    change the rows' wording",
    ),
    (system_column_lost, r"row 1: .*\n(.*\n){2}    change \S+dataset_info.json: `columns` must name all"),
    (row_without_a_text, r"row 4: is dropped by LLaMA-Factory: output must be a text\n    change \S+distilled.jsonl"),
    (row_with_an_empty_answer, r"row 5: its answer is empty\n    change \S+distilled.jsonl"),
    (rows_left_out, r"row 4: is not loaded: only 3 rows are\n    change \S+train.yaml:\d+: `max_samples: 3`"),
    (
        prompt_trained_on,
        r"row 1: its prompt is trained on, not only the answer\n    change \S+train.yaml:\d+: `train_on_prompt: True`",
    ),
    (
        end_of_turn_missing,
        r"row 1: the last trained token does not end the turn: \.\.\.'.*4', so inference would not stop\n    change \S+ `template: qwen`",
    ),
    (
        ends_at_a_token_that_inference_does_not_know,
        r"'<\|done\|>' ends a turn in training, but inference does not stop at it",
    ),
]


@pytest.mark.parametrize(("plant", "says"), DEFECTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_defect_is_named_with_its_row_and_the_line_to_change(
    plant: Callable[[Preset, pytest.MonkeyPatch], None],
    says: str,
    qwen2: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
):
    preset = Preset(tmp_path, "smollm2_cpu", qwen2)
    plant(preset, monkeypatch)
    with pytest.raises(UserError, match="1 of 1 checks failed"):
        preset.check("--methods", "distilled")
    output = capsys.readouterr().out
    assert re.search(says, output), output
    assert "NOT as served" in output


def test_a_wrong_template_is_named_at_once_and_by_the_gate(qwen2: Path, tmp_path: Path):
    preset = Preset(tmp_path, "smollm2_cpu", qwen2)
    preset.change("train.yaml", template="ernie")  # ChatML with one newline more
    with pytest.raises(UserError, match=r"`template: ernie`: does not fit .* fitting are .*qwen"):
        preset.check("--methods", "distilled")
    report = prompt_parity.check_method(
        read_config(preset.folder / "train/distilled.yaml", [], preset.run), thinking=False
    )
    [finding] = report.findings
    assert finding.row == "distilled row 1"
    assert "its training prompt is not the served prompt\n    from token" in finding.what
    assert finding.change.endswith("`template: ernie`")


@pytest.mark.parametrize(
    ("thought", "enable_thinking", "says"),
    [
        (
            THOUGHT,
            False,
            r"row 1: its think block is deleted\n    trained '3\+|row 1: its think block is deleted\n    trained '0\+",
        ),
        ("", True, r"row 1: a think block that the row does not have is trained on\n    trained '<think>"),
    ],
    ids=["deleted", "invented"],
)
def test_think_blocks_are_neither_deleted_nor_invented(
    thought: str, enable_thinking: bool, says: str, qwen3: Path, tmp_path: Path, capsys: Any
):
    preset = Preset(tmp_path, "smollm2_cpu", qwen3, thought)
    preset.change("train.yaml", template="qwen3", enable_thinking=enable_thinking)
    preset.change("infer.yaml", thinking=bool(thought))
    with pytest.raises(UserError, match="1 of 1 checks failed"):
        preset.check("--methods", "distilled")
    output = capsys.readouterr().out
    assert re.search(says, output), output
    assert re.search(r"change \S+train.yaml:\d+: `enable_thinking: ", output), output


def test_the_gate_checks_the_teachers_side(qwen2: Path, qwen3: Path, tmp_path: Path, capsys: Any):
    """A teacher with another template passes; one that would read a think block where the answer has none does not."""
    preset = Preset(tmp_path, "qwen2_1.5b_tuned", qwen2, teacher=qwen3)
    assert preset.check("--methods", "distilled,logit_kd,on_policy") == 0
    preset.change("infer.yaml", thinking=True)
    with pytest.raises(UserError, match="1 of 2 checks failed"):
        preset.check("--methods", "distilled,logit_kd")
    output = capsys.readouterr().out
    assert "its answer has no think block, but the teacher's template is used with thinking: True" in output
    assert re.search(r"change \S+train/logit_kd.yaml:\d+: `teacher: ", output), output


def test_a_set_that_cannot_be_loaded_is_refused_in_one_line(qwen2: Path, tmp_path: Path):
    preset = Preset(tmp_path, "smollm2_cpu", qwen2)
    preset.change("train/dpo.yaml", dataset="distilled")
    with pytest.raises(
        UserError, match=r"`dataset: distilled`: LLaMA-Factory cannot load distilled: The dataset is not applicable"
    ):
        preset.check("--methods", "distilled,dpo")


@pytest.mark.slow
def test_an_adapter_and_its_merged_weights_write_the_same(
    tiny_model: Path, tiny_adapter: Path, tmp_path: Path, capsys: Any
):
    preset = Preset(tmp_path, "smollm2_cpu", tiny_model)
    output = preset.run / "train/distilled"
    shutil.copytree(tiny_adapter, output)
    make_tokenizer(output)
    assert preset.check("--methods", "distilled", "--adapter") == 0
    assert "attached and merged it writes the same text" in capsys.readouterr().out
    (output / "chat_template.jinja").write_text(CHATML.replace("assistant", "model"), encoding="utf-8")
    with pytest.raises(UserError, match="1 of 2 checks failed"):
        preset.check("--methods", "distilled", "--adapter")
    assert "chat_template.jinja) writes another prompt" in capsys.readouterr().out
