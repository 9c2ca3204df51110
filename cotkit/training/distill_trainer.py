"""The distillation stage: a `transformers.Trainer` whose loss is the distance to a teacher's distribution.

Once per optimizer step the rows of all its batches are fetched. The student of that moment writes new answers for the
share `on_policy` of them, by the project's own generation, with seeds that depend on row and step. Student and teacher
then read the same answers, each after its own prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from cotkit.core.datasets import AnswerKind
from cotkit.core.errors import UserError
from cotkit.generation.backends.continuous_batching import Decoder
from cotkit.generation.backends.transformers_backend import default_batch_tokens
from cotkit.generation.chat_model import load_model, merge_adapter
from cotkit.generation.prompts import Message
from cotkit.generation.types import Completion, Request, Sampling
from cotkit.grading.grader import Item, grade
from cotkit.grading.normalize import plain_number
from cotkit.training.config import PROGRESS, START, DistillOptions
from cotkit.training.distill_data import DistillRow, TeacherSide
from cotkit.training.distill_loss import ChunkedLoss, Objective

STUDENT, TEACHER = "default", "teacher"  # adapters; the first name is the one that peft and LLaMA-Factory give
WINDOW = 5  # steps whose samples are compared with those of the first steps
GROWTH = 2.0  # growing length is the first sign of a student that collapses
SUMS = ("divergence", "trained_tokens", "samples", "sampled_tokens", "truncated", "correct")


class StepsLine(TrainerCallback):
    """Prints how many steps there will be, as LLaMA-Factory's trainings do; scripts/internal/train_lines.py reads it."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            print(f"Total optimization steps = {state.max_steps:,}", flush=True)


class Teacher:
    """A frozen model: one of its own, or the student's model with another adapter or with none."""

    def __init__(self, student: Any, side: TeacherSide, start: str | None, dtype: torch.dtype) -> None:
        self.model, self.adapter, self.is_model = student, None, side.is_model
        if side.is_model:
            self.model = load_model(side.model, side.adapter, dtype, student.device)
            self.model.requires_grad_(False).eval()
        elif path := start if side.options.teacher == START else side.adapter:
            student.load_adapter(path, TEACHER, is_trainable=False)
            student.set_adapter(STUDENT)
            self.adapter = TEACHER

    @contextmanager
    def active(self) -> Iterator[Any]:
        """The model as the teacher, without gradients; afterwards it is the student again."""
        training = self.model.training
        with torch.no_grad():
            if self.is_model:
                yield self.model
                return
            self.model.eval()
            try:
                if self.adapter is None:
                    with self.model.disable_adapter():
                        yield self.model
                else:
                    self.model.set_adapter(self.adapter)
                    yield self.model
            finally:
                self.model.set_adapter(STUDENT)
                self.model.train(training)


def states(model: Module, head: Module, batch: dict[str, Tensor]) -> Tensor:
    """What `head` makes the scores of all completion tokens from, of shape (tokens, width).

    The model's own pass applies its head to one column only: the scores of all columns would not fit into memory.
    """
    caught: list[Tensor] = []

    def catch(_: Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        caught.append(inputs[0])
        return (inputs[0][:, :1],)

    handle = head.register_forward_pre_hook(catch)
    try:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    finally:
        handle.remove()
    return caught[0][batch["predicts"]]


def check_head(model: Any, what: str) -> None:
    """Raises UserError if a model changes the scores after its head, as soft-capping does: `states` would miss that."""
    ids = torch.arange(1, 5, device=model.device)[None]
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "predicts": torch.ones_like(ids, dtype=torch.bool),
    }
    head = model.get_output_embeddings()
    with torch.no_grad():
        ours = head(states(model, head, batch)).float()
        theirs = model(input_ids=ids, use_cache=False).logits[0].float()
    if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2):
        raise UserError(f"{what}: its scores are not those of its last layer (soft-capping?); distil another model")


def batch_of(prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> dict[str, Tensor]:
    """Rows padded on the right, each of shape (rows, columns); `predicts` marks the columns before completion tokens."""
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    shape = (len(rows), max(map(len, rows)))
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    predicts = torch.zeros(shape, dtype=torch.bool)
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
        predicts[number, len(prompt) - 1 : len(row) - 1] = True
    return {"input_ids": ids, "attention_mask": mask, "predicts": predicts}


def collate(rows: Sequence[DistillRow]) -> dict[str, Any]:
    completions = [row.completion for row in rows]
    return {
        **batch_of([row.prompt for row in rows], completions),
        "teacher": batch_of([row.teacher_prompt for row in rows], completions),
        "targets": torch.tensor([token for completion in completions for token in completion], dtype=torch.long),
    }


def by_length(rows: Sequence[DistillRow], batch: int) -> LengthGroupedSampler:
    """The library's sampler; it cannot tell the lengths of these rows by itself."""
    return LengthGroupedSampler(batch, lengths=[len(row.prompt) + len(row.completion) for row in rows])


def is_correct(row: DistillRow, completion: Completion) -> bool:
    """Whether a completion's answer is the gold answer of its row. A training row does not say what kind its answer has:
    one that is a plain number is graded as a number, every other as a formula."""
    kind: AnswerKind = "number" if plain_number(row.gold, True) else "latex"
    return grade(Item(row.where, kind, row.gold, completion.response, completion.finish_reason)).verdict == "correct"


class DistillTrainer(Trainer):
    """Trains the adapter `STUDENT` of a peft model towards a teacher."""

    def __init__(
        self, side: TeacherSide, teacher: Teacher, options: DistillOptions, thinking: bool, **arguments: Any
    ) -> None:
        super().__init__(data_collator=list, **arguments)
        self.side, self.teacher, self.options, self.thinking = side, teacher, options, thinking
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of the optimizer step
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        objective = {key: getattr(options, key) for key in ("kl", "jsd_beta", "kl_clip", "temperature", "kd_weight")}
        self.loss = ChunkedLoss(Objective(**objective, shared_ids=side.shared), vocabulary)
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64)  # of this process since the last log

    @property
    def progress(self) -> dict[str, Any]:
        return self.state.stateful_callbacks.setdefault(
            PROGRESS, {"trained_tokens": 0, "generated_tokens": 0, "lengths": [], "truncated": []}
        )

    def decoding_student(self) -> Any:
        """The student of this moment, to write samples with.

        It is a copy with the adapter merged into its weights, in the type in which it computes. This decodes faster:
        weights beside an adapter are converted and multiplied apart for every token. A student that is quantized, or for
        whose copy there is no memory, decodes as it is.
        """
        if getattr(self.model, "is_quantized", False):
            return self.model
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)
        try:
            return merge_adapter(deepcopy(self.model)).to(dtype)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return self.model

    def answer(
        self, model: Any, tokenizer: Any, chats: Sequence[list[Message]], sample: int, names: Sequence[str], heat: float
    ) -> list[Completion]:
        """Completions of chats in their order. The random numbers of each depend on the seed, its name and `sample`."""
        sampling = Sampling(self.options.max_new_tokens, heat, thinking=self.thinking)
        requests = [Request(name, sample, chat) for name, chat in zip(names, chats, strict=True)]
        training = model.training
        model.eval()
        decoder = Decoder(model, tokenizer, sampling, len(requests), default_batch_tokens(model), seed=self.args.seed)
        with self.accelerator.autocast():
            done = {request.key: completion for request, completion in decoder.generate(requests)}
        model.train(training)
        failed = next((one.error for one in done.values() if one.error), None)
        if failed:
            raise UserError(f"a question cannot be answered: {failed}; lower max_new_tokens")
        return [done[request.key] for request in requests]

    def accuracy(self, rows: Sequence[DistillRow], of_teacher: bool) -> float:
        """The share of questions that student or teacher answers right, greedily; the teacher reads its own prompts."""
        names = [row.where for row in rows]
        if of_teacher:
            chats = [row.teacher_messages for row in rows]
            with self.teacher.active() as model:
                done = self.answer(model, self.side.tokenizer, chats, 0, names, 0.0)
        else:
            student, chats = self.decoding_student(), [row.messages for row in rows]
            done = self.answer(student, self.processing_class, chats, 0, names, 0.0)
        return fmean(is_correct(row, one) for row, one in zip(rows, done, strict=True))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return by_length(self.train_dataset, self.args.train_batch_size * self.args.gradient_accumulation_steps)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        return by_length(eval_dataset, self.args.eval_batch_size)

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[DistillRow]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """The batches of one optimizer step, and the number of completion tokens in those of all processes."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if self.options.on_policy:
            batches = self._with_samples(batches)
        tokens = torch.tensor(sum(len(row.completion) for batch in batches for row in batch), device=device)
        tokens = self.accelerator.gather(tokens).sum()
        self.progress["trained_tokens"] += int(tokens)
        return [collate(batch) for batch in batches], tokens

    def _with_samples(self, batches: list[list[DistillRow]]) -> list[list[DistillRow]]:
        """The batches with new completions by the student for the rows whose turn it is."""
        step, tokenizer = self.state.global_step, self.processing_class
        rows = [row for batch in batches for row in batch if self._is_sampled(row, step)]
        names, chats = [row.where for row in rows], [row.messages for row in rows]
        heat = self.options.sample_temperature
        done = self.answer(self.decoding_student(), tokenizer, chats, step, names, heat) if rows else []
        sampled = {}
        for row, completion in zip(rows, done, strict=True):
            ids = tokenizer(completion.text, add_special_tokens=False)["input_ids"]
            ids = ids if completion.finish_reason == "length" else [*ids, row.completion[-1]]
            sampled[row.where] = replace(row, completion=[token for token in ids if token < self.side.shared])
        counts = torch.tensor(
            [
                len(done),
                sum(one.completion_tokens for one in done),
                sum(one.finish_reason == "length" for one in done),
                sum(is_correct(row, one) for row, one in zip(rows, done, strict=True)),
            ]
        )
        self.sums[2:] += counts
        self._watch(*self.accelerator.gather(counts.to(self.args.device)[None]).sum(0).tolist())
        return [[sampled.get(row.where, row) for row in batch] for batch in batches]

    def _is_sampled(self, row: DistillRow, step: int) -> bool:
        return Random(f"{self.args.seed} {row.where} {step}").random() < self.options.on_policy

    def _watch(self, samples: int, tokens: int, truncated: int, _: int) -> None:
        """Records a step's samples. Raises UserError once they show that the student collapses."""
        if not samples:
            return
        progress = self.progress
        progress["generated_tokens"] += tokens
        progress["lengths"].append(tokens / samples)
        progress["truncated"].append(truncated / samples)
        if len(progress["lengths"]) < WINDOW:
            return
        first, last = fmean(progress["lengths"][:WINDOW]), fmean(progress["lengths"][-WINDOW:])
        share, bound = fmean(progress["truncated"][-WINDOW:]), self.options.max_truncated
        remedy = "lower learning_rate, or set kl_clip; --overwrite trains anew"
        step = f"stopped before step {self.state.global_step + 1}"
        if last > GROWTH * first:
            raise UserError(
                f"{step}: the student's samples grew from {first:.0f} to {last:.0f} tokens, so it collapses; {remedy}"
            )
        if share > bound:
            raise UserError(
                f"{step}: {share:.0%} of the student's samples are truncated at {self.options.max_new_tokens} tokens, "
                f"more than max_truncated {bound:g} allows; start from a trained method (start_from), or {remedy}"
            )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """The loss of one batch: its sum over tokens, divided by all tokens of the optimizer step."""
        head, targets = self.model.get_output_embeddings(), inputs["targets"]
        with self.accelerator.autocast():
            with self.teacher.active() as teacher:
                theirs = states(teacher, teacher.get_output_embeddings(), inputs["teacher"])
            loss, divergence = self.loss(
                states(model, head, inputs), head, targets, lambda part: self._scores(theirs[part])
            )
        self.sums[0] += divergence.item()
        self.sums[1] += len(targets)
        # Processes average their gradients, so each one's share of the sum is multiplied by their number.
        return loss * self.accelerator.num_processes / num_items_in_batch

    def _scores(self, teacher_states: Tensor) -> Tensor:
        with self.teacher.active() as teacher:
            return teacher.get_output_embeddings()(teacher_states)

    def prediction_step(self, model: Any, inputs: list[DistillRow], *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """The mean cross entropy of a batch of held-out rows, as in the other methods, so that losses compare."""
        batch = self._prepare_inputs(collate(inputs))
        head = self.model.get_output_embeddings()
        with torch.no_grad(), self.accelerator.autocast():
            loss, _ = self.loss(states(model, head, batch), head, batch["targets"], None)
        return loss / len(batch["targets"]), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was measured since the last log, over all processes."""
        if "loss" in logs:
            sums = self.accelerator.gather(self.sums.to(self.args.device, torch.float32)[None]).sum(0).tolist()
            measured = dict(zip(SUMS, sums, strict=True))
            self.sums.zero_()
            logs["divergence"] = measured["divergence"] / max(1, measured["trained_tokens"])
            if samples := measured["samples"]:
                for key in ("sampled_tokens", "truncated", "correct"):
                    logs[f"samples/{key}"] = measured[key] / samples
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Saves the student's adapter alone, as LLaMA-Factory does; a second adapter would be saved beside it."""
        folder = output_dir or self.args.output_dir
        self.model.save_pretrained(folder, selected_adapters=[STUDENT])
        self.processing_class.save_pretrained(folder)
