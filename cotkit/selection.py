"""Which of a question's samples go into a training set: an account of all rows in flat arrays, and choices over it.

One row of the account takes 40 bytes, so that a million teacher rows fit in some tens of megabytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from cotkit.contamination import hash64
from cotkit.filtering import Outcome
from cotkit.jsonl import Row
from cotkit.problems import TRUNCATED
from cotkit.rules import REASONS

if TYPE_CHECKING:
    import numpy as np

    Mask = np.ndarray[Any, np.dtype[np.bool_]]  # one bool a teacher row, in file order

Select = Literal["first", "shortest", "all", "distinct"]
SELECTIONS: tuple[str, ...] = get_args(Select)

# A pair teaches nothing about reasoning if its sides differ most in length.
MAX_LENGTH_RATIO = 2.0

MOST_WORDS = 2**16 - 1  # what the account has room for

# Of these reasons a row is a bad example of reasoning, and not merely of form.
WRONG = ("wrong_answer", "wrong_steps")

_CODES = {None: 0} | {reason: number for number, reason in enumerate(REASONS, 1)}


class Account:
    """One entry a teacher row, in file order."""

    def __init__(self) -> None:
        self._question, self._key, self._equations = array("Q"), array("Q"), array("Q")
        self._words, self._code, self._raw = array("I"), array("B"), array("B")
        self._prompt_tokens, self._completion_tokens = array("I"), array("I")
        self._gold_words = array("H")  # 0: no solution

    def add(self, row: Row, outcome: Outcome) -> None:
        self._question.append(hash64(row["id"]))
        self._key.append(hash64(f"{row['sample']} {row['id']}"))
        self._equations.append(outcome.equations)
        self._words.append(outcome.words)
        self._code.append(_CODES[outcome.rejection and outcome.rejection.reason])
        self._raw.append(outcome.raw_fits)
        self._prompt_tokens.append(row["prompt_tokens"])
        self._completion_tokens.append(row["completion_tokens"])
        self._gold_words.append(min(len(row["solution"].split()), MOST_WORDS))

    def __len__(self) -> int:
        return len(self._key)

    def repeated(self) -> tuple[int, int] | None:
        """Positions of two rows with one (id, sample), the later one as early as possible; None if there are none."""
        import numpy as np

        keys = _view(self._key)
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        if not len(same):
            return None
        at = same[np.argmin(order[same + 1])]
        return int(order[at]), int(order[at + 1])

    def kept(self) -> Mask:
        """The kept rows."""
        return _view(self._code) == 0

    def raw(self) -> Mask:
        """The rows whose response can be trained on as it is."""
        return _view(self._raw) == 1

    def first(self) -> Mask:
        """The first row of each question."""
        import numpy as np

        return _mask(np.unique(_view(self._question), return_index=True)[1], len(self))

    def _of_questions(self, rows: Mask) -> Mask:
        """All rows of the questions that have one in `rows`."""
        import numpy as np

        questions = _view(self._question)
        return np.isin(questions, np.unique(questions[rows]))

    def again(self) -> tuple[Mask, list[str]]:
        """The first row of each question of which no sample is kept but one could be; why not, for each of them.

        A contaminated question is none: whatever the teacher writes about it goes. The reason is that of the first
        row, or `truncated` if any sample was, since such a question needs a larger budget.
        """
        codes = _view(self._code)
        rows = self.first() & ~self._of_questions(self.kept()) & ~self._of_questions(codes == _CODES["contaminated"])
        cut = self._of_questions(codes == _CODES[TRUNCATED])
        reasons = [TRUNCATED if was_cut else REASONS[code - 1] for code, was_cut in zip(codes[rows], cut[rows], strict=True)]
        return rows, reasons

    def rounds(self, sizes: Sequence[int]) -> list[Row]:
        """Per round, of so many rows each: what was asked, kept and used; covered and total_tokens are cumulative.

        `covered` are the questions with a kept sample so far, `coverage` is their share of all questions.
        """
        import numpy as np

        questions, kept = _view(self._question), self.kept()
        asked_in_all = int(self.first().sum())
        rounds: list[Row] = []
        start = 0
        for number, end in enumerate(np.cumsum(sizes).tolist(), 1):
            tokens = {
                "prompt_tokens": int(_view(self._prompt_tokens)[start:end].sum()),
                "completion_tokens": int(_view(self._completion_tokens)[start:end].sum()),
            }
            covered = len(np.unique(questions[:end][kept[:end]]))
            so_far = rounds[-1]["total_tokens"] if rounds else 0
            rounds.append({
                "round": number, "problems": len(np.unique(questions[start:end])), "rows": end - start,
                "kept": int(kept[start:end].sum()), **tokens, "covered": covered, "coverage": covered / asked_in_all,
                "total_tokens": so_far + sum(tokens.values()),
            })  # fmt: skip
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
            groups.append({
                "quartile": number + 1, "from_words": low, "to_words": high, "problems": asked,
                "covered": int((covered & rows).sum()), "coverage": float((covered & rows).sum() / asked),
                "read": read, "kept": int((kept & rows).sum()), "kept_share": float((kept & rows).sum() / read),
            })  # fmt: skip
        return groups

    def choose(self, among: Mask, select: str, cap: int | None) -> Mask:
        """At most `cap` of a question's rows in `among`; `first` and `shortest` choose one where no cap is given.

        `distinct` takes the first row of each set of equations.
        """
        import numpy as np

        rows = np.flatnonzero(among)
        if select == "distinct":
            rows = self._first_of_each(rows)
        questions = _view(self._question)[rows]
        rank_by = _view(self._words)[rows] if select == "shortest" else np.zeros(len(rows))
        order = np.lexsort((rows, rank_by, questions))
        most = cap or (1 if select in ("first", "shortest") else None)
        rank = _rank(questions[order])
        return _mask(rows[order] if most is None else rows[order][rank < most], len(self))

    def _first_of_each(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The first row of each (question, equations)."""
        import numpy as np

        questions, equations = _view(self._question)[rows], _view(self._equations)[rows]
        order = np.lexsort((rows, equations, questions))
        new = np.ones(len(rows), bool)
        new[1:] = (np.diff(questions[order]) != 0) | (np.diff(equations[order]) != 0)
        return rows[order][new]

    def pairs(self) -> tuple[Mask, Mask]:
        """(chosen, rejected): a question's shortest kept row, and its wrong row that is nearest to it in length.

        Wrong is what has another answer or a false calculation, with `MAX_LENGTH_RATIO` at most between the two lengths
        and nothing that the training would cut; both or neither of a question.
        """
        import numpy as np

        questions, words = _view(self._question), _view(self._words).astype("f8")
        chosen = np.flatnonzero(self.choose(self.kept(), "shortest", None))
        chosen = chosen[np.argsort(questions[chosen], kind="stable")]
        wrong = np.flatnonzero(np.isin(_view(self._code), [_CODES[reason] for reason in WRONG]) & self.raw())
        if not len(chosen) or not len(wrong):
            return _mask(chosen[:0], len(self)), _mask(wrong[:0], len(self))
        at = np.searchsorted(questions[chosen], questions[wrong]).clip(max=len(chosen) - 1)
        partner = chosen[at]
        long, short = np.maximum(words[wrong], words[partner]), np.minimum(words[wrong], words[partner])
        fits = (questions[partner] == questions[wrong]) & (long <= MAX_LENGTH_RATIO * short)
        wrong, partner = wrong[fits], partner[fits]
        order = np.lexsort((wrong, np.abs(words[wrong] - words[partner]), questions[wrong]))
        nearest = order[_rank(questions[wrong][order]) == 0]
        return _mask(partner[nearest], len(self)), _mask(wrong[nearest], len(self))


def _view(values: array[int]) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.frombuffer(values, f"u{values.itemsize}") if len(values) else np.zeros(0, f"u{values.itemsize}")


def _mask(rows: np.ndarray[Any, Any], size: int) -> Mask:
    import numpy as np

    mask = np.zeros(size, bool)
    mask[rows] = True
    return mask


def _rank(groups: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The place of each entry in its group, from 0; equal entries stand together."""
    import numpy as np

    new = np.ones(len(groups), bool)
    new[1:] = groups[1:] != groups[:-1]
    starts = np.flatnonzero(new)
    return np.arange(len(groups)) - starts[np.cumsum(new) - 1]
