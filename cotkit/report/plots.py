"""Draws the report's figures with matplotlib: SVG for the page, in the colour of the page's text, and PNG for report.md.

The same numbers give the same bytes: the SVG has no dates and no random ids.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotkit.evaluation.comparison import method_and_seed
from cotkit.report.run_data import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette for all kinds of colour vision (Color Universal Design, 2008), without yellow and black,
# which vanish on one of the page's two backgrounds. Marks differ too, so that colour is never the only sign.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS = ("o", "s", "^", "D", "v", "P", "X")  # one more than colours, so that 42 methods differ in one of them
INK = "#010203"  # becomes currentColor in the SVG
WIDTH_INCHES = 7.2


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


def differences(estimates: Sequence[Estimate], title: str) -> Figure:
    """A forest plot: one difference in accuracy per line, in percentage points."""
    figure, axes = _axes(title, 1.1 + 0.34 * len(estimates))
    heights = range(len(estimates), 0, -1)
    for height, item in zip(heights, estimates, strict=True):
        value, error = item.percent()
        fill = COLOURS[0] if item.shown else "none"
        axes.errorbar(value, height, xerr=error, fmt="o", color=COLOURS[0], mfc=fill, capsize=3)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(list(heights), [item.label for item in estimates])
    axes.set_ylim(0.4, len(estimates) + 0.6)
    axes.set_xlabel("difference in accuracy (percentage points) with the verdict's interval; filled: better or worse")
    return figure


def accuracy_against_words(accuracies: Sequence[Estimate], words: Sequence[float], title: str) -> Figure:
    """The methods' accuracies against the mean number of words up to the answer."""
    figure, axes = _axes(title, 3.6)
    for number, (item, x) in enumerate(zip(accuracies, words, strict=True)):
        value, error = item.percent()
        colour, mark = _colour_and_mark(number)
        axes.errorbar(x, value, yerr=error, fmt=mark, capsize=3, color=colour, label=item.label)
    axes.set_xlabel("mean words up to the answer")
    axes.set_ylabel("accuracy (%), 95 % interval")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    _legend(axes)
    return figure


def funnel(read: int, rejected: Sequence[tuple[str, int]], kept: int, title: str) -> Figure:
    """Counts of teacher rows: all, those that each rule rejected, and those that are kept."""
    bars = [("read", read), *((f"− {reason}", count) for reason, count in rejected if count), ("kept", kept)]
    figure, axes = _axes(title, 0.9 + 0.3 * len(bars))
    left = read
    for height, (label, count) in zip(range(len(bars), 0, -1), bars, strict=True):
        taken = label.startswith("−")
        left -= count if taken else 0
        start = left if taken else 0
        axes.barh(height, count, left=start, color=COLOURS[1] if taken else COLOURS[0], height=0.7)
        axes.annotate(f" {count:,}", (start + count, height), va="center", color=INK)
    axes.set_yticks(range(len(bars), 0, -1), [label for label, _ in bars])
    axes.set_xlim(0, read * 1.12 or 1)
    axes.set_xlabel("teacher rows")
    return figure


def losses(curves: dict[str, Curve], title: str, order: Sequence[str] = ()) -> Figure:
    """Training losses as lines, losses on held-out questions as marks.

    The seeds of a method share its colour, which follows from its position in `order`.
    """
    figure, axes = _axes(title, 3.6)
    methods = {name: method_and_seed(name)[0] for name in curves}
    numbers = list(dict.fromkeys([*order, *methods.values()]))
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
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    _legend(axes, "line: training, mark: held out")
    return figure


def _colour_and_mark(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]


def _axes(title: str, height: float) -> tuple[Figure, Axes]:
    import matplotlib
    from matplotlib.figure import Figure

    colours = dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK)
    plain_text = {"svg.fonttype": "none", "svg.hashsalt": "cotkit", "text.parse_math": False, "font.size": 9}
    matplotlib.rcParams.update({**plain_text, **colours})
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Axes, title: str | None = None) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), title=title)


def svg(figure: Figure) -> str:
    """The drawing without a background; text and axes take the colour of the surrounding text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :].replace(INK, "currentColor")


def png(figure: Figure) -> bytes:
    """On white, with 130 dots per inch: under 60 kB."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
