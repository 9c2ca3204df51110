"""The report's page in a real browser: filters, links, keys, escaping, size; no request to the network, no error."""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cotkit.core.markdown import Table
from cotkit.report import page, plots
from cotkit.report.page import Picture, Report, Section
from cotkit.report.run_data import Curve, Output, Question

ATTACK = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'><!--<script>"
METHODS = ("baseline", "distilled")


def output(right: bool, text: str = "3*4=12\n#### 12", after: str = "") -> Output:
    verdict = "correct" if right else "wrong"
    return Output(verdict, "12", len(text.split()), len(text.split()), "stop", text, after)


def question(number: int, rights: tuple[bool, ...], text: str = "How many?", **more: str) -> Question:
    name = f"gsm8k-test-{number:05d}"
    outputs = {method: [output(right, **more)] for method, right in zip(METHODS, rights, strict=True)}
    return Question(name, f"{text} {number}", "12", "3*4=12", outputs)


def report(questions: list[Question]) -> Report:
    curves = {"distilled": Curve([(1, 2.0), (2, 1.5)], [(2, 1.8)])}
    table = Table(
        ["method", "accuracy", "wins"],
        [["baseline", "5.0 % [1.0, 9.5]", ""], [f"a|b {ATTACK}", "10.0 % [6.0, 15.1]", "2"], ["c", "unknown", "10"]],
        {"accuracy": f"share {ATTACK}"},
        {(1, 2): page.questions_link("gsm8k", "distilled", "baseline", "wins")},
    )
    texts: list[page.Part] = [
        "a text",
        page.Verbatim("commands", ATTACK),
        page.ShownTexts("kept", [page.ShownText(f"q {ATTACK}", f"t {ATTACK}", f"r {ATTACK}")], "note"),
        Picture("losses", partial(plots.losses, curves, f"Losses {ATTACK}", METHODS), f"losses {ATTACK}"),
    ]
    answers, details = [Section("Answer", [table])], [Section("Details", texts)]
    return Report(f"title {ATTACK}", f"finding {ATTACK}", answers, details, {"gsm8k": questions})


RIGHTS = [(True, True), (True, False), (False, True), (False, False), (False, True)]


class Opened:
    """A page with what it did wrong: console errors and requests that leave it."""

    def __init__(self, browser: Any, path: Path, address: str = "", **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.troubles: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.goto(path.as_uri() + address)

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.troubles.append(f"asked for {url}")

    def rows(self) -> list[str]:
        return self.page.locator(".row .name > :first-child").all_inner_texts()

    def count(self) -> str:
        return self.page.locator("#count").inner_text()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    path = tmp_path / "report.html"
    questions = [question(number, rights) for number, rights in enumerate(RIGHTS)]
    questions.append(question(9, (False, False), text=f"Attack {ATTACK}", after=f"\nthen {ATTACK}"))
    path.write_text(page.html(report(questions)), encoding="utf-8")
    seen = Opened(browser, path)
    yield seen
    assert seen.troubles == []
    assert seen.page.evaluate("window.hacked") is None
    seen.page.close()


def test_texts_of_the_data_are_shown_and_never_run(opened: Opened) -> None:
    page = opened.page
    assert page.locator("h1").inner_text() == f"title {ATTACK}"
    assert ATTACK in page.locator(".finding").inner_text()
    assert ATTACK in page.locator("table").inner_text()
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for place in (
        "dd",
        "pre",
        ".card .output",
        ".card .question >> nth=0",
        ".card .question >> nth=1",
        "figure .on-wide",
    ):
        assert ATTACK in page.locator(place).first.inner_text(), place
    page.locator(".row", has_text="gsm8k-test-00009").click()
    assert ATTACK in page.locator(".detail .question").inner_text()
    assert ATTACK in page.locator(".after").first.inner_text()
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2  # the data and the page's own


@pytest.mark.parametrize(
    ("outcome", "numbers"),
    [("any", [0, 1, 2, 3, 4, 9]), ("wins", [2, 4]), ("losses", [1]), ("both", [0]), ("neither", [3, 9])],
)
def test_outcome_filter_shows_wins_and_losses(opened: Opened, outcome: str, numbers: list[int]) -> None:
    opened.page.select_option("#outcome", outcome)
    assert opened.rows() == [f"gsm8k-test-{number:05d}" for number in numbers]
    assert opened.count() == f"{len(numbers)} of 6 questions"


def test_verdict_filter_follows_the_chosen_method(opened: Opened) -> None:
    opened.page.select_option("#verdict", "correct")
    assert opened.rows() == [f"gsm8k-test-{number:05d}" for number in (0, 2, 4)]
    opened.page.select_option("#method", label="baseline")
    assert opened.rows() == [f"gsm8k-test-{number:05d}" for number in (0, 1)]


def test_search_reads_questions_and_outputs(opened: Opened) -> None:
    opened.page.fill("#text", "THEN </SCRIPT>")
    opened.page.locator("#count", has_text="1 of 6").wait_for()
    assert opened.rows() == ["gsm8k-test-00009"]
    opened.page.fill("#text", "nothing like it")
    opened.page.locator("#count", has_text="0 of 6").wait_for()
    assert "No question passes" in opened.page.locator("#detail").inner_text()


def test_keys_move_select_and_search(opened: Opened) -> None:
    page = opened.page
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    assert page.locator(".row[aria-selected=true]").inner_text().startswith("gsm8k-test-00002")
    assert page.url.endswith("#q=gsm8k-test-00002")
    page.keyboard.press("End")
    assert page.locator("#list").get_attribute("aria-activedescendant") == "row-5"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"


def test_columns_sort_by_value_with_the_mouse_and_the_keyboard(opened: Opened) -> None:
    page = opened.page

    def first_cells() -> list[str]:
        return [text[:8] for text in page.locator("table td:first-child").all_inner_texts()]

    page.locator("th button", has_text="accuracy").click()
    assert first_cells() == [f"a|b {ATTACK}"[:8], "baseline", "c"], "10 is more than 5; what is unknown comes last"
    page.keyboard.press("Enter")
    assert first_cells() == ["baseline", f"a|b {ATTACK}"[:8], "c"]
    assert page.locator("th[aria-sort=ascending]").inner_text() == "accuracy"
    page.locator("th button", has_text="method").click()
    assert first_cells() == [f"a|b {ATTACK}"[:8], "baseline", "c"]
    assert page.locator("th[aria-sort]").count() == 1


def test_wins_of_a_pair_link_into_the_viewer(opened: Opened) -> None:
    opened.page.select_option("#outcome", "losses")
    opened.page.locator("td a", has_text="2").click()
    assert opened.rows() == [f"gsm8k-test-{number:05d}" for number in (2, 4)]
    assert opened.page.evaluate("document.activeElement.id") == "list"


def test_wins_and_losses_of_several_runs_are_those_of_the_comparison(browser: Any, tmp_path: Path) -> None:
    """A method's score of a question is the mean over its runs, so that a win may be one right answer of two."""
    rights = [(False, False, True), (True, True, False), (True, True, True), (False, True, False), (True, False, False)]
    names = ("baseline", "distilled.seed1", "distilled.seed2")
    rows = [
        Question(
            f"q{number}", "How many?", "12", "", {name: [output(right)] for name, right in zip(names, of, strict=True)}
        )
        for number, of in enumerate(rights)
    ]
    path = tmp_path / "report.html"
    path.write_text(page.html(report(rows)), encoding="utf-8")
    for outcome, ids in (("wins", ["q0", "q3"]), ("losses", ["q1", "q4"])):
        seen = Opened(browser, path, page.questions_link("gsm8k", "distilled", "baseline", outcome))
        assert (seen.rows(), seen.troubles) == (ids, [])
        seen.page.close()


def test_marks_stand_below_the_names_of_their_methods(opened: Opened) -> None:
    names, marks = opened.page.locator("#names span"), opened.page.locator(".row >> nth=0").locator(".mark")
    assert names.all_inner_texts() == list(METHODS)
    for at, method in enumerate(METHODS):
        name, mark = names.nth(at).bounding_box(), marks.nth(at).bounding_box()
        assert abs(name["x"] + name["width"] / 2 - mark["x"] - mark["width"] / 2) < 2, method
        assert marks.nth(at).get_attribute("title") == method


def test_a_link_to_a_section_opens_it(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.html(report([question(1, (False, True))])), encoding="utf-8")
    for address, shown in (("", False), ("#section-1", True)):
        seen = Opened(browser, path, address)
        assert seen.page.locator("details.section pre").is_visible() == shown
        seen.page.close()


def test_a_link_opens_its_question(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.html(report([question(n, (False, True)) for n in range(400)])), encoding="utf-8")
    seen = Opened(browser, path, "#q=gsm8k-test-00321")
    assert seen.page.locator(".detail h3").inner_text() == "gsm8k-test-00321"
    assert seen.page.locator(".row[aria-selected=true]").is_visible()
    assert seen.troubles == []
    seen.page.close()


@pytest.mark.slow
def test_ten_thousand_questions_keep_the_page_small(browser: Any, tmp_path: Path) -> None:
    """However many questions there are, the page holds some dozen rows, and scrolling to the end shows the last."""
    chance = random.Random(0)
    rows = [question(number, (chance.random() < 0.3, chance.random() < 0.5)) for number in range(10_000)]
    path = tmp_path / "report.html"
    path.write_text(page.html(report(rows)), encoding="utf-8")
    seen = Opened(browser, path)
    assert seen.count() == "10000 of 10000 questions"
    assert seen.page.locator(".row").count() < 60
    seen.page.evaluate("document.getElementById('list').scrollTop = 1e9")
    seen.page.locator(".row", has_text="gsm8k-test-09999").wait_for()
    assert seen.page.locator(".row").count() < 60
    assert seen.troubles == []
    seen.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_needs_no_sideways_scrolling(browser: Any, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.html(report([question(n, (True, False)) for n in range(40)])), encoding="utf-8")
    seen = Opened(browser, path, viewport={"width": 375, "height": 700}, color_scheme=scheme)
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colours = seen.page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    dark = sum(map(int, colours[1].removeprefix("rgb(").rstrip(")").split(", "))) < 3 * 128
    assert dark == (scheme == "dark") and colours[0] != colours[1]
    seen.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shown, hidden = seen.page.locator("figure .on-narrow svg"), seen.page.locator("figure .on-wide svg")
    assert shown.is_visible() and not hidden.is_visible()
    heights = seen.page.evaluate(
        "[...document.querySelectorAll('.on-narrow text')].map((one) => one.getBoundingClientRect().height)"
    )
    assert min(heights) > 10, "text in a plot is as large as on a desktop"
    seen.page.close()


def test_no_byte_changes_from_one_run_to_the_next() -> None:
    assert page.html(report([question(1, (True, False))])) == page.html(report([question(1, (True, False))]))


def test_markdown_keeps_tables_whole() -> None:
    text = page.markdown(report([]), "report")
    assert "| a\\|b " in text and "](report/losses.png)" in text


def test_script_and_style_are_plain_files() -> None:
    """The script parses (node, where it is there) and is the one that the page's policy names."""
    if shutil.which("node"):
        subprocess.run(["node", "--check", str(page.ASSETS / "report.js")], check=True)
    text = page.html(report([question(1, (True, False))]))
    assert "script-src 'sha256-" in text and "http" not in text.split("<style>")[0].replace("http-equiv", "")


def test_answers_are_named_where_there_are_several_data_sets() -> None:
    """A single one needs no heading: the finding names it."""
    one = report([question(1, (True, False))])
    assert "<h2>Answer</h2>" not in page.html(one)
    assert (
        page.html(dataclasses.replace(one, answers=[*one.answers, Section("Other", [])])).count("<h2>Answer</h2>") == 1
    )
