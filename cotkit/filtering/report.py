"""The filter's account for the reader: a table that sums exactly, the bias by difficulty, examples of every reason."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotkit.core.files import write_bytes_atomic
from cotkit.core.jsonl import Row
from cotkit.filtering.judging import RowOutcome
from cotkit.filtering.rules import REASONS
from cotkit.filtering.selection import Account
from cotkit.filtering.target import CHANGES

EXAMPLES = 10
ROUNDS_HEAD = (
    "round",
    "problems asked",
    "rows",
    "kept rows",
    "prompt tokens",
    "completion tokens",
    "problems with a kept row",
    "coverage",
    "tokens in all",
)
CUMULATIVE = "The last three columns are cumulative; tokens are those of prompts and completions together."
SHOWN = 600  # characters of a response in the report


class FilterTally:
    """Counts rows as they pass; its size does not depend on how many."""

    def __init__(self, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self._examples: dict[str, list[Row]] = {}
        self._rng = random.Random(seed)

    def add(self, row: Row, outcome: RowOutcome) -> None:
        reason = outcome.rejection.reason if outcome.rejection else "kept"
        self.counts[reason] += 1
        self.changes.update(outcome.changes if outcome.rejection is None else ())
        self._sample(reason, row, outcome)

    def _sample(self, reason: str, row: Row, outcome: RowOutcome) -> None:
        """Keeps a uniform random choice of `EXAMPLES` rows a reason (reservoir sampling, Vitter's algorithm R)."""
        kept = self._examples.setdefault(reason, [])
        at = len(kept) if len(kept) < EXAMPLES else self._rng.randrange(self.counts[reason])
        if at >= EXAMPLES:
            return
        detail = outcome.rejection.detail if outcome.rejection else ", ".join(outcome.changes)
        fields = {name: row[name] for name in ("id", "sample", "question", "answer")}
        kept[at : at + 1] = [{**fields, "detail": detail, "response": row["response"][:SHOWN]}]

    def account(self, rows: Account, round_sizes: Sequence[int], sets: dict[str, int]) -> Row:
        """Everything as JSON; every row read is kept or has exactly one reason. `rows`: the same rows' account."""
        rounds = rows.rounds(round_sizes)
        return {
            "read": self.counts.total(),
            "kept": self.counts["kept"],
            "rejected": {reason: self.counts[reason] for reason in REASONS},
            "problems": int(rows.first().sum()),
            "problems_with_kept": rounds[-1]["covered"],
            "rounds": rounds,
            "changes": {name: self.changes[name] for name in CHANGES},
            "by_gold_words": rows.by_gold_words(),
            "training_sets": sets,
        }

    def examples(self) -> dict[str, list[Row]]:
        return {reason: self._examples[reason] for reason in ("kept", *REASONS) if reason in self._examples}


def show(account: Row) -> str:
    """The counts as a table."""
    read_count = account["read"]
    lines = [("kept", account["kept"]), *account["rejected"].items()]
    table = [f"  {name:<22}{number:>8}{number / read_count:>8.1%}" for name, number in lines]
    total = [f"  {'read':<22}{read_count:>8}{1:>8.1%}"]
    return "\n".join([*table, *total, *(f"  {line}" for line in rounds_in_words(account))])


def rounds_in_words(account: Row) -> list[str]:
    """One line a round."""
    return [
        f"round {row['round']}: {row['covered']} of {account['problems']} problems have a kept sample "
        f"({row['coverage']:.1%}), {row['total_tokens']} teacher tokens so far"
        for row in account["rounds"]
    ]


def markdown(account: Row, examples: dict[str, list[Row]]) -> str:
    """The report to read."""
    read_count = account["read"]
    reasons = [("kept", account["kept"]), *account["rejected"].items(), ("read", read_count)]
    changes = [(CHANGES[name], number) for name, number in account["changes"].items()]
    quartiles = [
        (
            f"{row['from_words']} to {row['to_words']}",
            row["problems"],
            row["covered"],
            f"{row['coverage']:.1%}",
            row["read"],
            row["kept"],
            f"{row['kept_share']:.1%}",
        )
        for row in account["by_gold_words"]
    ]
    rounds = [
        (
            *(
                row[name]
                for name in ("round", "problems", "rows", "kept", "prompt_tokens", "completion_tokens", "covered")
            ),
            f"{row['coverage']:.1%}",
            row["total_tokens"],
        )
        for row in account["rounds"]
    ]
    parts = [
        "# What the filter did",
        _table(("rule", "rows", "share"), [(name, number, f"{number / read_count:.1%}") for name, number in reasons]),
        "## Rounds of the teacher",
        _table(ROUNDS_HEAD, rounds),
        f"{account['problems_with_kept']} of {account['problems']} problems have a kept sample. {CUMULATIVE}",
        "## Kept by the words of the gold solution (quartiles of the problems)",
        _table(("words", "problems", "with a kept row", "share", "rows", "kept rows", "share"), quartiles),
        "## What was changed in kept rows",
        _table(("change", "rows"), changes),
        "## Training sets",
        _table(("set", "rows"), list(account["training_sets"].items())),
        f"## Examples (up to {EXAMPLES} a reason, drawn at random)",
        *(_examples(reason, rows) for reason, rows in examples.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _examples(reason: str, rows: list[Row]) -> str:
    shown = [f"### {reason}"]
    for row in rows:
        # Indented text is shown as it stands, whatever marks it holds.
        response = "\n".join("    " + line for line in row["response"].split("\n"))
        shown.append(f"`{row['id']}`, sample {row['sample']}, gold `{row['answer']}`: {row['detail'] or 'unchanged'}")
        shown.append(response)
    return "\n\n".join(shown)


def write_markdown(path: Path, account: Row, examples: dict[str, list[Row]]) -> None:
    write_bytes_atomic(path, [markdown(account, examples).encode("utf-8")])
