"""Interval, verdict and picture of a difference say the same; links lead to the pair that their row shows."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest

from cotkit.core.markdown import Table
from cotkit.evaluation.comparison import compare
from cotkit.evaluation.comparison_tables import dataset_finding
from cotkit.report import plots, sections
from cotkit.report.costs import Cost
from cotkit.report.page import Picture
from cotkit.report.recipe import recipe_section
from tests.evaluation.test_compare import add_method, one_sample

QUESTIONS = 60


@pytest.fixture
def dataset(tmp_path: Path) -> dict:
    """Methods that win 0, 3, 6, ... questions against a baseline and lose one, on both sides of what is shown."""
    add_method(tmp_path, "baseline", one_sample(range(20), QUESTIONS))
    for wins in range(0, 30, 3):
        add_method(tmp_path, f"wins_{wins:02d}", one_sample(range(1, 20 + wins), QUESTIONS))
        add_method(tmp_path, f"loses_{wins:02d}", one_sample(range(min(wins, 19), 20), QUESTIONS))
    for seed in (1, 2):
        add_method(tmp_path, f"seeds.seed{seed}", one_sample(range(30 + seed), QUESTIONS))
    (found,) = compare([tmp_path], "baseline")["datasets"]
    found["finding"] = dataset_finding(found, "baseline")
    return found


def parts(section: sections.Section, kind: type) -> list:
    return [part for part in section.parts if isinstance(part, kind)]


def test_interval_verdict_and_picture_of_a_difference_say_the_same(dataset: dict):
    answer = sections.answer_section(dataset, "baseline", "another finding")
    (table,), (picture,) = parts(answer, Table), parts(answer, Picture)
    assert answer.parts[0] == dataset["finding"], "it differs from the run's"
    (axes,) = picture.draw(plots.WIDE).axes
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    rows = [row for row in table.rows if row[0] != "baseline"]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [row[0] for row in rows], "in the order of the table"
    assert {row[4] for row in rows} == {"better", "worse", "inconclusive"}
    bars = axes.collections
    for row, mark, bar in zip(rows, marks, bars, strict=True):
        low, high = (float(end) for end in row[2].partition("[")[2].rstrip("]").split(", "))
        shown = row[4] in ("better", "worse")
        assert (low > 0 or high < 0) == shown, row
        assert (mark.get_markerfacecolor() != "none") == shown, row
        (segment,) = bar.get_segments()
        assert segment[:, 0] == pytest.approx([low, high], abs=0.06), row


def test_the_best_method_is_on_top(dataset: dict):
    (table,) = parts(sections.answer_section(dataset, "baseline", ""), Table)
    accuracies = [float(row[1].split(" ")[0]) for row in table.rows]
    assert accuracies == sorted(accuracies, reverse=True) and len(table.header) == 5


def test_each_number_of_wins_and_losses_links_to_its_pair(dataset: dict):
    tables = parts(sections.figures_section(dataset, {}), Table)
    (table,) = (one for one in tables if one.links)
    for (row, column), address in table.links.items():
        wanted = {key: values[0] for key, values in parse_qs(address.removeprefix("#")).items()}
        assert table.rows[row][0] == f"{wanted['method']} against {wanted['reference']}"
        assert table.header[column] == wanted["outcome"] and wanted["data"] == "gsm8k"
    linked = {table.rows[row][column] for row, column in table.links}
    assert "0" not in linked and len(table.links) == sum(cell != "0" for row in table.rows for cell in row[3:5])


def test_accuracies_stand_beside_costs(dataset: dict):
    costs = {"baseline": Cost(), "wins_27": Cost(teacher=1_200_000, trained=34_000)}
    (picture,) = parts(sections.figures_section(dataset, costs), Picture)
    left, right = picture.draw(plots.NARROW).axes
    names = [label.get_text() for label in left.get_yticklabels()]
    written = dict(zip(names, (text.get_text().strip() for text in right.texts), strict=True))
    assert (written["baseline"], written["wins_27"], written["seeds"]) == ("0", "1.2M", "unknown")
    assert "wins_27 76.7% for 1.2M tokens" in picture.alt
    values = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"]
    assert list(values) == sorted(values, reverse=True) and np.isclose(values[0], 100 * 46 / 60)


def test_hyperparameters_that_differ_have_a_table_of_their_own():
    def training(**settings: object) -> dict:
        common = {"learning_rate": 1e-3, "stage": "sft", "model_files": "0"}
        return {"stage": "train", "settings": common | settings, "versions": {"torch": "2"}, "command": "bash train.sh"}

    trainings = {"train/a": training(dataset="gold"), "train/b": training(dataset="kept", seed=2)}
    section = recipe_section("mine", trainings, {"a": {"lora_alpha": 128}, "b": {"lora_alpha": 128}})
    shared, different = parts(section, Table)
    assert shared.rows == [["learning_rate", "0.001"], ["stage", "sft"], ["lora_alpha", "128"]]
    assert (different.header, different.rows) == (
        ["training", "dataset", "seed"],
        [["a", "gold", ""], ["b", "kept", "2"]],
    )
