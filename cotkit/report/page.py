"""A report's form: sections of text, tables and figures, written as Markdown with pictures or as one HTML page.

The page asks the network for nothing and runs no script but its own: its content security policy names that script's
hash, and all data reaches it as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotkit.core.markdown import Table
from cotkit.report import plots
from cotkit.report.run_data import Question

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILES = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its PNG file without ending, and what it shows, for those who cannot see it."""

    name: str
    figure: Figure
    alt: str


@dataclass(frozen=True)
class SectionPart:
    """A paragraph, a table or a picture."""

    text: str = ""
    table: Table | None = None
    picture: Picture | None = None


@dataclass(frozen=True)
class Section:
    title: str
    parts: list[SectionPart]


@dataclass(frozen=True)
class Report:
    """`questions[dataset]` fill the page's viewer; the Markdown form has none."""

    title: str
    finding: str
    sections: list[Section]
    questions: dict[str, list[Question]] = field(default_factory=dict)

    def pictures(self) -> Iterator[Picture]:
        for section in self.sections:
            for part in section.parts:
                if part.picture:
                    yield part.picture


def markdown(report: Report, picture_folder: str) -> str:
    """The report for a reader of text; pictures are linked at <picture_folder>/<name>.png."""
    blocks = [f"# {report.title}", report.finding]
    for section in report.sections:
        blocks.append(f"## {section.title}")
        for part in section.parts:
            blocks += [part.text] if part.text else []
            blocks += ["\n".join(part.table.lines())] if part.table else []
            if part.picture:
                blocks.append(f"![{part.picture.alt}]({picture_folder}/{part.picture.name}.png)")
    return "\n\n".join(blocks) + "\n"


def html(report: Report) -> str:
    """The page: one file that holds everything."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(PAGE_FILES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (PAGE_FILES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return environment.get_template("report.html.jinja").render(
        title=report.title,
        finding=report.finding,
        sections=[
            {"title": section.title, "anchor": f"section-{number}", "parts": list(map(_page_part, section.parts))}
            for number, section in enumerate(report.sections, 1)
        ],
        style=Markup((PAGE_FILES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        data=Markup(script_safe_json(viewer_data(report.questions))),
    )


def _page_part(part: SectionPart) -> dict[str, Any]:
    from markupsafe import Markup

    # Markup: the drawing is matplotlib's, which escapes the names in it.
    drawing = Markup(plots.svg(part.picture.figure)) if part.picture else ""
    return {"text": part.text, "table": part.table, "drawing": drawing, "alt": part.picture.alt if part.picture else ""}


def viewer_data(questions: dict[str, list[Question]]) -> list[dict[str, Any]]:
    """What the viewer reads: data sets with `name`, `methods` and `questions`, whose `outputs` follow `methods`."""
    return [
        {
            "name": dataset,
            "methods": list(rows[0].outputs),
            "questions": [
                {
                    "id": row.id,
                    "question": row.question,
                    "answer": row.answer,
                    "solution": row.solution,
                    "outputs": [[asdict(output) for output in outputs] for outputs in row.outputs.values()],
                }
                for row in rows
            ],
        }
        for dataset, rows in questions.items()
    ]


def script_safe_json(value: Any) -> str:
    """JSON that can stand inside a script element: no text in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
