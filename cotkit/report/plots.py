"""The report's figures, drawn by matplotlib: SVG for the page, where text takes the page's colour, and PNG beside report.md.

The same numbers give the same bytes: no dates, no random ids in the SVG.
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
MARKS = ("o", "s", "^", "D", "v", "P", "X")  # one more than colours: both together repeat after 42 methods only
INK = "#010203"  # becomes currentColor in the SVG
WIDTH_INCHES = 7.2


@dataclass(frozen=True)
class Interval:
    """A labelled estimate with its 95 % interval."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AccuracyPoint:
    """A method's accuracy with its interval at its mean number of words."""

    label: str
    words: float
    accuracy: float
    low: float
    high: float


def forest(intervals: Sequence[Interval], title: str) -> Figure:
    """Differences in accuracy, one a line, in percentage points; the line at 0 is "no difference"."""
    figure, axes = _axes(title, 1.1 + 0.34 * len(intervals))
    places = range(len(intervals), 0, -1)
    for place, item in zip(places, intervals, strict=True):
        shown = item.low > 0 or item.high < 0
        axes.errorbar(
            100 * item.value,
            place,
            xerr=[[100 * (item.value - item.low)], [100 * (item.high - item.value)]],
            fmt="o",
            color=COLOURS[0],
            mfc=COLOURS[0] if shown else "none",
            capsize=3,
        )
    axes.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(list(places), [item.label for item in intervals])
    axes.set_ylim(0.4, len(intervals) + 0.6)
    axes.set_xlabel("difference in accuracy (percentage points), 95 % interval; filled: 0 lies outside")
    return figure


def accuracy_against_words(points: Sequence[AccuracyPoint], title: str) -> Figure:
    """How right the methods are, against how much they write to get there."""
    figure, axes = _axes(title, 3.6)
    for number, point in enumerate(points):
        error = [[100 * (point.accuracy - point.low)], [100 * (point.high - point.accuracy)]]
        axes.errorbar(
            point.words,
            100 * point.accuracy,
            yerr=error,
            fmt=MARKS[number % len(MARKS)],
            capsize=3,
            color=COLOURS[number % len(COLOURS)],
            label=point.label,
        )
    axes.set_xlabel("mean words up to the answer")
    axes.set_ylabel("accuracy (%), 95 % interval")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    _legend(axes)
    return figure


def funnel(read: int, rejected: Sequence[tuple[str, int]], kept: int, title: str) -> Figure:
    """From all teacher rows, over what each rule took, to what is kept; counts of rows."""
    bars = [("read", read), *((f"− {reason}", count) for reason, count in rejected if count), ("kept", kept)]
    figure, axes = _axes(title, 0.9 + 0.3 * len(bars))
    left = read
    for place, (label, count) in zip(range(len(bars), 0, -1), bars, strict=True):
        taken = label.startswith("−")
        left -= count if taken else 0
        axes.barh(place, count, left=left if taken else 0, color=COLOURS[1] if taken else COLOURS[0], height=0.7)
        axes.annotate(f" {count:,}", (left + count if taken else count, place), va="center", color=INK)
    axes.set_yticks(range(len(bars), 0, -1), [label for label, _ in bars])
    axes.set_xlim(0, read * 1.12 or 1)
    axes.set_xlabel("teacher rows")
    return figure


def losses(curves: dict[str, Curve], title: str, order: Sequence[str] = ()) -> Figure:
    """Training loss as lines, loss on held-out questions as marks.

    A method has its place in `order` for its colour, in which all of its seeds are drawn.
    """
    figure, axes = _axes(title, 3.6)
    methods = {name: method_and_seed(name)[0] for name in curves}
    places = list(dict.fromkeys([*order, *methods.values()]))
    labelled = set()
    for name, curve in curves.items():
        number = places.index(methods[name])
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        if curve.train:
            axes.plot(*zip(*curve.train, strict=True), color=colour, linewidth=1, alpha=0.7)
        held_out = curve.evaluation or [(float("nan"), float("nan"))]
        axes.plot(
            *zip(*held_out, strict=True), mark, color=colour, label=None if methods[name] in labelled else methods[name]
        )
        labelled.add(methods[name])
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats a token)")
    _legend(axes, "line: training, mark: held out")
    return figure


def _axes(title: str, height: float) -> tuple[Figure, Axes]:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "cotkit",
            "text.parse_math": False,
            "font.size": 9,
            "text.color": INK,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
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
    """The drawing without a background; its text and axes take the colour of the text around it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :].replace(INK, "currentColor")


def png(figure: Figure) -> bytes:
    """On white, 130 dots an inch: under 60 kB."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
