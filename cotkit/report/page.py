"""Writes a report, which is sections of text, tables and figures, as Markdown with pictures and as one HTML page.

The page loads nothing from the network. Its content security policy allows only its own script, by hash, and all data
reaches the script as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotkit.core.markdown import Table
from cotkit.evaluation.comparison_tables import as_markdown
from cotkit.report import plots
from cotkit.report.run_data import Question

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its PNG file without ending, and a text for readers who cannot see it."""

    name: str
    figure: Figure
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, tables and pictures."""

    title: str
    parts: list[str | Table | Picture]


@dataclass(frozen=True)
class Report:
    """`questions[dataset]` fill the page's viewer; the Markdown form leaves them out."""

    title: str
    finding: str
    sections: list[Section]
    questions: dict[str, list[Question]] = field(default_factory=dict)

    def pictures(self) -> list[Picture]:
        return [part for section in self.sections for part in section.parts if isinstance(part, Picture)]


def markdown(report: Report, picture_folder: str) -> str:
    """The report as Markdown; pictures are linked at <picture_folder>/<name>.png."""
    blocks: list[str | Table] = [f"# {report.title}", report.finding]
    for section in report.sections:
        blocks.append(f"## {section.title}")
        for part in section.parts:
            blocks.append(f"![{part.alt}]({picture_folder}/{part.name}.png)" if isinstance(part, Picture) else part)
    return as_markdown(blocks)


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
    environment.filters["svg"] = lambda figure: Markup(plots.svg(figure))  # matplotlib escapes the names in a drawing
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html.jinja").render(
        report=report,
        style=Markup(style),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        data=Markup(script_safe_json(viewer_data(report.questions))),
    )


def viewer_data(questions: dict[str, list[Question]]) -> list[dict[str, Any]]:
    """The viewer's input: data sets with `name`, `methods` and `questions`, whose `outputs` are in the methods' order."""
    return [
        {
            "name": dataset,
            "methods": list(rows[0].outputs),
            "questions": [{**asdict(row), "outputs": list(asdict(row)["outputs"].values())} for row in rows],
        }
        for dataset, rows in questions.items()
    ]


def script_safe_json(value: Any) -> str:
    """JSON for a script element: no text in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
