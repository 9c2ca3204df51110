"""The parity gate: what LLaMA-Factory trains on, token by token, against what inference serves.

The commonest silent failure of distillation is a student that is trained on one prompt and served another, on answers
that were cut, or without an end-of-turn token. Every row of a method's training set goes through LLaMA-Factory's own
loader, converter, template and processor; what comes out is compared with the prompt of cotkit/generation/prompts.py by the chat
template of the model, and with the row as it was written.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read
from cotkit.generation import prompts
from cotkit.generation.chat_model import encode, load_tokenizer, turn_end_ids
from cotkit.generation.types import Request, Sampling
from cotkit.training.config import TrainConfig

IGNORED = -100  # the label of a token that is not trained on, in transformers and LLaMA-Factory
UNCUT = 1 << 30  # a cutoff_len that cuts nothing
AROUND = 12  # tokens shown on each side of a difference
PAIRS = ("chosen", "rejected")


@dataclass(frozen=True)
class Finding:
    """Something that would be trained otherwise than it is served: in which row, and the line to change."""

    row: str
    what: str
    change: str

    def __str__(self) -> str:
        return f"{self.row}: {self.what}\n    change {self.change}"


@dataclass
class ParityReport:
    """What was compared for one method; the first findings of each kind."""

    rows: int = 0
    longest: int = 0
    trained_tokens: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass
class Trained:
    """One sequence as LLaMA-Factory would train it, and its row as it was written."""

    where: str
    row: Row
    example: Row
    answer: str
    ids: list[int]
    labels: list[int]

    @cached_property
    def start(self) -> int:
        """Number of tokens before the first that is trained on."""
        return next((index for index, label in enumerate(self.labels) if label != IGNORED), len(self.labels))


class Gate:
    """LLaMA-Factory's tokenizer, template and arguments for one method, and the tokenizer that inference loads."""

    def __init__(self, config: TrainConfig, thinking: bool) -> None:
        os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
        from llamafactory.data import get_template_and_fix_tokenizer
        from llamafactory.data.template import TEMPLATES
        from llamafactory.hparams import get_train_args
        from transformers.utils import logging

        logging.set_verbosity_error()
        self.config, self.thinking = config, thinking
        self.pairwise = config.values["stage"] == "dpo"
        values = {
            **config.llamafactory(),
            **dict.fromkeys(("bf16", "fp16"), False),
            "report_to": "none",
            "overwrite_output_dir": True,
            "preprocessing_num_workers": None,
        }
        for engine in ("deepspeed", "fsdp", "fsdp_config"):
            values.pop(engine, None)
        try:
            self.model_args, self.data_args, self.training_args, *_ = get_train_args(values)
        except ValueError as error:
            raise UserError(f"{config.path}: LLaMA-Factory refuses it: {error}") from None
        self.cutoff = self.data_args.cutoff_len
        self.data_args.cutoff_len = UNCUT
        self.serving = _tokenizer(config.values["model_name_or_path"])
        self.training = copy.deepcopy(self.serving)
        shared = TEMPLATES[self.data_args.template]
        before = dict(vars(shared))
        self.template = copy.copy(get_template_and_fix_tokenizer(self.training, self.data_args))
        vars(shared).update(before)  # LLaMA-Factory has written this method's settings into it

    @cached_property
    def stops(self) -> set[int]:
        """The ids at which inference ends a turn."""
        from transformers import GenerationConfig

        try:
            own = GenerationConfig.from_pretrained(self.config.values["model_name_or_path"])
        except OSError:  # a model need not have one
            own = GenerationConfig()
        return turn_end_ids(self.serving, own)

    def served(self, row: Row) -> list[int]:
        """The ids of the prompt that inference would write for the question of a training row."""
        question = row["instruction"].removesuffix("\n\n" + prompts.INSTRUCTION)
        return encode(self.serving, prompts.student_messages(question), self.thinking)

    def sequences(self, name: str) -> Iterator[Trained | Finding]:
        """Every row of a training set as it would be trained, or why it would not be."""
        from llamafactory.data.processor import PairwiseDatasetProcessor, SupervisedDatasetProcessor

        kind = PairwiseDatasetProcessor if self.pairwise else SupervisedDatasetProcessor
        processor = kind(template=self.template, tokenizer=self.training, processor=None, data_args=self.data_args)
        written = read(self.config.datasets()[name])
        with tempfile.TemporaryDirectory() as cache_dir:
            examples = self._load(name, cache_dir)
            for number, row in enumerate(written, 1):
                where = f"{name} row {number}"
                if number > len(examples):
                    yield Finding(
                        where, f"is not loaded: only {len(examples)} rows are", self.config.where("max_samples")
                    )
                    return
                example = examples[number - 1]
                made = processor.preprocess_dataset({key: [value] for key, value in example.items()})
                yield from self._pieces(where, row, example, made)

    def _load(self, name: str, cache_dir: str) -> Any:
        """The rows as LLaMA-Factory's loader and converter give them."""
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

    def _pieces(self, where: str, row: Row, example: Row, made: Row) -> Iterator[Trained | Finding]:
        """The sequences of one row: one, or two for a pair."""
        prefixes = [f"{half}_" for half in PAIRS] if self.pairwise else [""]
        if not made.get(f"{prefixes[0]}input_ids"):
            fields = " and ".join(PAIRS) if self.pairwise else "output"
            yield Finding(
                where, f"is dropped by LLaMA-Factory: {fields} must be a text", f"{self._file(where)}: that row"
            )
            return
        for prefix in prefixes:
            answer = row[prefix.rstrip("_") or "output"]
            ids, labels = made[f"{prefix}input_ids"][0], made[f"{prefix}labels"][0]
            yield Trained(f"{where} {prefix.rstrip('_')}".strip(), row, example, answer, list(ids), list(labels))

    def _file(self, where: str) -> str:
        return str(self.config.datasets()[where.split(" ")[0]])


@cache
def _tokenizer(model: str) -> Any:
    return load_tokenizer(model)


def check_method(config: TrainConfig, thinking: bool) -> ParityReport:
    """Compares every row of a method's training sets. At most one finding of each kind is kept.

    Raises UserError where LLaMA-Factory refuses the YAML or cannot load a set.
    """
    gate, report, kinds = Gate(config, thinking), ParityReport(), set()
    found = list(check_stops(gate))
    for name in str(config.values["dataset"]).replace(" ", "").split(","):
        for piece in gate.sequences(name):
            if isinstance(piece, Trained):
                report.rows += not piece.where.endswith(PAIRS[1])
                report.longest = max(report.longest, len(piece.ids))
                report.trained_tokens += len(piece.ids) - piece.start
                found += check_sequence(gate, piece)
            else:
                found.append(piece)
    for finding in found:
        kind = finding.change
        if kind not in kinds:
            kinds.add(kind)
            report.findings.append(finding)
    return report


def check_stops(gate: Gate) -> Iterator[Finding]:
    """The tokens that the template ends a turn with are among those at which inference stops."""
    for token in set(gate.template.get_stop_token_ids(gate.training)) - gate.stops:
        text = gate.training.convert_ids_to_tokens(token)
        yield Finding(
            "every row",
            f"{text!r} ends a turn in training, but inference does not stop at it",
            gate.config.where("template"),
        )


def check_sequence(gate: Gate, piece: Trained) -> Iterator[Finding]:
    """All that can be wrong with one row; what follows from an earlier finding is left out."""
    if len(piece.ids) > gate.cutoff:
        yield Finding(
            piece.where,
            f"has {len(piece.ids)} tokens, cutoff_len {gate.cutoff} would cut its end off",
            f"{gate.config.where('cutoff_len')} (and max_tokens in filter.yaml)",
        )
    if not piece.answer.strip():
        yield Finding(piece.where, "its answer is empty", f"{gate.config.datasets()[piece.where.split()[0]]}: that row")
        return
    if piece.start == 0:
        yield Finding(
            piece.where, "its prompt is trained on, not only the answer", gate.config.where("train_on_prompt")
        )
        return
    if piece.labels[piece.start :] != piece.ids[piece.start :]:
        yield Finding(piece.where, "a part of its answer is not trained on", gate.config.where("mask_history"))
    yield from check_prompt(gate, piece)
    yield from check_answer(gate, piece)


def check_prompt(gate: Gate, piece: Trained) -> Iterator[Finding]:
    """The prompt's ids are those that inference would write."""
    trained, served = piece.ids[: piece.start], gate.served(piece.row)
    if trained != served:
        what = "its training prompt is not the served prompt\n" + first_difference(gate.serving, trained, served)
        yield Finding(piece.where, what, line_of_prompt(gate, piece, trained, served))


def line_of_prompt(gate: Gate, piece: Trained, trained: list[int], served: list[int]) -> str:
    """Where a difference of prompts comes from: the index of the sets, the rows' wording, thinking, or the template."""
    row, user = piece.row, piece.example["_prompt"][-1]["content"]
    if (piece.example["_system"] or "") != row["system"] or not user.startswith(row["instruction"]):
        return (
            f"{gate.config.values['dataset_dir']}/dataset_info.json: `columns` must name all of system, prompt, query"
        )
    again = "filter again (bash scripts/pipeline.sh PRESET --from filter)"
    if row["system"] != prompts.SYSTEM:
        return f"the rows' system prompt, which is not SYSTEM of cotkit/generation/prompts.py: {again}"
    if row["input"] or not row["instruction"].endswith(prompts.INSTRUCTION):
        return f"the rows' wording, which is not that of cotkit/generation/prompts.py: {again}"
    common = len(os.path.commonprefix([trained, served]))
    rest = gate.serving.decode(trained[common:] + served[common:])
    if common >= min(len(trained), len(served)) and "think>" in rest:
        return f"{gate.config.where('enable_thinking')} or {gate.config.where('template')}; inference has thinking: {gate.thinking}"
    return gate.config.where("template")


def check_answer(gate: Gate, piece: Trained) -> Iterator[Finding]:
    """The trained answer is the row's, whole, with its think blocks, and ends the turn."""
    tokenizer, ids = gate.serving, piece.ids[piece.start :]
    text = tokenizer.decode(ids)
    expected = tokenizer.decode(tokenizer(piece.answer, add_special_tokens=False)["input_ids"])
    invented, deleted = ("<think>" in text) > ("<think>" in expected), ("<think>" in text) < ("<think>" in expected)
    if invented or deleted:
        what = "a think block that the row does not have is trained on" if invented else "its think block is deleted"
        advice = "set it to false" if invented else "set it to true"
        yield Finding(
            piece.where,
            f"{what}\n    trained {text[:60]!r}\n    row     {piece.answer[:60]!r}",
            f"{gate.config.where('enable_thinking')}: {advice}, or another template",
        )
    elif not text.startswith(expected):
        yield Finding(
            piece.where,
            f"another answer is trained on\n    trained {text[:60]!r}\n    row     {expected[:60]!r}",
            gate.config.where("template"),
        )
    last = next((token for token in reversed(ids) if tokenizer.decode([token]).strip()), None)
    if last not in gate.stops:
        end = tokenizer.decode(ids[-AROUND:])
        yield Finding(
            piece.where,
            f"the last trained token is no end of turn: ...{end!r}, inference would not stop",
            gate.config.where("template"),
        )


def first_difference(tokenizer: Any, trained: Sequence[int], served: Sequence[int]) -> str:
    """Both sides around the first token that differs, as text."""
    at = len(os.path.commonprefix([list(trained), list(served)]))
    sides = [tokenizer.decode(list(side[max(0, at - AROUND) : at + AROUND])) for side in (trained, served)]
    return f"    from token {at} on: trained {sides[0]!r}\n    {' ' * len(f'from token {at} on:')} served  {sides[1]!r}"


QUESTION = "Tom has 3 apples and buys 4 more. How many apples does he have?"
NEW_TOKENS = 48


def compare(model_name: str, adapter: Path) -> str | None:
    """What is wrong with an adapter, or None.

    Its tokenizer, which training saved, must write the served prompt and end turns where inference stops; attached to
    the base model it must write the text that inference writes with its weights merged (greedy, float32).
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from cotkit.generation.backends.continuous_batching import Decoder

    messages = prompts.student_messages(QUESTION)
    serving, saved = load_tokenizer(model_name), load_tokenizer(str(adapter))
    if encode(serving, messages, False) != encode(saved, messages, False):
        return f"writes another prompt by its own tokenizer, {adapter}/chat_template.jinja, than the base model's"
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32).eval()
    if saved.eos_token_id not in turn_end_ids(serving, model.generation_config):
        return f"ends turns with {saved.eos_token!r}, at which inference does not stop"
    attached = PeftModel.from_pretrained(model, str(adapter)).eval()
    texts = []
    for variant in (lambda: attached, attached.merge_and_unload):
        backend = Decoder(variant(), serving, Sampling(NEW_TOKENS), batch_size=1, batch_tokens=1, seed=0)
        [(_, completion)] = backend.generate([Request("probe", 0, messages)])
        texts.append(completion.text)
    if texts[0] != texts[1]:
        return f"and merged weights write different texts:\n    adapter {texts[0]!r}\n    merged  {texts[1]!r}"
    return None
