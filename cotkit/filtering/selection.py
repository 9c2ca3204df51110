"""Chooses among a question's samples: for the training sets, for another round of the teacher, and for the report.

Import this module inside functions: it needs numpy, and a script must start without it to say that it is missing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from cotkit.core.jsonl import Row
from cotkit.core.problems import TRUNCATED
from cotkit.filtering.rules import REASONS
from cotkit.filtering.tally import CODES, KEPT, FilterTally

Numbers = np.ndarray[Any, Any]
Positions = np.ndarray[Any, np.dtype[np.uint32]]  # of teacher rows in file order, from 0
Mask = np.ndarray[Any, np.dtype[np.bool_]]  # one bool per teacher row, in file order

# A pair teaches nothing about reasoning if its sides differ mostly in length.
MAX_LENGTH_RATIO = 2.0
# A row rejected for one of these reasons is a bad example of reasoning, not only of form.
WRONG = ("wrong_answer", "wrong_steps")


class Selection:
    """Answers questions about a complete tally. Takes over its array `questions`, to save memory."""

    def __init__(self, tally: FilterTally) -> None:
        self._tally = tally
        self._codes = _view(tally.codes)
        self._questions = _numbered(_view(tally.questions))  # of each row
        tally.questions = array("Q")
        self._size = len(self._codes)
        self.kept: Mask = self._codes == KEPT
        self.complete: Mask = self.kept & (_view(tally.complete) > 0)  # calculate every result of the solution
        self.raw_trainable: Mask = _view(tally.raw_trainable) > 0  # whose response can be trained on as it is
        self.first: Mask = self._first_among(np.ones(self._size, bool))  # the first row of each question
        self._alignment = np.zeros(0, "u4")  # of each row, its place when all measured rows are sorted by their ratio

    def _first_among(self, among: Mask) -> Mask:
        """The first row in `among` of each question that has one there. Sorting would take more memory."""
        backwards = np.flatnonzero(among).astype("u4")[::-1]
        first = np.full(self._size, self._size, "u4")  # per question; of several assignments the last one stays
        first[self._questions[backwards]] = backwards
        return self._mask(first[first < self._size])

    def _mask(self, rows: Positions) -> Mask:
        mask = np.zeros(self._size, bool)
        mask[rows] = True
        return mask

    def _have(self, rows: Mask | slice) -> Mask:
        """One bool per question: whether it has one of these rows."""
        have = np.zeros(int(self._questions.max(initial=0)) + 1, bool)
        have[self._questions[rows]] = True
        return have

    def _of_same_questions(self, rows: Mask) -> Mask:
        """All rows of the questions that have one of these rows."""
        return self._have(rows)[self._questions]

    def _ordered(self, rows: Positions, ranks: Numbers) -> tuple[Positions, Numbers]:
        """The rows sorted by (question, rank, position), and their sort keys: question in the upper half, then rank."""
        keys = self._questions[rows].astype("u8")
        keys <<= 32
        keys |= ranks[rows]
        order = np.argsort(keys, kind="stable")
        return rows[order], keys[order]

    def repeated(self) -> tuple[int, int] | None:
        """The positions of two rows with the same (id, sample), the later one as early as possible; None without any."""
        rows, keys = self._ordered(np.arange(self._size, dtype="u4"), _view(self._tally.samples))
        same = np.flatnonzero(keys[1:] == keys[:-1])
        if not len(same):
            return None
        at = same[np.argmin(rows[same + 1])]
        return int(rows[at]), int(rows[at + 1])

    def without_kept(self) -> tuple[Mask, list[str]]:
        """The first row of each question for another round of the teacher, and the reason for each.

        These are the questions without a kept sample, except contaminated ones, of which no sample can ever be kept. The
        reason is that of the first row, or `truncated` if any sample was, since such a question needs more tokens.
        """
        codes, same = self._codes, self._of_same_questions
        rows = self.first & ~same(self.kept) & ~same(codes == CODES["contaminated"])
        truncated = same(codes == CODES[TRUNCATED])
        pairs = zip(codes[rows], truncated[rows], strict=True)
        return rows, [TRUNCATED if was_truncated else REASONS[code - 1] for code, was_truncated in pairs]

    def rounds(self, sizes: Sequence[int]) -> list[Row]:
        """What each round of so many rows asked, kept and used; `covered` and `total_tokens` are cumulative.

        `covered` counts the questions with a kept sample so far; `coverage` is their share of all questions.
        """
        questions = int(self.first.sum())
        rounds: list[Row] = []
        start = total = 0
        for number, end in enumerate(np.cumsum(sizes).tolist(), 1):
            prompt, completion = (
                int(_view(tokens)[start:end].sum())
                for tokens in (self._tally.prompt_tokens, self._tally.completion_tokens)
            )
            total += prompt + completion
            covered = int(self._have(self.kept & (np.arange(self._size) < end)).sum())
            rounds.append(
                {
                    "round": number,
                    "problems": int(self._have(slice(start, end)).sum()),
                    "rows": end - start,
                    "kept": int(self.kept[start:end].sum()),
                    "prompt_tokens": prompt,
                    "completion_tokens": completion,
                    "covered": covered,
                    "coverage": covered / questions,
                    "total_tokens": total,
                }
            )
            start = end
        return rounds

    def by_gold_words(self) -> list[Row]:
        """Problems, rows and how many are kept, by quartile of the word count of the problem's own solution.

        The quartiles are of problems; equal lengths stay together. Problems without a solution are left out.
        """
        words = _view(self._tally.gold_words)
        first = self.first & (words > 0)
        covered = first & self._of_same_questions(self.kept)
        lengths, problems = np.unique(words[first], return_counts=True)
        quartiles = np.minimum(3, (np.cumsum(problems) - problems) * 4 // max(1, problems.sum()))
        groups: list[Row] = []
        for number in np.unique(quartiles).tolist():
            low, high = lengths[quartiles == number][[0, -1]].tolist()
            rows = (words >= low) & (words <= high)
            asked, with_kept, read, kept = (int((mask & rows).sum()) for mask in (first, covered, np.True_, self.kept))
            groups.append(
                {
                    "quartile": number + 1,
                    "from_words": low,
                    "to_words": high,
                    "problems": asked,
                    "covered": with_kept,
                    "coverage": with_kept / asked,
                    "read": read,
                    "kept": kept,
                    "kept_share": kept / read,
                }
            )
        return groups

    def with_choice(self, among: Mask) -> Mask:
        """The rows in `among` whose question has several rows there."""
        numbers = np.bincount(self._questions[among], minlength=int(self._questions.max(initial=0)) + 1)
        return among & (numbers[self._questions] > 1)

    def align(self, rows: Mask, ratios: Sequence[float]) -> None:
        """Takes the rank-surprisal ratios of rows, for the selection `aligned`."""
        self._alignment = np.zeros(self._size, "u4")
        self._alignment[rows] = np.argsort(np.argsort(np.asarray(ratios), kind="stable"), kind="stable")

    def choose(self, among: Mask, select: str, cap: int | None) -> Mask:
        """At most `cap` of each question's rows in `among`, by a rule of `training_sets.SELECTIONS`.

        Without a cap `first`, `shortest` and `aligned` choose one row. `distinct` takes the first row of each set of
        equations, `aligned` the rows with the lowest ratios given to `align`.
        """
        if select == "first" and cap in (None, 1):
            return self._first_among(among)
        rows, words = np.flatnonzero(among).astype("u4"), _view(self._tally.words)
        if select == "distinct":
            rows, keys = self._ordered(rows, _view(self._tally.equations))
            rows = np.sort(rows[_first_of_runs(keys, 1)])
        most = cap or (1 if select in ("first", "shortest", "aligned") else None)
        if most is not None:
            by = {"shortest": words, "aligned": self._alignment}.get(select, np.zeros_like(words))
            rows, keys = self._ordered(rows, by)
            rows = rows[_first_of_runs(keys >> 32, most)]
        return self._mask(rows)

    def pairs(self) -> tuple[Mask, Mask]:
        """(chosen, rejected): each question's shortest kept row, and its wrong row that is nearest to it in length.

        A wrong row has another answer or a false equation, fits the training, and differs in length by a factor of at
        most `MAX_LENGTH_RATIO`. A question without one has no pair.
        """
        words, questions = _view(self._tally.words), self._questions
        chosen = np.flatnonzero(self.choose(self.kept, "shortest", None)).astype("u4")
        partner = np.full(self._size, -1, "i4")  # of each question
        partner[questions[chosen]] = chosen
        is_wrong = np.isin(self._codes, [CODES[reason] for reason in WRONG]) & self.raw_trainable
        wrong = np.flatnonzero(is_wrong).astype("u4")
        wrong = wrong[partner[questions[wrong]] >= 0]
        own, other = words[wrong].astype("i8"), words[partner[questions[wrong]]].astype("i8")
        fits = np.maximum(own, other) <= MAX_LENGTH_RATIO * np.minimum(own, other)
        gaps = np.zeros(self._size, "u4")
        gaps[wrong] = np.abs(own - other)
        nearest, keys = self._ordered(wrong[fits], gaps)
        nearest = nearest[_first_of_runs(keys >> 32, 1)]
        return self._mask(partner[questions[nearest]]), self._mask(nearest)


def _view(values: array[int]) -> Numbers:
    return np.frombuffer(values, f"u{values.itemsize}") if len(values) else np.zeros(0, f"u{values.itemsize}")


def _numbered(hashes: Numbers) -> Numbers:
    """A number from 0 on for each distinct hash. np.unique would take more memory."""
    order = np.argsort(hashes, kind="stable").astype("u4")
    numbers = np.empty(len(hashes), "u4")
    numbers[order] = np.cumsum(_first_of_runs(hashes[order], 1), dtype="u4") - 1
    return numbers


def _first_of_runs(values: Numbers, most: int) -> Mask:
    """Marks the first `most` entries of each run of equal values."""
    marked = np.ones(len(values), bool)
    marked[most:] = values[most:] != values[:-most]
    return marked
