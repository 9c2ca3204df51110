"""The distillation stage on a tiny model: rows, teachers, samples, gradients, resuming, refusals."""

from __future__ import annotations

import json
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CHATML, ROOT, make_tokenizer
from safetensors.torch import load_file

from cotkit.core.errors import UserError
from cotkit.filtering.training_sets import write_dataset_info, write_training_set
from cotkit.generation import prompts
from cotkit.generation.chat_model import encode
from cotkit.generation.types import Completion
from cotkit.training import distill_data, distill_trainer, preflight
from cotkit.training.adapter_parity import adapter_problem
from cotkit.training.config import methods_of, read_config
from cotkit.training.distill_data import TeacherSide, shared_ids
from cotkit.training.preflight import distill_options

# Like Qwen3's: with thinking off, the model's turn begins with an empty think block.
THINKING = CHATML.replace(
    "assistant\n' }}{% endif %}",
    "assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
)

Write = Callable[..., Path]


def model_folder(folder: Path, chat_template: str = CHATML, more_tokens: tuple[str, ...] = (), seed: int = 1) -> Path:
    """A tiny random Qwen2 with other weights than the fixture's, and with more tokens."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer(folder)
    tokenizer.add_tokens(list(more_tokens))
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 24,  # as published models have it: more scores than tokens
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training sets whose prompts and answers have different lengths."""
    folder = tmp_path_factory.mktemp("distill")
    rows = [
        prompts.training_row(f"What is {n}+1{' and no more' * (n % 3)}?", f"{n}+1={n + 1}{'.' * (n % 5)}\n#### {n + 1}")
        for n in range(16)
    ]
    for name in ("gold", "gold_dev"):
        write_training_set(folder / "datasets", name, rows)
    write_dataset_info(folder / "datasets", {"gold": False, "gold_dev": False})
    return folder


@pytest.fixture(scope="module")
def write(folder: Path, tiny_model: Path) -> Write:
    """Writes the YAML of a distillation method that differs in the given keys from the usual one."""

    def writer(name: str = "kd", **changes: Any) -> Path:
        values = {
            "stage": "distill",
            "dataset": "gold",
            "teacher": "start",
            "dataset_dir": str(folder / "datasets"),
            "output_dir": str(folder / "out put" / name),
            "model_name_or_path": str(tiny_model),
            "template": "qwen",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_target": "all",
            "lora_rank": 8,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "save_strategy": "steps",
            "save_steps": 2,
            "logging_steps": 1,
            "report_to": "none",
            "disable_gradient_checkpointing": True,
            "max_new_tokens": 12,
            "max_truncated": 1.0,
            **changes,
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
        return path

    return writer


def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts/distill.py"), run_name="distill")


def trainer_of(path: Path) -> Any:
    trainer = script()["make_trainer"](read_config(path, []))
    trainer.state.stateful_callbacks = {}
    return trainer


def gradients(trainer: Any, per_batch: int, rows: list[Any]) -> list[torch.Tensor]:
    """The gradients of one optimizer step over rows in batches of so many."""
    batches = [rows[at : at + per_batch] for at in range(0, len(rows), per_batch)]
    inputs, tokens = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
    trainer.model.zero_grad()
    for batch in inputs:
        trainer.training_step(trainer.model, batch, tokens)
    return [weight.grad.clone() for weight in trainer.model.parameters() if weight.requires_grad]


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
            train(path)
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
        shared_ids(student, AutoTokenizer.from_pretrained(tmp_path / "t"), config)

    changed = json.loads(json.dumps(usual))
    changed["model"]["merges"] = changed["model"]["merges"][::-1]
    file.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match=r"they split 'You are .*' differently; take a teacher of its family"):
        shared_ids(student, AutoTokenizer.from_pretrained(tmp_path / "t"), config)


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teacher": None}, "key 'teacher' is missing"),
        ({"kl": "backward"}, "`kl: backward`: must be one of forward, reverse, jsd"),
        ({"kl": "revers"}, "did you mean 'reverse'?"),
        ({"teacher_reads": "solution"}, "must be one of student_prompt, reference"),
        ({"on_policy": 1.5}, "`on_policy: 1.5`: must be a number from 0 to 1"),
        ({"on_policy": True}, "must be a number from 0 to 1"),
        ({"temperature": 0}, "`temperature: 0`: must be a number from 0.01"),
        ({"kl_clip": -1}, "`kl_clip: -1`: must be a number"),
        ({"jsd_beta": 1}, "must be a number from 0.001 to 0.999"),
        ({"max_new_tokens": 2.5}, "must be a whole number"),
        ({"kd_weight": "half"}, "must be a number from 0 to 1"),
        ({"kd_weight": 0.5, "on_policy": 1}, "cross entropy on the student's own samples teaches nothing"),
        ({"finetuning_type": "full"}, "`stage: distill` trains adapters"),
        ({"deepspeed": "x.json"}, "`stage: distill` does not support it"),
        ({"teacher_read": "reference"}, "unknown key 'teacher_read'; did you mean 'teacher_reads'?"),
        ({"teacher": "no/such/folder"}, "`teacher: no/such/folder`: no/such/folder: no such model folder"),
        ({"teacher": "start", "teacher_adapter": "some/folder"}, "some/folder holds no adapter"),
        ({"start_from": "a/b", "adapter_name_or_path": "c/d"}, "start_from and adapter_name_or_path are the same"),
        ({"start_from": "a/b"}, "a/b holds no adapter; train that method first"),
    ],
)
def test_what_cannot_be_distilled_is_refused_before_a_model_is_loaded(write: Write, changes: dict[str, Any], says: str):
    with pytest.raises(UserError, match=re.escape(says)):
        script()["main"]([str(write("refused", **changes))])


def test_only_distillation_is_trained_by_this_script_and_only_it_has_a_teacher(write: Write):
    with pytest.raises(UserError, match="unknown key 'max_truncated'; it belongs to `stage: distill`"):
        preflight.check(read_config(write("refused", stage="sft"), []))
    with pytest.raises(UserError, match="only `stage: distill` is trained here; use scripts/train.sh"):
        script()["main"]([str(write("refused", stage="sft", teacher=None))])


def preset_of(folder: Path, methods: dict[str, dict[str, str]]) -> Path:
    (folder / "configs/mine/train").mkdir(parents=True)
    for name, values in methods.items():
        (folder / f"configs/mine/train/{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "configs/mine"


def test_a_method_is_trained_after_its_start_and_its_teacher(tmp_path: Path):
    preset = preset_of(
        tmp_path,
        {
            "a_pupil": {"start_from": "b_start", "teacher": "c_expert"},
            "b_start": {"start_from": "c_expert"},
            "c_expert": {},
            "d_alone": {"teacher": "start"},
        },
    )
    names = [path.stem for path in methods_of(preset)]
    assert sorted(names) == ["a_pupil", "b_start", "c_expert", "d_alone"]
    assert names.index("c_expert") < names.index("b_start") < names.index("a_pupil")
    with pytest.raises(UserError, match="starts from 'c_expert', which is not among the methods a_pupil, b_start"):
        methods_of(preset, "a_pupil,b_start")
    circle = preset_of(tmp_path / "circle", {"one": {"teacher": "two"}, "two": {"start_from": "one"}})
    with pytest.raises(UserError, match="one, two start from one another"):
        methods_of(circle)


def test_names_of_methods_become_adapters_of_the_run_and_of_the_seed(tmp_path: Path):
    common = {key: "x/y" for key in ("model_name_or_path", "dataset", "template")}
    values = {**common, "stage": "distill", "teacher": "expert", "start_from": "gold"}
    preset = preset_of(tmp_path, {"pupil": values, "expert": common, "gold": common})
    config = read_config(preset / "train/pupil.yaml", [], Path("some/run"), seed=2)
    assert config.values["teacher"] == "some/run/train/expert.seed2"
    assert config.values["adapter_name_or_path"] == "some/run/train/gold.seed2"
    own = read_config(preset / "train/pupil.yaml", ["teacher=start"], Path("some/run"), seed=2)
    assert own.values["teacher"] == "start"
    assert own.llamafactory()["stage"] == "sft"
    assert not {"teacher", "start_from"} & set(own.llamafactory())
    with pytest.raises(UserError, match="command line: teacher: no method 'expret'; did you mean 'expert'?"):
        read_config(preset / "train/pupil.yaml", ["teacher=expret"], Path("some/run"))
