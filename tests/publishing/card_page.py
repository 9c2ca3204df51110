"""Opens a card in the test browser as the hub shows it, and what to ask of that page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# As on the hub and on GitHub: long words break, and tables and code scroll by themselves.
PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>
body { font: 16px sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
table { display: block; max-width: 100%; overflow-x: auto; border-collapse: collapse; }
td, th { border: 1px solid; padding: 0.3rem; white-space: nowrap; }
pre { overflow-x: auto; }
</style>"""

# The texts of a page's table, row by row.
CELLS = "table => [...table.rows].map(row => [...row.cells].map(cell => cell.innerText.trim()))"
# Elements that reach beyond the right edge and are in nothing that scrolls.
WIDE = """() => [...document.querySelectorAll("body *")].filter(one =>
    one.getBoundingClientRect().right > innerWidth + 0.5 && !one.parentElement.closest("table, pre")
).map(one => one.outerHTML)"""
# All texts but those of code.
PROSE = """() => {
    const copy = document.body.cloneNode(true);
    copy.querySelectorAll("code, pre, style").forEach(one => one.remove());
    return copy.textContent;
}"""


def shown(browser: Any, card: str, width: int, folder: Path) -> Any:
    """A page with the card as the hub renders it, without its head."""
    from markdown_it import MarkdownIt

    text = card.split("---\n", 2)[2].split("\ndry run: ")[0]
    path = folder / "card.html"
    path.write_text(PAGE + MarkdownIt().enable(["table", "strikethrough"]).render(text), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(path.as_uri())
    return page


def check(page: Any, width: int) -> None:
    """Asserts that no Markdown is left over, all rows of a table are complete, and only tables and code scroll sideways."""
    prose = page.evaluate(PROSE)
    left = [mark for mark in ("**", "__", "`", "](", "| ", "---", "# ", "<") if mark in prose]
    assert not left, left
    assert all(len(row) == len(table[0]) for table in tables(page) for row in table)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert not (wide := page.evaluate(WIDE)), wide


def tables(page: Any) -> list[list[list[str]]]:
    """The texts of all cells, row by row."""
    return [one.evaluate(CELLS) for one in page.query_selector_all("table")]
