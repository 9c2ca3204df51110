"""The methods of a comparison as one table for a paper or a spreadsheet: CSV, LaTeX, Markdown or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from cotkit.core.cli import nearest
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.evaluation.comparison_tables import points

FORMATS = ("md", "csv", "latex", "json")


def _of_pair(key: str) -> Callable[[Row, Row | None], float | str | None]:
    return lambda _, pair: pair[key] if pair else None


def _mean(key: str) -> Callable[[Row, Row | None], float | None]:
    """The mean of a figure over a method's runs."""

    def mean(method: Row, _: Row | None) -> float | None:
        known = [run[key] for run in method["runs"] if run.get(key) is not None]
        return fmean(known) if known else None

    return mean


# Column -> its value, from a method of comparison.json and its pair with the reference (None for the reference itself).
# Accuracies and differences are shares; intervals of differences belong to the verdict.
COLUMNS: dict[str, Callable[[Row, Row | None], float | str | None]] = {
    "dataset": lambda method, _: method["dataset"],
    "questions": lambda method, _: method["questions"],
    "method": lambda method, _: method["method"],
    "runs": lambda method, _: len(method["runs"]),
    "accuracy": lambda method, _: method["accuracy"],
    "accuracy_low": lambda method, _: method["accuracy_low"],
    "accuracy_high": lambda method, _: method["accuracy_high"],
    "standard_deviation": lambda method, _: method["standard_deviation"],
    "difference": _of_pair("difference"),
    "difference_low": _of_pair("verdict_low"),
    "difference_high": _of_pair("verdict_high"),
    "p_adjusted": _of_pair("p_adjusted"),
    "verdict": _of_pair("verdict"),
    "words_to_answer": _mean("words_to_answer"),
    "completion_tokens": _mean("completion_tokens"),
    "truncated": _mean("truncated"),
}
SHARES = {"accuracy", "difference", "truncated", "standard_deviation"}  # shown in per cent where people read


def rows(comparison: Row, columns: Sequence[str], names: Mapping[str, str]) -> list[Row]:
    """One row per data set and method, with the chosen columns. Raises UserError for an unknown column or method."""
    for column in columns:
        if column not in COLUMNS:
            raise UserError(f"--columns {column}: no such column{nearest(column, COLUMNS)}")
    known = [method["method"] for dataset in comparison["datasets"] for method in dataset["methods"]]
    for name in names:
        if name not in known:
            raise UserError(f"--names {name}=...: no such method{nearest(name, known)}")
    found = []
    for dataset in comparison["datasets"]:
        against = {pair["method"]: pair for pair in dataset["pairs"] if pair["reference"] == comparison["reference"]}
        for method in dataset["methods"]:
            placed = {**method, "dataset": dataset["dataset"], "questions": dataset["questions"]}
            row = {column: COLUMNS[column](placed, against.get(method["method"])) for column in columns}
            if "method" in row:
                row["method"] = names.get(row["method"], row["method"])
            found.append(row)
    return found


def text(found: list[Row], form: str) -> str:
    """The rows in one of `FORMATS`. CSV and JSON keep every digit; the others are rounded for people."""
    if form == "json":
        return json.dumps(found, ensure_ascii=False, indent=1) + "\n"
    header = list(found[0])
    if form == "csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([["" if value is None else value for value in row.values()] for row in found])
        return buffer.getvalue()
    intervals = [name for name in ("accuracy", "difference") if {f"{name}_low", f"{name}_high"} <= set(header)]
    shown = [name for name in header if name.rpartition("_")[0] not in intervals]
    cells = [[_cell(name, row, name in intervals) for name in shown] for row in found]
    titles = [name.replace("_", " ") + (" (%)" if name in SHARES else "") for name in shown]
    return "\n".join(Table(titles, cells).lines()) + "\n" if form == "md" else _latex(titles, cells)


def _cell(name: str, row: Row, with_interval: bool) -> str:
    value = row[name]
    if value is None:
        return "--"
    if isinstance(value, str | int):
        return str(value)
    if name == "p_adjusted":
        return "< 0.001" if value < 0.001 else f"{value:.2g}"
    scale, digits = (100, 1) if name in SHARES else (1, 0)

    def number(amount: float) -> str:
        return points(amount) if name == "difference" else f"{scale * amount:.{digits}f}"

    return number(value) + (f" [{number(row[f'{name}_low'])}, {number(row[f'{name}_high'])}]" if with_interval else "")


def _latex(titles: Iterable[str], cells: Iterable[Sequence[str]]) -> str:
    """A tabular of the package booktabs. The first columns of text are aligned to the left."""
    titles, cells = list(map(_escaped, titles)), [list(map(_escaped, row)) for row in cells]
    align = "".join(
        "l" if all(not row[at][:1].strip("+-<").isdigit() for row in cells) else "r" for at in range(len(titles))
    )
    lines = [r"\begin{tabular}{" + align + "}", r"\toprule", " & ".join(titles) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in cells]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(cell: str) -> str:
    for mark in "\\&%$#_{}":
        cell = cell.replace(mark, r"\textbackslash " if mark == "\\" else f"\\{mark}")
    return cell.replace("<", "$<$")
