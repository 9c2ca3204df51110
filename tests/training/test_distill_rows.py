"""The rows of the distillation stage: tokenizers of student and teacher, and what the teacher reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import make_tokenizer
from training import distill_tools
from training.distill_tools import THINKING, Write, model_folder, trainer_of

from cotkit.core.errors import UserError
from cotkit.generation import prompts
from cotkit.training import distill_data
from cotkit.training.config import read_config
from cotkit.training.distill_data import TeacherSide, shared_ids
from cotkit.training.preflight import distill_options

folder, write = distill_tools.folder, distill_tools.write


def side_of(path: Path) -> TeacherSide:
    from cotkit.training.prompt_parity import ParityGate

    config = read_config(path, [])
    return TeacherSide(config, distill_options(config), ParityGate(config, False).serving)


@pytest.mark.slow
def test_special_tokens_after_all_others_may_differ(write: Write, tiny_model: Path, tmp_path: Path):
    side = side_of(write(teacher=str(model_folder(tmp_path / "m", more_tokens=("<think>", "</think>")))))
    own = side_of(write(teacher="start"))
    assert side.is_model
    assert not own.is_model
    assert side.shared == own.shared < len(side.tokenizer)


@pytest.mark.slow
def test_other_differences_of_tokenizers_are_refused_with_their_number_and_an_example(write: Write, tmp_path: Path):
    from transformers import AutoTokenizer

    config = read_config(write(), [])
    student = AutoTokenizer.from_pretrained(config.values["model_name_or_path"])
    file = make_tokenizer(tmp_path / "t") and tmp_path / "t/tokenizer.json"
    usual = json.loads(file.read_text(encoding="utf-8"))

    changed = json.loads(json.dumps(usual))
    names = {number: token for token, number in changed["model"]["vocab"].items()}
    changed["model"]["vocab"] |= {names[300]: 301, names[301]: 300}
    file.write_text(json.dumps(changed), encoding="utf-8")
    says = f"ids differ, for example id 300 is {names[300]!r} for the student and {names[301]!r} for the teacher"
    with pytest.raises(UserError, match=r"not the student's: \d+ " + re.escape(says)):
        shared_ids(student, AutoTokenizer.from_pretrained(tmp_path / "t"), config.where("teacher"))

    changed = json.loads(json.dumps(usual))
    changed["model"]["merges"] = changed["model"]["merges"][::-1]
    file.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match=r"they split 'You are .*' differently; take a teacher of its family"):
        shared_ids(student, AutoTokenizer.from_pretrained(tmp_path / "t"), config.where("teacher"))


@pytest.mark.slow
def test_a_teacher_reads_its_own_template_without_a_think_block_in_the_answer(write: Write, tmp_path: Path):
    teacher = model_folder(tmp_path / "m", THINKING, ("<think>", "</think>"))
    trainer = trainer_of(write(teacher=str(teacher)))
    row = trainer.train_dataset[0]
    assert trainer.side.tokenizer.decode(row.teacher_prompt) == (
        trainer.processing_class.decode(row.prompt) + "<think>\n\n</think>\n\n"
    )
    assert "think" not in trainer.side.tokenizer.decode(row.completion)
    assert distill_data.teacher_findings(read_config(write(teacher=str(teacher)), []), thinking=False) == []
    [finding] = distill_data.teacher_findings(read_config(write(teacher=str(teacher)), []), thinking=True)
    assert "its answer has no think block, but the teacher's template is used with thinking: True" in finding.what
    assert finding.change.endswith(f"`teacher: {teacher}`")


@pytest.mark.slow
def test_a_teacher_with_the_reference_finds_it_in_the_students_own_prompt(write: Write):
    trainer = trainer_of(write(teacher_reads="reference"))
    row = trainer.train_dataset[3]
    own, read = (trainer.processing_class.decode(ids) for ids in (row.prompt, row.teacher_prompt))
    before, _, after = read.partition(f"\n\n{prompts.REFERENCE}\n3+1=4...\n#### 4")
    assert before + after == own


@pytest.mark.slow
def test_a_placebo_is_the_solution_of_the_next_other_question(write: Write):
    trainer = trainer_of(write(teacher_reads="other_reference"))
    rows = trainer.train_dataset
    for row, other in ((rows[3], rows[4]), (rows[len(rows) - 1], rows[0])):
        own, read = (trainer.processing_class.decode(ids) for ids in (row.prompt, row.teacher_prompt))
        before, _, after = read.partition(
            f"\n\n{prompts.REFERENCE}\n{trainer.processing_class.decode(other.completion[:-1])}"
        )
        assert before + after == own
        assert row.gold not in ("", other.gold)
