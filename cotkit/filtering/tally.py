"""What the filter remembers of the rows as they pass: 32 bytes per row, counts, and some examples per reason."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from functools import lru_cache

from cotkit.core.jsonl import Row
from cotkit.filtering.contamination import hash64
from cotkit.filtering.judging import RowOutcome
from cotkit.filtering.rules import REASONS

EXAMPLES = 10  # per reason
EXAMPLE_CHARACTERS = 600  # of a response

KEPT = 0  # the code of a kept row; other codes are those of the reasons
CODES = {reason: code for code, reason in enumerate(("kept", *REASONS))}
MOST_WORDS = 2**16 - 1  # fits the array
LOW_BITS = 2**32 - 1  # enough to tell samples of one question, or their sets of equations, apart

_hash_of_id = lru_cache(maxsize=1)(hash64)  # the samples of one question come one after the other


class FilterTally:
    """Collects the rows; `selection.py` and `report.py` read it when all rows have passed. Arrays are in file order."""

    def __init__(self, seed: int) -> None:
        self.questions = array("Q")  # hashes of the ids
        self.samples, self.equations = array("I"), array("I")
        self.words = array("I")
        self.codes, self.raw_trainable, self.complete = array("B"), array("B"), array("B")
        self.prompt_tokens, self.completion_tokens = array("I"), array("I")
        self.gold_words = array("H")  # 0: no solution
        self.counts: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self.examples: dict[str, list[Row]] = {}
        self._rng = random.Random(seed)

    def add(self, row: Row, outcome: RowOutcome) -> None:
        reason = outcome.rejection.reason if outcome.rejection else "kept"
        self.questions.append(_hash_of_id(row["id"]))
        self.samples.append(row["sample"] & LOW_BITS)
        self.equations.append(outcome.equations & LOW_BITS)
        self.words.append(outcome.words)
        self.codes.append(CODES[reason])
        self.raw_trainable.append(outcome.raw_trainable)
        self.complete.append(outcome.complete)
        self.prompt_tokens.append(row["prompt_tokens"])
        self.completion_tokens.append(row["completion_tokens"])
        self.gold_words.append(min(len(row["solution"].split()), MOST_WORDS))
        self.counts[reason] += 1
        self.changes.update(outcome.changes if outcome.rejection is None else ())
        self._sample(reason, row, outcome)

    def _sample(self, reason: str, row: Row, outcome: RowOutcome) -> None:
        """Keeps a uniform random choice of `EXAMPLES` rows per reason (reservoir sampling, Vitter's algorithm R)."""
        chosen = self.examples.setdefault(reason, [])
        at = len(chosen) if len(chosen) < EXAMPLES else self._rng.randrange(self.counts[reason])
        if at >= EXAMPLES:
            return
        detail = outcome.rejection.detail if outcome.rejection else ", ".join(outcome.changes)
        fields = {name: row[name] for name in ("id", "sample", "question", "answer")}
        chosen[at : at + 1] = [{**fields, "detail": detail, "response": row["response"][:EXAMPLE_CHARACTERS]}]
