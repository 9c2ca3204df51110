"""Draws the report's figures with matplotlib: SVG for the page, in the page's colours, and PNG for report.md.

Each figure can be drawn at two widths with text of the same size, so that a phone shows it as readable as a desktop. The
same numbers give the same bytes: the SVG has no dates and no random ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotkit.evaluation.scored_runs import method_and_seed
from cotkit.report.costs import Cost
from cotkit.report.run_data import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette for all kinds of colour vision (Color Universal Design, 2008), without yellow and black,
# which vanish on one of the page's two backgrounds. Marks differ too, so that colour is never the only sign.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS = ("o", "s", "^", "D", "v", "P", "X")  # one more than colours, so that 42 methods differ in one of them
INK = "#010203"  # becomes currentColor in the SVG
WIDE, NARROW = 7.2, 3.7  # inches; 3.7 inches are 355 CSS pixels, the width of a phone without its margins


@dataclass(frozen=True)
class Estimate:
    """A labelled share or difference of shares with its interval. A difference is `shown` if the verdict says so."""

    label: str
    value: float
    low: float
    high: float
    shown: bool = False

    def percent(self) -> tuple[float, list[list[float]]]:
        """The value, and its distances to both ends as matplotlib's error bars take them."""
        return 100 * self.value, [[100 * (self.value - self.low)], [100 * (self.high - self.value)]]


def differences(estimates: Sequence[Estimate], title: str, width: float = WIDE) -> Figure:
    """A forest plot: one difference in accuracy per line, in percentage points."""
    figure, axes = _axes(title, width, 1.1 + 0.3 * len(estimates))
    heights = range(len(estimates), 0, -1)
    for height, item in zip(heights, estimates, strict=True):
        value, error = item.percent()
        fill = COLOURS[0] if item.shown else "none"
        axes.errorbar(value, height, xerr=error, fmt="o", color=COLOURS[0], mfc=fill, capsize=3)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    _name_rows(axes, [item.label for item in estimates])
    axes.set_xlabel("percentage points\n(filled: shown to be better or worse)")
    return figure


def accuracy_and_cost(
    accuracies: Sequence[Estimate], costs: Mapping[str, Cost], title: str, width: float = WIDE
) -> Figure:
    """The methods in the given order: accuracy on the left, tokens that were generated and trained on the right.

    Without any costs, the accuracies alone.
    """
    figure, panels = _panels(title, width, 1.5 + 0.28 * len(accuracies), 2 if costs else 1)
    heights = range(len(accuracies), 0, -1)
    for height, item in zip(heights, accuracies, strict=True):
        value, error = item.percent()
        panels[0].errorbar(value, height, xerr=error, fmt="o", color=COLOURS[0], capsize=3)
    panels[0].set_xlim(left=0)
    panels[0].set_xlabel("accuracy (%)")
    _name_rows(panels[0], [item.label for item in accuracies])
    if costs:
        _stack_costs(panels[1], [costs.get(item.label) for item in accuracies])
    return figure


def _stack_costs(axes: Axes, costs: Sequence[Cost | None]) -> None:
    """One bar per method, from the top: the teacher's tokens, the student's, those trained on; the sum beside it."""
    parts = (("teacher wrote", "teacher"), ("student wrote", "student"), ("trained on", "trained"))
    heights = list(range(len(costs), 0, -1))
    known = [cost or Cost() for cost in costs]
    left = [0.0] * len(costs)
    for colour, (label, part) in zip((COLOURS[1], COLOURS[5], COLOURS[4]), parts, strict=True):
        widths = [getattr(cost, part) for cost in known]
        if any(widths):
            axes.barh(heights, widths, left=left, height=0.6, color=colour, label=label)
        left = [start + more for start, more in zip(left, widths, strict=True)]
    for height, end, cost in zip(heights, left, costs, strict=True):
        text = "unknown" if cost is None else in_thousands(end)
        axes.annotate(f" {text}", (end, height), va="center", color=INK)
    axes.tick_params(axis="y", labelleft=False, length=0)
    axes.set_xlim(0, max(left) * 1.35)
    axes.xaxis.set_major_formatter(lambda value, _: in_thousands(value))
    axes.locator_params(axis="x", nbins=3)
    axes.set_xlabel("tokens")
    axes.figure.legend(frameon=False, loc="outside lower right", ncols=3, columnspacing=1, handlelength=1)


def in_thousands(tokens: float) -> str:
    """12,345 as 12k, 1,234,567 as 1.2M, 999 as it is."""
    if tokens < 1000:
        return f"{tokens:.0f}"
    return f"{tokens / 1000:.0f}k" if tokens < 999_500 else f"{tokens / 1e6:.1f}M"


def funnel(read: int, rejected: Sequence[tuple[str, int]], kept: int, title: str, width: float = WIDE) -> Figure:
    """Counts of teacher rows: all, those that each rule rejected, and those that are kept."""
    bars = [("read", read), *((reason, count) for reason, count in rejected if count), ("kept", kept)]
    figure, axes = _axes(title, width, 0.9 + 0.27 * len(bars))
    left, last = read, len(bars) - 1
    for number, (_, count) in enumerate(bars):
        taken = 0 < number < last
        left -= count if taken else 0
        start = left if taken else 0
        axes.barh(last + 1 - number, count, left=start, color=COLOURS[1] if taken else COLOURS[0], height=0.7)
        axes.annotate(f" {count:,}", (start + count, last + 1 - number), va="center", color=INK)
    _name_rows(axes, [label for label, _ in bars])
    axes.set_xlim(0, read * 1.2 or 1)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("teacher rows")
    return figure


def losses(curves: dict[str, Curve], title: str, order: Sequence[str], width: float = WIDE) -> Figure:
    """Training losses as lines, losses on held-out questions as marks.

    The seeds of a method share its colour, which follows from its position in `order`.
    """
    methods = {name: method_and_seed(name)[0] for name in curves}
    numbers = list(dict.fromkeys([*order, *methods.values()]))
    columns = 3 if width == WIDE else 2
    figure, axes = _axes(title, width, 3.2 + 0.18 * (len({*methods.values()}) // columns))
    labelled: set[str] = set()
    for name, curve in curves.items():
        method = methods[name]
        colour, mark = _colour_and_mark(numbers.index(method))
        if curve.train:
            axes.plot(*zip(*curve.train, strict=True), color=colour, linewidth=1, alpha=0.7)
        held_out = curve.evaluation or [(float("nan"), float("nan"))]
        label = None if method in labelled else method
        axes.plot(*zip(*held_out, strict=True), mark, color=colour, label=label)
        labelled.add(method)
    axes.set_xlabel("optimizer step; line: training, mark: held out")
    axes.set_ylabel("loss (nats per token)")
    figure.legend(frameon=False, loc="outside lower center", ncols=columns, columnspacing=1)
    return figure


def _colour_and_mark(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Names the rows of a chart from the top, at the heights len(labels), ..., 1."""
    axes.set_yticks(range(len(labels), 0, -1), labels)
    axes.set_ylim(0.4, len(labels) + 0.6)
    axes.tick_params(axis="y", length=0)


def _axes(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    figure, panels = _panels(title, width, height, 1)
    return figure, panels[0]


def _panels(title: str, width: float, height: float, number: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many charts side by side, which share their rows; sizes in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    colours = dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK)
    plain_text = {"svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
    matplotlib.rcParams.update({**plain_text, **colours})
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(1, number, sharey=True, squeeze=False)[0])
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return figure, panels


def svg(figure: Figure, name: str) -> str:
    """The drawing without a background; text and axes take the colour of the surrounding text.

    The palette becomes the style sheet's variables --plot0, --plot1, ... `name` must be unique on a page: ids follow from it.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing[drawing.index("<svg") :]).replace(INK, "currentColor")
    for number, colour in enumerate(COLOURS):
        drawing = drawing.replace(colour.lower(), f"var(--plot{number})")
    return drawing


def png(figure: Figure) -> bytes:
    """On white, with 130 dots per inch: under 60 kB."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
