"""The data sets and the kind of answer of each. All other modules ask for the kind, not for the name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from cotkit.core.errors import UserError

# number: a number on an answer line; integer: 0 to 999; latex: any formula; choice: an option's letter or its number
AnswerKind = Literal["number", "integer", "latex", "choice"]
ANSWER_KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)

KINDS: dict[str, AnswerKind] = {
    "gsm8k": "number",
    "gsm_symbolic": "number",
    "math500": "latex",
    "aime": "integer",
    "aime25": "integer",
    "amc23": "choice",
    "math": "latex",
}

# Data sets that scripts/prepare_data.py makes. `math` can only be graded.
PREPARABLE = tuple(name for name in KINDS if name != "math")

# The field of a problem that says its kind. The data sets of the table above need none.
KIND_FIELD = "answer_kind"


def kind_of(row: Mapping[str, Any], where: str) -> AnswerKind:
    """The kind of a problem's answer: its own field `answer_kind`, or that of its data set.

    Raises UserError, which begins with `where` (a file and line), if neither is known.
    """
    if KIND_FIELD in row:
        if row[KIND_FIELD] not in ANSWER_KINDS:
            raise UserError(
                f"{where}: {KIND_FIELD} must be one of {', '.join(ANSWER_KINDS)}, found {row[KIND_FIELD]!r}"
            )
        return row[KIND_FIELD]
    name = row.get("dataset")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UserError(
            f"{where}: unknown dataset {name!r}; the known ones are {', '.join(KINDS)}; rows of your own data need the field {KIND_FIELD!r}"
            f" ({', '.join(ANSWER_KINDS)}), which scripts/prepare_data.py writes"
        )
    return kind
