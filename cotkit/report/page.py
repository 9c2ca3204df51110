"""Writes a report, which is sections of text, tables and figures, as Markdown with pictures and as one HTML page.

The page loads nothing from the network. Its content security policy allows only its own script, by hash, and all data
reaches the script as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from cotkit.core.markdown import Table
from cotkit.evaluation.comparison_tables import as_markdown, explained
from cotkit.evaluation.scored_runs import method_and_seed
from cotkit.report import plots
from cotkit.report.run_data import Output, Question

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

# A cell of a column of figures: 1,234 or +8.3 [-9.0, +22.8] or 45 % or 2.6e-05 or unknown.
FIGURE = re.compile(r"[+-]?\d[\d,.]*(?:e-?\d+)?(?: ?%)?(?: [\[(].*)?|unknown")
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its PNG file without ending, and a text for readers who cannot see it.

    `draw(width)` draws it `width` inches wide.
    """

    name: str
    draw: Callable[[float], Figure]
    alt: str


@dataclass(frozen=True)
class Verbatim:
    """A text to be shown as it is, such as commands or a prompt."""

    title: str
    text: str


@dataclass(frozen=True)
class ShownText:
    """A text of the run to read, the question that it answers, and a remark."""

    question: str
    text: str
    remark: str = ""


@dataclass(frozen=True)
class ShownTexts:
    """Texts that open below their title, on the page only."""

    title: str
    items: list[ShownText]
    note: str = ""


Part = str | Table | Picture | Verbatim | ShownTexts


@dataclass(frozen=True)
class Section:
    """A heading with its parts."""

    title: str
    parts: list[Part]


@dataclass(frozen=True)
class Report:
    """A run's report.

    Attributes:
        finding: one sentence.
        answers: what a reader sees first, a section per data set.
        details: sections that the page opens on demand.
        questions: data set -> its questions, for the page's viewer; the Markdown form leaves them out.
    """

    title: str
    finding: str
    answers: list[Section]
    details: list[Section] = field(default_factory=list)
    questions: dict[str, list[Question]] = field(default_factory=dict)

    def parts(self) -> Iterator[Part]:
        for section in (*self.answers, *self.details):
            yield from section.parts

    def pictures(self) -> list[Picture]:
        return [part for part in self.parts() if isinstance(part, Picture)]


def questions_link(dataset: str, method: str, reference: str, outcome: str) -> str:
    """The address in the page of the questions with one outcome of a pair: `wins` or `losses` of the method."""
    return "#" + urlencode({"data": dataset, "method": method, "reference": reference, "outcome": outcome})


def markdown(report: Report, picture_folder: str) -> str:
    """The report as Markdown; pictures are linked at <picture_folder>/<name>.png."""
    blocks: list[str | Table] = [f"# {report.title}", report.finding]
    for section in (*report.answers, *report.details):
        blocks.append(f"## {section.title}")
        for part in section.parts:
            if isinstance(part, Picture):
                blocks.append(f"![{part.alt}]({picture_folder}/{part.name}.png)")
            elif isinstance(part, Verbatim):
                blocks += [f"{part.title}:", "\n".join(f"    {line}" for line in part.text.split("\n"))]
            elif not isinstance(part, ShownTexts):
                blocks.append(part)
    return as_markdown([*blocks, "## The columns", explained(report.parts())])


def html(report: Report) -> str:
    """The page as one self-contained file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"drawing": drawing, "breakable": breakable, "figures": figure_columns}
    environment.tests |= {
        kind.__name__.lower(): lambda part, kind=kind: isinstance(part, kind)
        for kind in (Table, Picture, Verbatim, ShownTexts)
    }
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html.jinja").render(
        report=report,
        style=Markup(style),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        data=Markup(script_safe_json(viewer_data(report.questions))),
    )


def drawing(picture: Picture, form: str) -> Markup:
    """The SVG of a picture in the form `wide` or `narrow`; matplotlib escapes the names in it."""
    from markupsafe import Markup

    figure = picture.draw(plots.WIDE if form == "wide" else plots.NARROW)
    return Markup(plots.svg(figure, f"{picture.name} {form}"))


def figure_columns(table: Table) -> list[bool]:
    """Whether each column holds figures, which are aligned to the right and sort by their value."""
    filled = ([cell for cell in cells if cell] for cells in zip(*table.rows, strict=True))
    return [bool(cells) and all(map(FIGURE.fullmatch, cells)) for cells in filled] or [False] * len(table.header)


def breakable(text: str) -> Markup:
    """The escaped text, which a line may break after an underscore."""
    from markupsafe import Markup, escape

    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def viewer_data(questions: dict[str, list[Question]]) -> dict[str, Any]:
    """The viewer's input: `fields`, the names of an output's values, and `sets`.

    A set has `name`, `runs`, `methods`, which are pairs of a name and the positions of its runs, and `questions`, whose
    `outputs` are in the order of the runs; an output is a list of values.
    """
    names = [one.name for one in fields(Output)]
    sets = [
        {
            "name": dataset,
            "runs": list(rows[0].outputs),
            "methods": list(runs_by_method(rows[0].outputs).items()),
            "questions": [
                {
                    "id": row.id,
                    "question": row.question,
                    "answer": row.answer,
                    "solution": row.solution,
                    "outputs": [
                        [[getattr(one, name) for name in names] for one in samples] for samples in row.outputs.values()
                    ],
                }
                for row in rows
            ],
        }
        for dataset, rows in questions.items()
    ]
    return {"fields": names, "sets": sets}


def runs_by_method(stems: Iterable[str]) -> dict[str, list[int]]:
    """Method -> the positions of its training runs among the names of all runs."""
    found: dict[str, list[int]] = {}
    for number, stem in enumerate(stems):
        found.setdefault(method_and_seed(stem)[0], []).append(number)
    return found


def script_safe_json(value: Any) -> str:
    """JSON for a script element: no text in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
