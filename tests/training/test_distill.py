"""The distillation stage on a tiny model: teachers, samples, gradients, resuming."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from training import distill_tools
from training.distill_tools import Write, model_folder, script, trainer_of

from cotkit.core.errors import UserError
from cotkit.generation import prompts
from cotkit.generation.chat_model import encode
from cotkit.generation.types import Completion
from cotkit.training import distill_trainer
from cotkit.training.adapter_parity import adapter_problem
from cotkit.training.config import read_config

folder, write = distill_tools.folder, distill_tools.write


def gradients(trainer: Any, per_batch: int, rows: list[Any]) -> list[torch.Tensor]:
    """The gradients of one optimizer step over rows in batches of so many."""
    batches = [rows[at : at + per_batch] for at in range(0, len(rows), per_batch)]
    inputs, tokens = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
    trainer.model.zero_grad()
    for batch in inputs:
        trainer.training_step(trainer.model, batch, tokens)
    return [weight.grad.clone() for weight in trainer.model.parameters() if weight.requires_grad]


def move_adapter(model: Any) -> None:
    """A new adapter changes nothing, since its second matrix is zero."""
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights.data, std=0.1)


def step_losses(output: Path) -> list[float]:
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("kl", ["forward", "reverse", "jsd"])
def test_the_start_of_the_student_teaches_it_nothing(write: Write, kl: str):
    trainer = trainer_of(write(kl=kl))
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients(trainer, 4, trainer.train_dataset[:8]))
    assert trainer.sums[0].abs() < 1e-5
    assert trainer.sums[1] == sum(len(row.completion) for row in trainer.train_dataset[:8])


@pytest.mark.slow
@pytest.mark.parametrize("on_policy", [0.0, 0.5])
def test_gradients_do_not_depend_on_how_rows_are_batched(write: Write, tiny_adapter: Path, on_policy: float):
    """Rows of unequal prompts and answers, padded together or alone, in one batch or in eight."""
    trainer = trainer_of(write(teacher=str(tiny_adapter), on_policy=on_policy, kl="jsd"))
    rows = trainer.train_dataset[:8]
    assert len({len(row.prompt) for row in rows}) > 1
    expected = gradients(trainer, 8, rows)
    assert max(gradient.abs().max() for gradient in expected) > 1e-4
    for per_batch in (1, 2, 3, 4):
        for ours, theirs in zip(gradients(trainer, per_batch, rows), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    one, other = gradients(trainer, 8, rows[:4]), gradients(trainer, 8, rows[4:])
    tokens = [sum(len(row.completion) for row in part) for part in (rows[:4], rows[4:])]
    if not on_policy:  # a token counts the same in whatever row it is
        for mean, left, right in zip(expected, one, other, strict=True):
            weighted = (left * tokens[0] + right * tokens[1]) / sum(tokens)
            torch.testing.assert_close(weighted, mean, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_the_end_of_the_turn_is_trained_although_the_padding_is_eos(write: Write, tiny_model: Path):
    trainer = trainer_of(write(eval_dataset="gold_dev"))
    tokenizer = trainer.processing_class
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    rows = trainer.train_dataset[:4]
    batch = distill_trainer.collate(rows)
    assert int(batch["predicts"].sum()) == int(batch["teacher"]["predicts"].sum()) == len(batch["targets"])
    assert (batch["targets"] == end).sum() == len(rows)
    for number, row in enumerate(rows):
        assert tokenizer.decode(row.completion).endswith(f"#### {row.gold}<|im_end|>")
        at = batch["predicts"][number].nonzero().flatten()
        assert batch["input_ids"][number, at + 1].tolist() == row.completion
        assert row.prompt == encode(tokenizer, row.messages, False)
    assert trainer.eval_dataset[0].completion == [*rows[0].completion, *tokenizer("\n")["input_ids"]]


@pytest.mark.slow
def test_the_states_of_padded_rows_are_those_of_rows_alone(write: Write):
    trainer = trainer_of(write())
    model, rows = trainer.model.eval(), trainer.train_dataset[:5]
    head = model.get_output_embeddings()
    together = distill_trainer.states(model, head, distill_trainer.collate(rows))
    alone = torch.cat([distill_trainer.states(model, head, distill_trainer.collate([row])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    row = rows[0]
    scores = model(input_ids=torch.tensor([row.prompt + row.completion])).logits[0, len(row.prompt) - 1 : -1]
    torch.testing.assert_close(head(together[: len(row.completion)]), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_teacher_beside_the_student_stays_frozen_and_out_of_the_adapter(
    write: Write, tiny_adapter: Path, tmp_path: Path
):
    trainer = trainer_of(write(teacher=str(tiny_adapter)))
    weights = dict(trainer.model.named_parameters())
    trained = {name for name, weight in weights.items() if weight.requires_grad}
    assert trained
    assert all(".default." in name for name in trained)
    gradients(trainer, 4, trainer.train_dataset[:4])
    assert trained == {name for name, weight in weights.items() if weight.requires_grad}
    assert all(weight.grad is None for name, weight in weights.items() if name not in trained)
    trainer.save_model(str(tmp_path))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert {name.split(".lora_")[0] for name in load_file(tmp_path / "adapter_model.safetensors")} == {
        name.split(".lora_")[0] for name in trained
    }


@pytest.mark.slow
@pytest.mark.parametrize("start", [False, True], ids=["from the model", "from a method"])
def test_each_teacher_has_its_own_distribution(write: Write, tiny_adapter: Path, tmp_path: Path, start: bool):
    """The start stays what it was while the student moves, an adapter is another one, and a model another still."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    begin = {"adapter_name_or_path": str(tiny_adapter), "lora_rank": 4} if start else {}
    path = write(teacher="start", **begin)
    model = read_config(path, []).values["model_name_or_path"]
    expected = AutoModelForCausalLM.from_pretrained(model)
    if start:
        expected = PeftModel.from_pretrained(expected, tiny_adapter)
    trainer = trainer_of(path)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if ".default." in name:
                weight += 0.5
    rows = trainer.train_dataset[:3]
    ids = torch.tensor([rows[0].prompt])
    with trainer.teacher.active() as teacher:
        found = teacher(input_ids=ids).logits
    torch.testing.assert_close(found, expected.eval()(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, trainer.model(input_ids=ids).logits, atol=1e-2)
    other = trainer_of(write(teacher=str(model_folder(tmp_path / "other"))))
    assert other.teacher.model is not other.model
    assert 256 < other.side.shared < other.teacher.model.config.vocab_size


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_gradient(write: Write, tiny_adapter: Path):
    """The pass is repeated after the teacher has had its turn, so the student's adapter must be active again."""
    found = []
    for disabled in (True, False):
        torch.manual_seed(0)
        trainer = trainer_of(write(teacher=str(tiny_adapter), disable_gradient_checkpointing=disabled))
        found.append(gradients(trainer, 4, trainer.train_dataset[:4]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_trained_head_learns_from_every_chunk_and_is_not_the_teachers(write: Write):
    """As in the tuned Qwen preset: embeddings and head are trained whole, beside the adapter."""
    trainer = trainer_of(write(additional_target="embed_tokens,lm_head"))
    trainer.loss.chunk = 7
    rows = trainer.train_dataset[:4]
    weights = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    head = next(weight for name, weight in weights.items() if "lm_head" in name)
    with torch.no_grad():
        head += 0.1 * torch.randn(head.shape, generator=torch.Generator().manual_seed(0))
    gradients(trainer, 4, rows)
    assert head.grad.abs().max() > 1e-4
    assert trainer.sums[0] > 0  # the start of the student still has the untrained head
    before = head.grad.clone()
    trainer.loss.chunk = 1000
    gradients(trainer, 2, rows)
    torch.testing.assert_close(head.grad, before, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_samples_are_those_of_the_projects_own_generation(write: Write):
    """By the student of that moment; the random numbers depend on row and step, not on the batch."""
    trainer = trainer_of(write(on_policy=1.0))
    move_adapter(trainer.model)
    rows, tokenizer = trainer.train_dataset[:6], trainer.processing_class
    [batch] = trainer._with_samples([rows])
    for row, sampled in zip(rows, batch, strict=True):
        [completion] = trainer.answer(trainer.model, tokenizer, [row.messages], 0, [row.where], 1.0)
        ids = tokenizer(completion.text, add_special_tokens=False)["input_ids"]
        assert sampled.completion == (ids if completion.finish_reason == "length" else [*ids, row.completion[-1]])
        assert (sampled.prompt, sampled.teacher_prompt) == (row.prompt, row.teacher_prompt)
    halves = trainer._with_samples([rows[3:], rows[:3]])
    assert [row.completion for half in (halves[1], halves[0]) for row in half] == [row.completion for row in batch]
    trainer.state.global_step = 1
    [later] = trainer._with_samples([rows])
    assert [row.completion for row in later] != [row.completion for row in batch]
    assert trainer.model.training


@pytest.mark.slow
def test_the_copy_that_decodes_is_the_student_of_this_moment(write: Write, monkeypatch: pytest.MonkeyPatch):
    trainer = trainer_of(write(on_policy=1.0))
    ids = torch.arange(1, 9)[None]
    untrained = trainer.model(input_ids=ids).logits
    move_adapter(trainer.model)
    before = {name: weights.clone() for name, weights in trainer.model.state_dict().items()}
    copy = trainer.decoding_student()
    assert not isinstance(copy, type(trainer.model)) and copy.dtype == torch.float32
    expected = trainer.model(input_ids=ids).logits
    assert torch.allclose(copy(input_ids=ids).logits, expected, atol=1e-5)
    assert not torch.allclose(untrained, expected, atol=1e-2)
    after = trainer.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)

    monkeypatch.setattr(type(trainer.accelerator), "mixed_precision", "bf16")
    assert trainer.decoding_student().dtype == torch.bfloat16
    assert trainer.model.dtype == torch.float32

    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(trainer.model), "merge_and_unload", no_memory, raising=False)
    assert trainer.decoding_student() is trainer.model


@pytest.mark.slow
def test_a_share_of_the_rows_is_sampled(write: Write):
    trainer = trainer_of(write(on_policy=0.5))
    chosen = [[trainer._is_sampled(row, step) for row in trainer.train_dataset] for step in range(40)]
    share = sum(map(sum, chosen)) / (40 * len(trainer.train_dataset))
    assert 0.42 < share < 0.58
    assert len({tuple(one) for one in chosen}) == 40
    trainer.options = replace(trainer.options, on_policy=1.0)
    assert all(trainer._is_sampled(row, 3) for row in trainer.train_dataset)


@pytest.mark.slow
def test_a_student_that_collapses_is_stopped_with_a_sentence(write: Write):
    trainer = trainer_of(write(on_policy=1.0, max_truncated=0.5))
    for length in (10, 12, 11, 9, 10, 13, 18, 22):
        trainer._watch(4, 4 * length, 0, 0)
    assert trainer.progress["generated_tokens"] == 4 * 105
    with pytest.raises(UserError, match=r"grew from 10 to 2\d tokens, so it collapses; lower learning_rate"):
        for length in (30, 38):
            trainer._watch(4, 4 * length, 0, 0)
    trainer.state.stateful_callbacks = {}
    with pytest.raises(UserError, match=r"step 1: 60% of the student's samples are truncated at 12 tokens, more than"):
        for truncated in (2, 2, 2, 2, 4):
            trainer._watch(4, 40, truncated, 0)


@pytest.mark.slow
def test_a_teacher_that_is_no_better_is_warned_of(write: Write, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    trainer = trainer_of(write(eval_dataset="gold_dev", teacher_reads="reference"))
    right = {"student": 3, "teacher": 9}

    def answers(model: Any, tokenizer: Any, chats: Any, *_: Any) -> list[Completion]:
        reads_solution = prompts.REFERENCE in chats[0][1]["content"]
        number = right["teacher" if reads_solution else "student"]
        texts = [f"#### {row.gold}" if at < number else "#### 99999" for at, row in enumerate(trainer.eval_dataset)]
        return [Completion(text, "stop", 1, 1) for text in texts]

    monkeypatch.setattr(trainer, "answer", answers)
    measure = script()["measure"]
    assert measure(trainer) == {"student_accuracy": 3 / 16, "teacher_accuracy": 9 / 16}
    printed = capsys.readouterr().out
    assert "accuracy on 16 held-out questions: student 18.8%, teacher 56.2% with the reference solution" in printed
    assert "warning" not in printed
    right["teacher"] = 3
    measure(trainer)
    assert "warning: the teacher is no better than the student (18.8% against 18.8% of 16" in capsys.readouterr().out


def train(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["bash", "scripts/train.sh", str(path), *words],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return done


# Runs scripts/distill.py and kills it with SIGKILL after its fifth step.
KILLED = """
import os, runpy, signal, sys
from llamafactory.train.callbacks import LogCallback
usual = LogCallback.on_step_end
def on_step_end(self, args, state, control, **more):
    usual(self, args, state, control, **more)
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
LogCallback.on_step_end = on_step_end
sys.argv = ["scripts/distill.py", *sys.argv[1:]]
runpy.run_path("scripts/distill.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_killed_training_ends_as_an_undisturbed_one(write: Write, tiny_model: Path, tiny_adapter: Path, folder: Path):
    """The same steps, samples, counts and weights; the adapter is one that inference takes."""
    keys = {"teacher": str(tiny_adapter), "on_policy": 0.5, "eval_dataset": "gold_dev"}
    outputs = []
    for name in ("undisturbed", "killed"):
        path = write(name, **keys)
        output = folder / "out put" / name
        outputs.append(output)
        if name == "killed":
            record = [sys.executable, "scripts/internal/train_record.py", "begin", str(path)]
            assert subprocess.run(record, check=False, cwd=ROOT, capture_output=True).returncode == 4
            words = [sys.executable, "-c", KILLED, f"{output}.yaml"]
            assert subprocess.run(words, check=False, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
            assert (output / "checkpoint-4").is_dir()
            assert "resuming from checkpoint-4" in train(path).stdout
        else:
            words = [sys.executable, "scripts/internal/train_lines.py"]
            shown = subprocess.run(
                words, check=True, cwd=ROOT, capture_output=True, text=True, input=train(path).stdout
            )
            assert re.search(r"step 8 of 8, loss", shown.stdout), shown.stdout
    plain, killed = (json.loads(Path(f"{output}.manifest.json").read_text(encoding="utf-8")) for output in outputs)
    assert plain["status"] == killed["status"] == "done"
    for key in ("steps", "rows", "trained_tokens", "generated_tokens", "student_accuracy", "teacher_accuracy"):
        assert plain["counts"][key] == killed["counts"][key]
    assert plain["counts"]["steps"] == 8
    assert plain["counts"]["generated_tokens"] > 0
    assert plain["losses"] == killed["losses"]
    states = [json.loads((output / "trainer_state.json").read_text(encoding="utf-8")) for output in outputs]
    assert states[0]["stateful_callbacks"]["distill"] == states[1]["stateful_callbacks"]["distill"]
    assert len(states[0]["stateful_callbacks"]["distill"]["lengths"]) == 8
    weights = [load_file(output / "adapter_model.safetensors") for output in outputs]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert adapter_problem(str(tiny_model), outputs[0]) is None
    assert "trained already" in train(write("killed", **keys)).stdout


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    write: Write, tiny_adapter: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    counts = []
    for processes in ("1", "2"):
        monkeypatch.setenv("NPROC", processes)
        train(write(f"with {processes}", teacher=str(tiny_adapter), on_policy=0.5, kl="reverse"))
        output = folder / "out put" / f"with {processes}"
        counts.append(json.loads(Path(f"{output}.manifest.json").read_text(encoding="utf-8"))["counts"])
        losses = step_losses(output)
        weights = load_file(output / "adapter_model.safetensors")
        if processes == "1":
            first = losses, weights
    assert losses == pytest.approx(first[0], rel=1e-3)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, first[1][name], rtol=1e-2, atol=1e-4)
    for key in ("steps", "trained_tokens", "generated_tokens"):
        assert counts[0][key] == counts[1][key]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["random", "group_by_length"])
def test_a_student_comes_nearer_to_its_teacher(write: Write, tiny_adapter: Path, sampling: str):
    keys = {"num_train_epochs": 4, "save_strategy": "no", "eval_dataset": "gold_dev", "eval_strategy": "epoch"}
    trainer = trainer_of(write("near", teacher=str(tiny_adapter), train_sampling_strategy=sampling, **keys))
    trainer.train()
    assert sum("eval_loss" in entry for entry in trainer.state.log_history) == 4
    distances = [entry["divergence"] for entry in trainer.state.log_history if "divergence" in entry]
    assert sum(distances[-4:]) < 0.7 * sum(distances[:4])
