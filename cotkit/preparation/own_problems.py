"""Turns the rows of a source into problems: maps columns, checks everything, divides into splits.

All faults of a source are shown at once, each with its file and line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from cotkit.core.cli import similar
from cotkit.core.datasets import BOXED, KIND_FIELD, AnswerKind, Columns
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.core.problems import unfit
from cotkit.core.text_repair import control_character, repaired
from cotkit.preparation.description import DEFAULT_SHARES, Description
from cotkit.preparation.source_files import ONLY, SourceRow

MAX_SHOWN = 10  # faults that are printed one by one
SPLIT_NAMES = {"validation": "dev", "valid": "dev", "val": "dev"}  # what sources call the split dev
Splits = dict[str, list[Row]]

_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MONEY = re.compile(r"([-+]?)\s*\\?[$€£]\s*(?=[\d.])")
_ANSWER_LINE = re.compile(r"(?:\A|\s*\n)[ \t]*####[^\n]*\s*\Z")
_WHOLE = re.compile(r"([-+]?\d+)\.0")


class Faults:
    """The faults of a source, each with its place."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, message: str) -> None:
        self.found.append(f"{where}: {message}")

    def refuse(self, name: str) -> None:
        """Raises UserError with at most `MAX_SHOWN` faults and their number, if there are any."""
        if len(self.found) == 1:
            raise UserError(self.found[0])
        if self.found:
            more = len(self.found) - MAX_SHOWN
            tail = [f"and {more} more"] if more > 0 else []
            raise UserError("\n".join([f"{name}: {len(self.found)} faults:", *self.found[:MAX_SHOWN], *tail]))


def own_problems(
    description: Description, source: dict[str, list[SourceRow]], why_unreadable: Callable[[str], str | None]
) -> tuple[Splits, int]:
    """Checked problems by split, and how many rows with a repeated question were dropped.

    Args:
        source: the rows by the source's own splits.
        why_unreadable: says why an answer is none of the description's kind; None if it is one.

    Raises:
        UserError: naming all faults with file and line.
    """
    splits = _named_splits(source, description.input)
    columns = _existing_columns(description.columns, splits, description.input)
    faults, dropped = Faults(), 0
    ids: dict[str, str] = {}
    questions: dict[str, str] = {}
    problems: Splits = {split: [] for split in splits}
    # Of a question that train and test share, the test's is the first.
    for split in sorted(splits, key=lambda name: (name != "test", name != "dev")):
        for number, row in enumerate(splits[split]):
            if row.fault:
                faults.add(row.where, row.fault)
                continue
            values = _problem_values(row, columns, description.kind, faults, why_unreadable)
            default_id = "-".join(filter(None, (description.name, split, f"{number:05d}")))
            name = _id_of(row, columns.id, faults) if columns.id else default_id
            first = questions.setdefault(" ".join(values["question"].split()), row.where)
            if first != row.where and values["question"].strip():
                if description.drop_repeated:
                    dropped += 1
                    continue
                message = f"the same question as in {first}; remove one, or give --drop_repeated"
                faults.add(row.where, message)
            if name and ids.setdefault(name, row.where) != row.where:
                faults.add(row.where, f"id {name!r} is already in {ids[name]}; ids must differ")
            problem = {"id": name, "dataset": description.name, "split": split, **values}
            problems[split].append({**problem, KIND_FIELD: description.kind})
    faults.refuse(description.input)
    return _divided(description, problems), dropped


def _named_splits(source: dict[str, list[SourceRow]], name: str) -> dict[str, list[SourceRow]]:
    renamed = {SPLIT_NAMES.get(split, split): rows for split, rows in source.items() if rows}
    if not renamed:
        raise UserError(f"{name}: the source holds no rows")
    if len(renamed) < sum(bool(rows) for rows in source.values()):
        raise UserError(f"{name}: several splits of the source would be called dev ({', '.join(source)}); rename one")
    return renamed


def _existing_columns(columns: Columns, splits: dict[str, list[SourceRow]], name: str) -> Columns:
    """The columns with the default for the solution. Raises UserError naming those that the source lacks."""
    first = next(iter(splits.values()))[0]
    known = list(dict.fromkeys(key for rows in splits.values() for row in rows for key in row.values))
    answer, solution = columns.answer, columns.solution
    if solution is None:
        solution = "solution" if "solution" in known else answer if columns.answer_pattern else None
    if answer is None:
        answer = solution if columns.answer_pattern and solution else "answer"
    wanted = {"question": columns.question, "answer": (answer,), "solution": (solution,), "id": (columns.id,)}
    missing = [
        f"--{flag} {column}{similar(column, known)}"
        for flag, listed in wanted.items()
        for column in listed
        if column is not None and column not in known
    ]
    if missing:
        where = first.where if not first.values else name
        raise UserError(f"{where}: no such columns: {', '.join(missing)}; there are {', '.join(map(repr, known))}")
    return Columns(columns.question, answer, solution, columns.id, columns.answer_pattern)


def _problem_values(
    row: SourceRow, columns: Columns, kind: AnswerKind, faults: Faults, why_unreadable: Callable[[str], str | None]
) -> Row:
    """Question, solution and answer of a row. Adds what is wrong with them to `faults`."""
    before = len(faults.found)
    for column in (*columns.question, columns.answer):
        if column not in row.values:
            faults.add(row.where, f"has no {column!r}, only {', '.join(map(repr, row.values)) or 'nothing'}")
    for column in dict.fromkeys((*columns.question, columns.answer, columns.solution)):
        if not _is_text(row.values.get(column)):
            found = type(row.values[column]).__name__
            faults.add(row.where, f"{column!r} must be text or a number, found {found}")
    if len(faults.found) > before:
        return {"question": "", "solution": "", "answer": ""}
    values = problem_values(row.values, columns, kind)
    values["solution"] = _ANSWER_LINE.sub("", values["solution"])  # a training target gets its own
    if not values["question"].strip():
        faults.add(row.where, "the question is empty")
    if not values["answer"]:
        faults.add(row.where, f"the answer is empty{'; --answer_pattern finds none' if columns.answer_pattern else ''}")
    elif "\n" in values["answer"]:
        faults.add(row.where, f"the answer has several lines: {values['answer'][:60]!r}; leave only the answer")
    elif problem := why_unreadable(values["answer"]):
        reason = problem.replace("gold", "it", 1)
        faults.add(row.where, f"answer {values['answer'][:60]!r} is not of kind {kind}: {reason}")
    for name, text in values.items():
        if found := unfit(text):
            faults.add(row.where, f"the {name} holds {found}")
    return values


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)


def _as_text(value: Any) -> str:
    is_missing = value is None or isinstance(value, float) and math.isnan(value)
    return "" if is_missing else str(value)


def _id_of(row: SourceRow, column: str, faults: Faults) -> str:
    value = row.values.get(column)
    name = _as_text(value) if _is_text(value) else ""
    if not name.strip() or control_character(name) or "\n" in name:
        faults.add(row.where, f"{column!r} must be an id on one line, found {value!r}")
    return name


def problem_values(values: Row, columns: Columns, kind: AnswerKind) -> Row:
    """Question, solution, answer and extra columns of a row of text and numbers, with certain damage repaired."""
    texts = [_as_text(values.get(column)) for column in columns.question]
    question = texts[0] if len(texts) == 1 else " ".join(text.strip() for text in texts if text.strip())
    if not question and columns.other_question:
        question = _as_text(values.get(columns.other_question))
    solution = _as_text(values.get(columns.solution)) if columns.solution else ""
    answer = _as_text(values.get(columns.answer or columns.solution))
    if columns.answer_pattern:
        answer, rest = _found_answer(answer, columns.answer_pattern)
        solution = rest if columns.answer == columns.solution else solution
    extra = {column: values[column] for column in columns.extra if column in values}
    texts = {"question": repaired(question), "solution": repaired(solution)}
    return {**texts, "answer": plain_answer(repaired(answer, formula=True), kind), **extra}


def _found_answer(text: str, pattern: str) -> tuple[str, str]:
    """The answer inside a text, and the text without an answer line at its end."""
    if pattern == BOXED:
        return last_boxed(text), text
    matches = list(re.finditer(pattern, text, re.MULTILINE))
    if not matches:
        return "", text
    found = matches[-1]
    answer = found[1 if found.re.groups else 0] or ""
    return answer, text if text[found.end() :].strip() else text[: found.start()].rstrip()


def last_boxed(text: str) -> str:
    r"""The content of the last ``\boxed{...}`` with balanced braces, or of ``\boxed 5``; empty if there is none."""
    matches = list(re.finditer(r"\\f?boxed\s*(?:\{|(?P<bare>-?\w+))", text))
    if not matches:
        return ""
    found = matches[-1]
    if found["bare"]:
        return found["bare"]
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[found.end() :]):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[found.end() : found.end() + brace.start()].strip()
    return ""


def plain_answer(text: str, kind: AnswerKind) -> str:
    """The answer as known data sets write it: ``27`` for 27.0 and, where it is a number, for ``$27``; no ``1,234``."""
    text = text.strip()
    if kind == "number":
        text = _MONEY.sub(r"\1", text, count=1)
        text = text.replace(",", "") if _GROUPED.fullmatch(text) else text
    text = _WHOLE.sub(r"\1", text) if _WHOLE.fullmatch(text) else text
    return "0" if kind == "number" and re.fullmatch(r"-0+(?:\.0*)?", text) else text


def divided(rows: list[Row], shares: dict[str, str], seed: int) -> Splits:
    """The rows in random order by shares, each with its new `split`.

    The order is that of `datasets`' ``train_test_split``: NumPy's default generator shuffles, and the rows for dev come
    first. The split with the largest share gets what rounding up leaves of the others.
    """
    import numpy

    order = [int(at) for at in numpy.random.default_rng(seed).permutation(len(rows))]
    largest = max(shares, key=lambda split: Fraction(shares[split]))
    parts: dict[str, list[int]] = {}
    for split, share in shares.items():
        if split != largest:
            size = math.ceil(Fraction(share) * len(rows))
            parts[split], order = order[:size], order[size:]
    parts[largest] = order
    return {split: [{**rows[at], "split": split} for at in parts[split]] for split in shares}


def _divided(description: Description, problems: Splits) -> Splits:
    """The source's own splits. Shares divide its train split, or its only one."""
    shares = description.shares
    if not shares and set(problems) - {ONLY, "train"}:
        return problems
    whole = next(iter(problems)) if len(problems) == 1 else "train"
    rest = {split: rows for split, rows in problems.items() if split != whole}
    shares = shares or DEFAULT_SHARES
    if whole not in problems:
        raise UserError(f"--split: the source has no split train, only {', '.join(problems)}; leave --split out")
    if both := sorted(shares.keys() & rest.keys()):
        raise UserError(
            f"--split: the source has its own {', '.join(both)}; divide only train, as in train:0.9,dev:0.1"
        )
    if len(problems[whole]) < len(shares):
        raise UserError(f"{description.input}: {len(problems[whole])} rows are too few for {len(shares)} splits")
    parts = divided(problems[whole], shares, description.seed)
    if empty := [split for split, rows in parts.items() if not rows]:
        raise UserError(f"{description.input}: too few rows for the split {empty[0]}; change --split")
    return {**parts, **rest}
