"""The data sets and the kind of answer of each. All other modules ask for the kind, not for the name."""

from __future__ import annotations

from typing import Literal

# number: a number on an answer line; integer: 0 to 999; latex: any formula; choice: an integer or an option's letter
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

# Data sets that scripts/prepare_data.py makes. `math` can only be graded.
PREPARABLE = tuple(name for name in KINDS if name != "math")
