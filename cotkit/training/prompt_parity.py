"""The parity gate: compares, token by token, what LLaMA-Factory trains with what inference serves.

Distillation fails silently when a student is trained on one prompt and served another, on truncated answers, or without
an end-of-turn token. The gate sends every row of a method's training sets through LLaMA-Factory's own loader,
converter, template and processor. It compares the prompt with the one that inference writes by the model's chat
template, and the answer with the row as it was written.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cotkit.core import think_marks
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read
from cotkit.generation import prompts
from cotkit.generation.chat_model import encode, load_generation_config, load_tokenizer, turn_end_ids
from cotkit.training.config import TrainConfig
from cotkit.training.preflight import parse_arguments

IGNORED = -100  # the label of a token that is not trained on, in transformers and LLaMA-Factory
NO_CUTOFF = 1 << 30  # a cutoff_len that truncates nothing
CONTEXT = 12  # tokens shown on each side of a difference
PAIR_FIELDS = ("chosen", "rejected")


@dataclass(frozen=True)
class Finding:
    """A difference between training and serving: the row, what differs, and what to change."""

    row: str
    what: str
    change: str

    def __str__(self) -> str:
        return f"{self.row}: {self.what}\n    change {self.change}"


@dataclass
class ParityReport:
    """What was compared for one method, and the first finding of each kind."""

    rows: int = 0
    longest: int = 0  # tokens
    trained_tokens: int = 0  # in one pass over the sets
    findings: list[Finding] = field(default_factory=list)


@dataclass
class TrainedSequence:
    """One sequence of token ids and labels as LLaMA-Factory would train it, with the row that it comes from."""

    where: str  # set, row number and, for a pair, the field
    path: Path
    row: Row
    converted: Row  # the row after LLaMA-Factory's converter
    answer: str
    ids: list[int]
    labels: list[int]

    @cached_property
    def start(self) -> int:
        """Number of tokens before the first one that is trained on."""
        return next((index for index, label in enumerate(self.labels) if label != IGNORED), len(self.labels))


class ParityGate:
    """Holds LLaMA-Factory's tokenizer, template and arguments for one method, and the tokenizer of inference."""

    def __init__(self, config: TrainConfig, thinking: bool) -> None:
        from llamafactory.data import get_template_and_fix_tokenizer
        from llamafactory.data.template import TEMPLATES

        self.config, self.thinking = config, thinking
        self.pairwise = config.values["stage"] == "dpo"
        self.model_args, self.data_args, self.training_args, *_ = parse_arguments(config)
        self.cutoff = self.data_args.cutoff_len
        self.data_args.cutoff_len = NO_CUTOFF
        model = config.values["model_name_or_path"]
        self.serving = load_tokenizer(model)
        self.training = copy.deepcopy(self.serving)
        shared = TEMPLATES[self.data_args.template]
        before = dict(vars(shared))
        self.template = copy.copy(get_template_and_fix_tokenizer(self.training, self.data_args))
        vars(shared).update(before)  # LLaMA-Factory writes this method's settings into the shared template
        self.stops = turn_end_ids(self.serving, load_generation_config(model))  # at which inference ends a turn

    def served_prompt(self, row: Row) -> list[int]:
        """The ids of the prompt that inference would write for the question of a training row."""
        question = row["instruction"].removesuffix("\n\n" + prompts.INSTRUCTION)
        return encode(self.serving, prompts.student_messages(question), self.thinking)

    def sequences(self, name: str, path: Path) -> Iterator[TrainedSequence | Finding]:
        """Every row of a training set as it would be trained, or the reason why it would not be."""
        from llamafactory.data.processor import PairwiseDatasetProcessor, SupervisedDatasetProcessor

        kind = PairwiseDatasetProcessor if self.pairwise else SupervisedDatasetProcessor
        processor = kind(template=self.template, tokenizer=self.training, processor=None, data_args=self.data_args)
        fields = {f"{half}_": half for half in PAIR_FIELDS} if self.pairwise else {"": "output"}
        with tempfile.TemporaryDirectory() as cache_dir:
            loaded = self._load(name, cache_dir)
            for number, row in enumerate(read(path), 1):
                where = f"{name} row {number}"
                if number > len(loaded):
                    what = f"is not loaded: only {len(loaded)} rows are"
                    yield Finding(where, what, self.config.where("max_samples"))
                    return
                converted = loaded[number - 1]
                made = processor.preprocess_dataset({key: [value] for key, value in converted.items()})
                for prefix, answer in fields.items():
                    if not made.get(f"{prefix}input_ids"):
                        what = f"is dropped by LLaMA-Factory: {' and '.join(fields.values())} must be a text"
                        yield Finding(where, what, f"{path}: that row")
                        break
                    ids, labels = made[f"{prefix}input_ids"][0], made[f"{prefix}labels"][0]
                    place = f"{where} {answer}" if self.pairwise else where
                    yield TrainedSequence(place, path, row, converted, row[answer], list(ids), list(labels))

    def _load(self, name: str, cache_dir: str) -> Any:
        """The rows of a set as LLaMA-Factory's loader and converter give them."""
        import datasets
        from llamafactory.data.loader import _get_merged_dataset

        datasets.disable_progress_bars()
        self.model_args.cache_dir = cache_dir
        stage = "rm" if self.pairwise else "sft"
        try:
            return _get_merged_dataset([name], self.model_args, self.data_args, self.training_args, stage)
        except (ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{self.config.where('dataset')}: LLaMA-Factory cannot load {name}: {reason}") from None


def check_method(config: TrainConfig, thinking: bool) -> ParityReport:
    """Compares every row of a method's training sets. Keeps the first finding for each thing to change.

    Raises UserError where LLaMA-Factory refuses the configuration or cannot load a set.
    """
    gate, report = ParityGate(config, thinking), ParityReport()
    found = list(check_stops(gate))
    for name, path in config.training_files().items():
        for sequence in gate.sequences(name, path):
            if isinstance(sequence, Finding):
                found.append(sequence)
                continue
            report.rows += not sequence.where.endswith(PAIR_FIELDS[1])
            report.longest = max(report.longest, len(sequence.ids))
            report.trained_tokens += len(sequence.ids) - sequence.start
            found += check_sequence(gate, sequence)
    for finding in found:
        if finding.change not in {kept.change for kept in report.findings}:
            report.findings.append(finding)
    return report


def check_stops(gate: ParityGate) -> Iterator[Finding]:
    """Inference must stop at every token with which the template ends a turn."""
    for token in set(gate.template.get_stop_token_ids(gate.training)) - gate.stops:
        text = gate.training.convert_ids_to_tokens(token)
        what = f"{text!r} ends a turn in training, but inference does not stop at it"
        yield Finding("every row", what, gate.config.where("template"))


def check_sequence(gate: ParityGate, sequence: TrainedSequence) -> Iterator[Finding]:
    """All that is wrong with one sequence, without what only follows from an earlier finding."""
    where, config = sequence.where, gate.config
    if len(sequence.ids) > gate.cutoff:
        what = f"has {len(sequence.ids)} tokens, so cutoff_len {gate.cutoff} would truncate it"
        yield Finding(where, what, f"{config.where('cutoff_len')} (and max_tokens in filter.yaml)")
    if not sequence.answer.strip():
        yield Finding(where, "its answer is empty", f"{sequence.path}: that row")
        return
    if sequence.start == 0:
        yield Finding(where, "its prompt is trained on, not only the answer", config.where("train_on_prompt"))
        return
    if sequence.labels[sequence.start :] != sequence.ids[sequence.start :]:
        yield Finding(where, "a part of its answer is not trained on", config.where("mask_history"))
    yield from check_prompt(gate, sequence)
    yield from check_answer(gate, sequence)


def check_prompt(gate: ParityGate, sequence: TrainedSequence) -> Iterator[Finding]:
    """The prompt's ids must be those that inference would write."""
    trained, served = sequence.ids[: sequence.start], gate.served_prompt(sequence.row)
    if trained == served:
        return
    at = len(os.path.commonprefix([trained, served]))
    shown = [gate.serving.decode(side[max(0, at - CONTEXT) : at + CONTEXT]) for side in (trained, served)]
    place = f"from token {at} on:"
    what = (
        f"its training prompt is not the served prompt\n    {place} trained {shown[0]!r}\n"
        f"    {' ' * len(place)} served  {shown[1]!r}"
    )
    yield Finding(sequence.where, what, cause_of_difference(gate, sequence, trained, served))


def cause_of_difference(gate: ParityGate, sequence: TrainedSequence, trained: list[int], served: list[int]) -> str:
    """What to change where the prompts differ: the index of the sets, the rows' wording, thinking, or the template."""
    row, config, user = sequence.row, gate.config, sequence.converted["_prompt"][-1]["content"]
    if (sequence.converted["_system"] or "") != row["system"] or not user.startswith(row["instruction"]):
        return f"{config.values['dataset_dir']}/dataset_info.json: `columns` must name all of system, prompt, query"
    rerun = "run the filter again (bash scripts/pipeline.sh PRESET --from filter)"
    if row["system"] != prompts.SYSTEM:
        return f"the rows' system prompt, which is not SYSTEM of cotkit/generation/prompts.py: {rerun}"
    if row["input"] or not row["instruction"].endswith(prompts.INSTRUCTION):
        return f"the rows' wording, which is not that of cotkit/generation/prompts.py: {rerun}"
    common = len(os.path.commonprefix([trained, served]))
    rest = gate.serving.decode(trained[common:] + served[common:])
    if common >= min(len(trained), len(served)) and think_marks.MARK.search(rest):
        keys = f"{config.where('enable_thinking')} or {config.where('template')}"
        return f"{keys}; inference has thinking: {gate.thinking}"
    return config.where("template")


def check_answer(gate: ParityGate, sequence: TrainedSequence) -> Iterator[Finding]:
    """The trained answer must be the complete answer of the row, with its think blocks, and end the turn."""
    tokenizer, ids = gate.serving, sequence.ids[sequence.start :]
    text = tokenizer.decode(ids)
    expected = tokenizer.decode(tokenizer(sequence.answer, add_special_tokens=False)["input_ids"])
    shown = f"\n    trained {text[:60]!r}\n    row     {expected[:60]!r}"
    template, enable_thinking = gate.config.where("template"), gate.config.where("enable_thinking")
    trained, wanted = (sum(not mark.closes for mark in think_marks.marks(each)) for each in (text, expected))
    if trained > wanted:
        what = f"a think block that the row does not have is trained on{shown}"
        yield Finding(sequence.where, what, f"{enable_thinking}: set it to false, or take another template")
    elif trained < wanted:
        change = f"{enable_thinking}: set it to true, or take another template"
        yield Finding(sequence.where, f"its think block is deleted{shown}", change)
    elif not text.startswith(expected):
        yield Finding(sequence.where, f"another answer is trained on{shown}", template)
    last = next((token for token in reversed(ids) if tokenizer.decode([token]).strip()), None)
    if last not in gate.stops:
        end = tokenizer.decode(ids[-CONTEXT:])
        what = f"the last trained token does not end the turn: ...{end!r}, so inference would not stop"
        yield Finding(sequence.where, what, template)
