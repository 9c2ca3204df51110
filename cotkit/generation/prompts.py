"""Every prompt of the project. `student_messages` makes both the training rows and the prompts at inference.

Prompts are joined strings, never `str.format`, because questions are full of braces. All data sets share the same words,
because a student is served only what it was trained on.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any, Literal

from cotkit.core.jsonl import Row
from cotkit.equations.arithmetic import CALCULATOR_MARK

Message = dict[str, str]
Mode = Literal["rewrite", "solve"]

SYSTEM = "You are a careful math tutor."

# The request for steps comes before the form of the last line: small chat models that read `####` first answer at once,
# without any reasoning.
INSTRUCTION = "Reason step by step, then write the final answer alone on a last line: #### answer"

REWRITE_INSTRUCTION = (
    "Correct the wording of this solution so that it is clear and concise. "
    "Keep all lines, numbers and calculations. End with the line #### "
)

# Stands between a question and its solution where a teacher reads both.
REFERENCE = "A correct solution:"

# One worked example for the teacher. Without an example that keeps every line, a 135M teacher writes only the answer.
EXAMPLE_SOLUTION = "4*12=48 rolls.\nAfter selling there are 48-30=18 rolls.\nThen 18-3=15 rolls.\n#### 15"
EXAMPLE_REWRITE = (
    "There are 4*12=48 rolls at first.\nAfter 30 of them are sold, 48-30=18 rolls are left.\n"
    "After 3 more are given away, 18-3=15 rolls are left.\n#### 15"
)
EXAMPLE_NOUN = "rolls"  # in an answer to another problem, it is an echo of the example

# What to do about a model whose chat template refuses the system prompt that all prompts have.
SYSTEM_ROLE_REMEDY = "docs/GENERATION.md, section `Templates without a system role`, says how to go on"

# What chat templates are told is today: the date that Llama 3's write where they cannot ask.
DATE = datetime(2024, 7, 26)

# A placeholder problem, used to hash the wording of a prompt.
PROBE: Row = {"question": "QUESTION", "solution": "SOLUTION", "answer": "ANSWER"}


def student_messages(question: str) -> list[Message]:
    """The chat that the student is trained on and served with, up to its own turn."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question + "\n\n" + INSTRUCTION}]


def reference_messages(question: str, solution: str) -> list[Message]:
    """The student's own chat with a solution in it, for a teacher that knows the answer (self-distillation).

    Measured with a trained student on 100 of its training questions: it solves 37 by itself, 50 when it finds the solution
    here, and 29 when it finds it in the prompt for rewriting, because it has learnt only this form.
    """
    return student_messages(question + "\n\n" + REFERENCE + "\n" + solution)


def teacher_messages(problem: Row, mode: Mode) -> list[Message]:
    """The chat for the teacher: `solve` gives only the problem, `rewrite` also the reference solution and answer.

    In `rewrite` the problem has a turn of its own before the solution, because small teachers that find both in one turn
    solve the problem anew. The part that all prompts share comes first, so that an engine computes it once.
    """
    if mode == "solve":
        return student_messages(problem["question"])
    solution = target(problem["solution"], problem["answer"])
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": REWRITE_INSTRUCTION + "15\n\n" + EXAMPLE_SOLUTION},
        {"role": "assistant", "content": EXAMPLE_REWRITE},
        {"role": "user", "content": "The next problem: " + problem["question"]},
        {"role": "assistant", "content": "Please give me its solution."},
        {"role": "user", "content": REWRITE_INSTRUCTION + problem["answer"] + "\n\n" + solution},
    ]


def target(reasoning: str, answer: str) -> str:
    """What the student is trained to write: the reasoning without calculator marks, then one line ``#### answer``."""
    return CALCULATOR_MARK.sub("", reasoning).strip() + "\n#### " + answer


def training_row(question: str, output: str) -> Row:
    """One LLaMA-Factory alpaca row. The system prompt is written out so that no template's default applies."""
    system, user = student_messages(question)
    return {"system": system["content"], "instruction": user["content"], "input": "", "output": output}


def render(tokenizer: Any, messages: list[Message], thinking: bool) -> str:
    """The text of a chat up to the assistant's turn, by the tokenizer's own template.

    `enable_thinking` is always passed: templates that know it (Qwen3) default to thinking; others ignore it. So is
    `strftime_now`, with which Llama 3.2 and others write a date: the day's would make another prompt every day.
    """
    more = {"enable_thinking": thinking, "strftime_now": DATE.strftime}
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **more)


def plain_text(messages: list[Message]) -> str:
    """A chat for the reader, where no template applies."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def wording_hash(messages: list[Message]) -> str:
    """Identifies a prompt's wording in a manifest: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode("utf-8")).hexdigest()[:16]
