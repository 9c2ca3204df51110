"""The data sets and what kind of answer each has: everything else asks for the kind."""

from __future__ import annotations

from typing import Literal

# number: one on an answer line; integer: from 0 to 999; latex: any formula; choice: an integer, or the letter of an option
AnswerKind = Literal["number", "integer", "latex", "choice"]

KINDS: dict[str, AnswerKind] = {
    "gsm8k": "number",
    "gsm_symbolic": "number",
    "math500": "latex",
    "aime": "integer",
    "aime25": "integer",
    "amc23": "choice",
    "math": "latex",
}
NUMBER_DATASETS = frozenset(name for name, kind in KINDS.items() if kind == "number")
INTEGER_DATASETS = frozenset(name for name, kind in KINDS.items() if kind == "integer")

# What scripts/prepare_data.py can make; `math` can only be graded.
PREPARABLE = tuple(name for name in KINDS if name != "math")
