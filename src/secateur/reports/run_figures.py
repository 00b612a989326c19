"""Figures of one run: learning curves, reliability diagram, predicted against observed reductions.

Every function returns a `matplotlib.figure.Figure`: `style.svg` puts it on a page, `savefig` in a file.
The sizes are those of half a page column, so that two stand side by side on a desk and one on a phone.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from secateur.reports.style import BLUE, GRID, MUTED, ORANGE, clean_axes, drawing
from secateur.runs.records import Epoch, Reduction, ReliabilityBins

__all__ = ["curve", "reductions", "reliability"]

_WIDTH, _HEIGHT = 3.5, 2.25
_MARGINS = {"left": 0.155, "right": 0.845, "top": 0.86, "bottom": 0.19}


def curve(epochs: Sequence[Epoch], metric: str, *, title: str, percent: bool = False) -> Figure:
    """Draw one metric of the posterior-mean network over the epochs; a dot is an epoch with a reduction.

    The scale is that of the run after its first tenth, so that an unschooled first epoch does not flatten
    the rest; a value it leaves out is written at the edge.

    Args:
        epochs: The run's history.
        metric: Name of a field of `Epoch`.
        title: What stands above the axes.
        percent: Label the axis from 0 to 100 %.
    """
    x = np.array([row.epoch for row in epochs], dtype=float)
    y = np.array([getattr(row, metric) for row in epochs], dtype=float)
    reduced = np.array([row.num_removed > 0 for row in epochs], dtype=bool)
    with drawing():
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        axes = figure.add_subplot()
        figure.subplots_adjust(**_MARGINS)
        clean_axes(axes, title=title, xlabel="epoch")
        axes.plot(x, y, color=BLUE)
        axes.plot(x[reduced], y[reduced], "o", color=ORANGE, markersize=3.6, markeredgewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if percent:
            axes.set_ylim(0, 1)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        else:
            _zoom(axes, x, y)
        last = np.flatnonzero(np.isfinite(y))
        if len(last):
            at = last[-1]
            label = f"{100 * y[at]:.1f} %" if percent else f"{y[at]:.3f}"
            axes.plot(x[at], y[at], "o", color=BLUE, markersize=5, markeredgewidth=0, clip_on=False)
            axes.annotate(
                label, (x[at], y[at]), (7, 0), textcoords="offset points", va="center",
                color=BLUE, weight="bold", annotation_clip=False,
            )  # fmt: skip
        return figure


def _zoom(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    settled = y[min(len(y) // 10, max(len(y) - 2, 0)) :]
    settled = settled[np.isfinite(settled)]
    if not len(settled):
        return
    low, high = settled.min(), settled.max()
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    whole = y[np.isfinite(y)]
    if whole.max() - whole.min() < 2 * (high - low):
        low, high = whole.min(), whole.max()
    axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    outside = np.flatnonzero((y < low) | (y > high))
    if len(outside):
        first = outside[0]
        above = y[first] > high
        # The note stands where the curve has come into view and left that edge.
        edge = y > high - 0.15 * (high - low) if above else y < low + 0.15 * (high - low)
        at = outside[-1] + 1
        while at < len(x) - 1 and edge[at]:
            at += 1
        enters = x[min(at, len(x) - 1)]
        axes.annotate(
            f"{'↑' if above else '↓'} {y[first]:.3f} in epoch {x[first]:.0f}",
            (enters, 0.97 if above else 0.04), xycoords=("data", "axes fraction"),
            textcoords="offset points", xytext=(3, 0), va="top" if above else "bottom", color=MUTED, size=8,
        )  # fmt: skip


def reliability(bins: ReliabilityBins) -> Figure:
    """Draw a reliability diagram: accuracy against confidence, with 95 % Wilson intervals.

    Points on the diagonal are honest; below it the network is surer than it should be.
    """
    confidence, accuracy, count = (
        np.array(v, dtype=float) for v in (bins.confidence, bins.accuracy, bins.count)
    )
    used = (count > 0) & np.isfinite(confidence) & np.isfinite(accuracy)
    confidence, accuracy, count = confidence[used], accuracy[used], count[used]
    # Wilson 1927: the interval of a proportion, which stays within [0, 1] at the rare extremes too.
    z2 = 1.96**2
    centre = (accuracy + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * (accuracy * (1 - accuracy) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    low = math.floor(10 * min((centre - half).min(initial=1), confidence.min(initial=1))) / 10
    low = max(0.0, min(low, 0.8))
    with drawing():
        figure = Figure(figsize=(_WIDTH, 3.4))
        axes = figure.add_subplot()
        figure.subplots_adjust(left=0.14, right=0.965, top=0.89, bottom=0.125)
        clean_axes(axes, title="Share right", xlabel="confidence")
        axes.grid(axis="x")
        axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, dashes=(4, 3))
        axes.vlines(confidence, centre - half, centre + half, color=BLUE, linewidth=1.2, alpha=0.55)
        axes.plot(confidence, accuracy, "o", color=BLUE, markersize=4.5, markeredgewidth=0, clip_on=False)
        room = 0.012 * (1 - low)
        axes.set_xlim(low - room, 1 + room)
        axes.set_ylim(low - room, 1 + room)
        axes.set_aspect("equal")
        for text, at, align in (("too modest", (0.04, 0.95), "left"), ("too sure", (0.96, 0.06), "right")):
            axes.text(*at, text, transform=axes.transAxes, ha=align, va="center", color=MUTED, size=8.5)
        return figure


def reductions(rows: Sequence[Reduction]) -> Figure:
    """Draw predicted and observed delta_f of each reduction, in nats."""
    epoch = np.array([row.epoch for row in rows], dtype=float)
    predicted = np.array([row.predicted_delta_f for row in rows])
    observed = np.array([row.observed_delta_f for row in rows])
    every = np.abs(np.concatenate([predicted, observed]))
    every = every[np.isfinite(every) & (every > 0)]
    with drawing():
        figure = Figure(figsize=(_WIDTH, 3.4))
        axes = figure.add_subplot()
        figure.subplots_adjust(left=0.14, right=0.78, top=0.89, bottom=0.125)
        clean_axes(axes, title="Change of the evidence, in nats", xlabel="epoch")
        if len(every) and every.max() > 30 * np.median(every):
            axes.set_yscale("symlog", linthresh=float(np.median(every)) / 3)
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: short_number(value))
        axes.vlines(epoch, observed, predicted, color=GRID, linewidth=1.2)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.plot(epoch, predicted, "o", color=ORANGE, markersize=4.5, markeredgewidth=0)
        axes.plot(epoch, observed, "o", color=BLUE, markersize=4.5, markeredgewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(y=0.08)
        room = max(0.06 * (epoch[-1] - epoch[0]), 1)
        axes.set_xlim(epoch[0] - room, epoch[-1] + room)
        _label_ends(axes, epoch[-1], [("predicted", predicted[-1], ORANGE), ("observed", observed[-1], BLUE)])
        return figure


def _label_ends(axes: Axes, x: float, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each series' name right of its last point, moved apart where they would touch."""
    heights = [axes.transData.transform((x, y))[1] for _, y, _ in ends]
    upper = int(np.argmax(heights))
    gap = abs(heights[0] - heights[1]) * 72 / axes.figure.dpi
    shift = max(0.0, 11 - gap) / 2 if math.isfinite(gap) else 0.0
    for i, (name, y, colour) in enumerate(ends):
        if math.isfinite(y):
            axes.annotate(
                name, (x, y), (8, shift if i == upper else -shift), textcoords="offset points", va="center",
                color=colour, weight="bold", annotation_clip=False,
            )  # fmt: skip


def short_number(value: float) -> str:
    """Format a number for an axis tick: 1200 is 1.2k."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"
