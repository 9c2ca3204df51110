"""The rows of the distillation stage, and the teacher's side of the parity gate.

A row is a training row as LLaMA-Factory would train it, with a second prompt: the one after which the teacher reads the
same answer. The student learns the teacher's distribution at each token of the answer, so both must read the same ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read
from cotkit.generation import prompts
from cotkit.generation.chat_model import encode, load_generation_config, load_tokenizer, turn_end_ids
from cotkit.training.config import START, DistillOptions, TrainConfig
from cotkit.training.preflight import distill_options, teacher_adapter
from cotkit.training.prompt_parity import Finding, ParityGate, TrainedSequence, check_sequence

# Texts that tokenizers split differently: digits, white space, signs, LaTeX, other scripts, the project's own prompts.
PROBES = (
    prompts.SYSTEM,
    prompts.INSTRUCTION,
    prompts.EXAMPLE_REWRITE,
    "In 2024 she paid $1,234.50 for 12 boxes, i.e. 15% less.\n\n  Then 3.5*10^6 = 3500000\t(n/a).",
    r"\frac{1}{2}\sqrt{x^{2}+1} \le \boxed{\text{don't}} \\ \int_0^\infty",
    "naïve café, Größe, число, 数学の問題, 👍",
)


@dataclass(frozen=True)
class DistillRow:
    """One row: token ids, and what is needed to let a model answer its question.

    Attributes:
        where: set and row number; it names the row's random numbers.
        completion: ids of the answer with the token that ends the turn, the same for student and teacher.
        messages, teacher_messages: the chats of which the prompts are the ids.
        gold: the answer on the last line of the row's text.
    """

    where: str
    prompt: list[int]
    teacher_prompt: list[int]
    completion: list[int]
    messages: list[prompts.Message]
    teacher_messages: list[prompts.Message]
    gold: str


class TeacherSide:
    """The teacher's tokenizer and prompts.

    Attributes:
        adapter: the folder of the teacher's adapter, or None.
        is_model: the teacher is a model of its own, not the student's model with an adapter or as it is.
        shared: the first so many ids mean the same to student and teacher.

    Raises:
        UserError: the tokenizers differ in more than special tokens after all others.
    """

    def __init__(self, config: TrainConfig, options: DistillOptions, student: Any) -> None:
        self.config, self.options = config, options
        model = str(config.values["model_name_or_path"])
        self.adapter = teacher_adapter(config)
        self.is_model = options.teacher not in (START, model, self.adapter)
        self.model = options.teacher if self.is_model else model
        self.tokenizer = load_tokenizer(self.model) if self.is_model else student
        self.shared = shared_ids(student, self.tokenizer, config.where("teacher"))
        self.ends = turn_end_ids(self.tokenizer, load_generation_config(self.model))
        files = config.all_files().values() if options.teacher_reads == "other_reference" else ()
        self._others = {key: text for path in files for key, text in solutions_of_others(config, path).items()}

    def messages(self, row: Row) -> list[prompts.Message]:
        """The chat that the teacher reads for a training row."""
        question = question_of(row)
        match self.options.teacher_reads:
            case "reference":
                return prompts.reference_messages(question, row["output"])
            case "other_reference":
                return prompts.reference_messages(question, self._others[row["instruction"]])
        return prompts.student_messages(question)

    def problem(self, row: Row, completion: list[int], thinking: bool) -> str | None:
        """Why the teacher would read another answer than the student; None if both read the same."""
        answer, end = row["output"], completion[-1:]
        if self.is_model and self.tokenizer(answer, add_special_tokens=False)["input_ids"] != completion[:-1]:
            return "the teacher's tokenizer splits its answer into other tokens"
        if any(token >= self.shared for token in completion):
            return "its answer has a token that the teacher does not know"
        if not self.ends.issuperset(end):
            return f"{self.tokenizer.decode(end)!r} ends its answer, but not a turn of the teacher"
        chats = [prompts.render(self.tokenizer, self.messages(row), mode) for mode in (True, False)]
        if chats[0] != chats[1] and ("<think>" in answer) != thinking:
            kind = "has a" if "<think>" in answer else "has no"
            return f"its answer {kind} think block, but the teacher's template is used with thinking: {thinking}"
        return None


def solutions_of_others(config: TrainConfig, path: Path) -> dict[str, str]:
    """Instruction -> the solution of the next other question of a set, after the last of the first: a placebo.

    Raises UserError for a set with only one question.
    """
    outputs: dict[str, str] = {}
    for row in read(path):
        outputs.setdefault(row["instruction"], row["output"])
    if len(outputs) == 1:
        raise UserError(f"{config.where('teacher_reads')}: {path} has only one question, so there is no other solution")
    solutions = list(outputs.values())
    return dict(zip(outputs, [*solutions[1:], *solutions[:1]], strict=True))


def shared_ids(student: Any, teacher: Any, where: str) -> int:
    """How many ids, from 0 on, stand for the same token in both tokenizers.

    Raises UserError, with their number and an example, if other tokens differ than special ones after all others, or if
    the tokenizers split a text differently.
    """
    tokens = [{number: token for token, number in one.get_vocab().items()} for one in (student, teacher)]
    last = max(max(one) for one in tokens)
    shared = sum(1 for _ in takewhile(lambda number: tokens[0].get(number) == tokens[1].get(number), range(last + 1)))
    special = [one.added_tokens_decoder for one in (student, teacher)]
    differing = [
        number
        for number in range(shared, last + 1)
        if any(number in one and number not in known for one, known in zip(tokens, special, strict=True))
    ]
    place = f"{where}: its tokenizer is not the student's"
    if differing:
        names = [repr(one.get(differing[0], "nothing")) for one in tokens]
        example = f"id {differing[0]} is {names[0]} for the student and {names[1]} for the teacher"
        raise UserError(f"{place}: {len(differing)} ids differ, for example {example}; take a teacher of its family")
    for text in PROBES:
        ours, theirs = (one(text, add_special_tokens=False)["input_ids"] for one in (student, teacher))
        if ours != theirs:
            raise UserError(f"{place}: they split {text[:60]!r} differently; take a teacher of its family")
    return shared


def read_rows(gate: ParityGate, side: TeacherSide, names: str, key: str) -> Iterator[DistillRow | Finding]:
    """The rows of a comma list of sets, which `key` names. A finding stands for a row that could not be distilled."""
    for name, path in gate.config.files_of(names, key).items():
        for sequence in gate.sequences(name, path):
            if isinstance(sequence, Finding):
                yield sequence
                continue
            findings = list(check_sequence(gate, sequence))
            yield from findings
            if not findings:
                yield _row(gate, side, sequence, is_trained=key == "dataset")


def _row(gate: ParityGate, side: TeacherSide, sequence: TrainedSequence, is_trained: bool) -> DistillRow | Finding:
    """A row whose completion ends with its turn. A held-out row keeps the line end that the template writes after the
    turn: LLaMA-Factory's loss counts it, and the losses of all methods are compared."""
    row, answer = sequence.row, sequence.ids[sequence.start :]
    end = max(index for index, token in enumerate(answer) if token in gate.stops)
    completion = answer[: end + 1]
    if problem := side.problem(row, completion, gate.thinking):
        return Finding(sequence.where, problem, gate.config.where("teacher"))
    messages = side.messages(row)
    return DistillRow(
        sequence.where,
        sequence.ids[: sequence.start],
        encode(side.tokenizer, messages, gate.thinking),
        completion if is_trained else answer,
        prompts.student_messages(question_of(row)),
        messages,
        row["output"].rpartition("####")[2].strip(),
    )


def question_of(row: Row) -> str:
    """The question of a training row."""
    return row["instruction"].removesuffix("\n\n" + prompts.INSTRUCTION)


def teacher_findings(config: TrainConfig, thinking: bool) -> list[Finding]:
    """What keeps a teacher from reading the answers that the student is trained on: the first finding of each kind.

    Raises UserError if its tokenizer is not the student's.
    """
    gate = ParityGate(config, thinking)
    side = TeacherSide(config, distill_options(config), gate.serving)
    found = [one for one in read_rows(gate, side, config.values["dataset"], "dataset") if isinstance(one, Finding)]
    return list({one.change: one for one in reversed(found)}.values())
