"""Which of a question's samples go into a training set: an account of all rows in flat arrays, and choices over it.

One row of the account takes 32 bytes, so that a million teacher rows fit in some tens of megabytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from cotkit.core.jsonl import Row
from cotkit.core.problems import TRUNCATED
from cotkit.filtering.contamination import hash64
from cotkit.filtering.judging import RowOutcome
from cotkit.filtering.rules import REASONS

if TYPE_CHECKING:
    import numpy as np

    Rows = np.ndarray[Any, np.dtype[np.uint32]]  # positions of teacher rows, from 0
    Mask = np.ndarray[Any, np.dtype[np.bool_]]  # one bool a teacher row, in file order

Select = Literal["first", "shortest", "all", "distinct"]
SELECTIONS: tuple[str, ...] = get_args(Select)

# A pair teaches nothing about reasoning if its sides differ most in length.
MAX_LENGTH_RATIO = 2.0

# Bits of what else is known of a row; see `RowOutcome`.
RAW_FITS, COMPLETE = 1, 2

MOST_WORDS = 2**16 - 1  # what the account has room for

# Of these reasons a row is a bad example of reasoning, and not merely of form.
WRONG = ("wrong_answer", "wrong_steps")
# Enough to tell a question's samples apart, and their sets of equations.
LOW_BITS = 2**32 - 1

_hash_of_id = lru_cache(maxsize=1)(hash64)  # samples of one question stand together
_CODES = {None: 0} | {reason: number for number, reason in enumerate(REASONS, 1)}


class Account:
    """One entry a teacher row, in file order; complete before the first question about it is asked."""

    def __init__(self) -> None:
        self._hashes, self._samples, self._equations = array("Q"), array("I"), array("I")
        self._words, self._code, self._marks = array("I"), array("B"), array("B")
        self._prompt_tokens, self._completion_tokens = array("I"), array("I")
        self._gold_words = array("H")  # 0: no solution

    def add(self, row: Row, outcome: RowOutcome) -> None:
        self._hashes.append(_hash_of_id(row["id"]))
        self._samples.append(row["sample"] & LOW_BITS)
        self._equations.append(outcome.equations & LOW_BITS)
        self._words.append(outcome.words)
        self._code.append(_CODES[outcome.rejection and outcome.rejection.reason])
        self._marks.append(RAW_FITS * outcome.raw_fits | COMPLETE * outcome.complete)
        self._prompt_tokens.append(row["prompt_tokens"])
        self._completion_tokens.append(row["completion_tokens"])
        self._gold_words.append(min(len(row["solution"].split()), MOST_WORDS))

    def __len__(self) -> int:
        return len(self._code)

    @cached_property
    def _questions(self) -> np.ndarray[Any, Any]:
        """The number of each row's question, from 0 in the order in which they first appear."""
        import numpy as np

        hashes = _view(self._hashes)
        order = np.argsort(hashes, kind="stable").astype("u4")
        new = _leading(hashes[order], 1)
        numbers = np.empty(len(self), "u4")
        numbers[order] = np.cumsum(new, dtype="u4") - 1
        first = np.sort(order[new])
        appearance = np.empty(len(first), "u4")
        appearance[numbers[first]] = np.arange(len(first), dtype="u4")
        del hashes, order
        self._hashes = array("Q")  # one number of 4 bytes in its place
        return appearance[numbers]

    def _keys(self, rows: Rows | slice, ranks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One number a row: its question in the upper half, its rank in the lower."""
        keys = self._questions[rows].astype("u8")
        keys <<= 32
        keys |= ranks[rows]
        return keys

    def _ordered(self, rows: Rows, ranks: np.ndarray[Any, Any]) -> tuple[Rows, np.ndarray[Any, Any]]:
        """The rows sorted by (question, rank, position), and their `_keys`."""
        import numpy as np

        keys = self._keys(rows, ranks)
        order = np.argsort(keys, kind="stable")
        return rows[order], keys[order]

    def repeated(self) -> tuple[int, int] | None:
        """Positions of two rows with one (id, sample), the later one as early as possible; None if there are none."""
        import numpy as np

        samples = _view(self._samples)
        keys = self._keys(slice(None), samples)
        keys.sort()
        if _leading(keys, 1).all():
            return None
        rows, keys = self._ordered(np.arange(len(self), dtype="u4"), samples)
        same = np.flatnonzero(keys[1:] == keys[:-1])
        at = same[np.argmin(rows[same + 1])]
        return int(rows[at]), int(rows[at + 1])

    def kept(self) -> Mask:
        """The kept rows."""
        return _view(self._code) == 0

    def raw(self) -> Mask:
        """The rows whose response can be trained on as it is."""
        return _view(self._marks) & RAW_FITS > 0

    def complete(self) -> Mask:
        """The kept rows that calculate every result of the reference solution."""
        return self.kept() & (_view(self._marks) & COMPLETE > 0)

    def first(self) -> Mask:
        """The first row of each question."""
        import numpy as np

        return self._first_among(np.ones(len(self), bool))

    def _first_among(self, among: Mask) -> Mask:
        """The first row in `among` of each question that has one there; without sorting, which takes more memory."""
        import numpy as np

        backwards = np.flatnonzero(among).astype("u4")[::-1]
        place = np.full(
            len(self), len(self), "u4"
        )  # of a question's first row; where one is assigned twice, the last stays
        place[self._questions[backwards]] = backwards
        return _mask(place[place < len(self)], len(self))

    def _asked(self, rows: Mask | slice) -> Mask:
        """One bool a question: has it one of these rows?"""
        import numpy as np

        asked = np.zeros(int(self._questions.max(initial=0)) + 1, bool)
        asked[self._questions[rows]] = True
        return asked

    def _of_questions(self, rows: Mask) -> Mask:
        """All rows of the questions that have one in `rows`."""
        return self._asked(rows)[self._questions]

    def again(self) -> tuple[Mask, list[str]]:
        """The first row of each question of which no sample is kept but one could be; why not, for each of them.

        A contaminated question is none: whatever the teacher writes about it goes. The reason is that of the first
        row, or `truncated` if any sample was, since such a question needs a larger budget.
        """
        codes = _view(self._code)
        rows = self.first() & ~self._of_questions(self.kept()) & ~self._of_questions(codes == _CODES["contaminated"])
        cut = self._of_questions(codes == _CODES[TRUNCATED])
        reasons = [
            TRUNCATED if was_cut else REASONS[code - 1] for code, was_cut in zip(codes[rows], cut[rows], strict=True)
        ]
        return rows, reasons

    def rounds(self, sizes: Sequence[int]) -> list[Row]:
        """Per round, of so many rows each: what was asked, kept and used; covered and total_tokens are cumulative.

        `covered` are the questions with a kept sample so far, `coverage` is their share of all questions.
        """
        import numpy as np

        kept, covered = self.kept(), np.zeros(len(self), bool)
        asked_in_all = int(self.first().sum())
        rounds: list[Row] = []
        start = 0
        for number, end in enumerate(np.cumsum(sizes).tolist(), 1):
            tokens = {
                "prompt_tokens": int(_view(self._prompt_tokens)[start:end].sum()),
                "completion_tokens": int(_view(self._completion_tokens)[start:end].sum()),
            }
            covered[start:end] = kept[start:end]
            questions = int(self._asked(covered).sum())
            so_far = rounds[-1]["total_tokens"] if rounds else 0
            rounds.append(
                {
                    "round": number,
                    "problems": int(self._asked(slice(start, end)).sum()),
                    "rows": end - start,
                    "kept": int(kept[start:end].sum()),
                    **tokens,
                    "covered": questions,
                    "coverage": questions / asked_in_all,
                    "total_tokens": so_far + sum(tokens.values()),
                }
            )
            start = end
        return rounds

    def by_gold_words(self) -> list[Row]:
        """Problems and rows, and how many are kept, by quartile of the words of the problem's own solution.

        The quartiles are of problems; equal lengths stay together. Problems without a solution are left out.
        """
        import numpy as np

        words, kept = _view(self._gold_words), self.kept()
        first = self.first() & (words > 0)
        covered = first & self._of_questions(kept)
        lengths, problems = np.unique(words[first], return_counts=True)
        quartile_of = np.minimum(3, (np.cumsum(problems) - problems) * 4 // max(1, problems.sum()))
        groups: list[Row] = []
        for number in np.unique(quartile_of).tolist():
            low, high = lengths[quartile_of == number][[0, -1]].tolist()
            rows = (words >= low) & (words <= high)
            asked, read = int((first & rows).sum()), int(rows.sum())
            groups.append(
                {
                    "quartile": number + 1,
                    "from_words": low,
                    "to_words": high,
                    "problems": asked,
                    "covered": int((covered & rows).sum()),
                    "coverage": float((covered & rows).sum() / asked),
                    "read": read,
                    "kept": int((kept & rows).sum()),
                    "kept_share": float((kept & rows).sum() / read),
                }
            )
        return groups

    def choose(self, among: Mask, select: str, cap: int | None) -> Mask:
        """At most `cap` of a question's rows in `among`; `first` and `shortest` choose one where no cap is given.

        `distinct` takes the first row of each set of equations.
        """
        import numpy as np

        if select == "first" and cap in (None, 1):
            return self._first_among(among)
        rows, words = np.flatnonzero(among).astype("u4"), _view(self._words)
        if select == "distinct":
            rows, keys = self._ordered(rows, _view(self._equations))
            rows = np.sort(rows[_leading(keys, 1)])
        most = cap or (1 if select in ("first", "shortest") else None)
        if most is not None:
            rows, keys = self._ordered(rows, words if select == "shortest" else np.zeros_like(words))
            rows = rows[_leading(keys >> 32, most)]
        return _mask(rows, len(self))

    def pairs(self) -> tuple[Mask, Mask]:
        """(chosen, rejected): a question's shortest kept row, and its wrong row that is nearest to it in length.

        Wrong is what has another answer or a false calculation, with `MAX_LENGTH_RATIO` at most between the two lengths
        and nothing that the training would cut; both or neither of a question.
        """
        import numpy as np

        words, questions = _view(self._words), self._questions
        chosen = np.flatnonzero(self.choose(self.kept(), "shortest", None)).astype("u4")
        partner = np.full(len(self), -1, "i4")  # of a question
        partner[questions[chosen]] = chosen
        wrong = np.flatnonzero(np.isin(_view(self._code), [_CODES[reason] for reason in WRONG]) & self.raw()).astype(
            "u4"
        )
        wrong = wrong[partner[questions[wrong]] >= 0]
        own, other = words[wrong].astype("i8"), words[partner[questions[wrong]]].astype("i8")
        fits = np.maximum(own, other) <= MAX_LENGTH_RATIO * np.minimum(own, other)
        gaps = np.zeros(len(self), "u4")
        gaps[wrong] = np.abs(own - other)
        nearest, keys = self._ordered(wrong[fits], gaps)
        nearest = nearest[_leading(keys >> 32, 1)]
        return _mask(partner[questions[nearest]], len(self)), _mask(nearest, len(self))


def _view(values: array[int]) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.frombuffer(values, f"u{values.itemsize}") if len(values) else np.zeros(0, f"u{values.itemsize}")


def _mask(rows: np.ndarray[Any, Any], size: int) -> Mask:
    import numpy as np

    mask = np.zeros(size, bool)
    mask[rows] = True
    return mask


def _leading(groups: np.ndarray[Any, Any], most: int) -> Mask:
    """The first `most` entries of each run of equal ones."""
    import numpy as np

    leading = np.ones(len(groups), bool)
    leading[most:] = groups[most:] != groups[:-most]
    return leading
