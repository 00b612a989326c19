"""Figures of one network, and the scales and marks that all figures share.

Every `figure_x` draws a table into empty axes; `style.panel` puts the result on a page. A vertical scale
shows the good end and what is near it; a value that it leaves out is written at its edge, and an end that
is cut, or that is not zero, has a double stroke.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from pandas import DataFrame

from secateur.reports.style import BLUE, GRID, MUTED, ORANGE, PAPER

__all__ = [
    "cut_to", "figure_curve", "figure_reductions", "figure_reliability",
    "label_axes", "label_ends", "mark_cut", "note_outside", "spread_over_decades", "window",
]  # fmt: skip

_FAILED = 4.0
"""A final value this many times as far from the best as the median one is left to the note at the edge."""
_CUT = Path(
    [(-1, -0.65), (1, -0.05), (-1, 0.05), (1, 0.65)], [Path.MOVETO, Path.LINETO, Path.MOVETO, Path.LINETO]
)


def label_axes(axes: Axes, title: str, xlabel: str) -> None:
    """Give axes a title, a labelled foot and few ticks."""
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=xlabel == "epoch"))


def mark_cut(axes: Axes, *, bottom: bool = True, top: bool = False) -> None:
    """Draw a double stroke at an end of the vertical scale.

    Args:
        axes: Where.
        bottom: Whether the lower end is cut.
        top: Whether the upper end is.
    """
    for height in [height for height, cut in ((0.0, bottom), (1.0, top)) if cut]:
        stroke = Line2D([0.02], [height], marker=_CUT, markersize=9, markeredgewidth=0.9, color=MUTED)
        stroke.set(transform=axes.transAxes, clip_on=False, zorder=6, gid="cut")
        axes.add_artist(stroke)


def window(lines: Sequence[Sequence[float] | np.ndarray], better: str | None) -> tuple[float, float]:
    """Choose limits of a scale that show the best end and every line but failures.

    Args:
        lines: Values of each method in the order of time; single points are lines of one value.
        better: Which end of the scale is the good one, "high" or "low".
    """
    sign = -1.0 if better == "high" else 1.0
    series = [sign * values[np.isfinite(values)] for values in (np.asarray(line, float) for line in lines)]
    series = [values for values in series if len(values)]
    if not series:
        return 0.0, 1.0
    finals = np.array([values[-1] for values in series])
    least = min(values.min() for values in series)
    typical = _FAILED * max(float(np.median(finals - finals.min())), 1e-3 * abs(float(finals.min())))
    usual = finals <= finals.min() + typical if len(finals) > 2 else np.ones(len(finals), dtype=bool)
    worst = finals[usual].max()
    shown = (values for values, well in zip(series, usual, strict=True) if well)
    early = max(float(np.quantile(values[len(values) // 8 :], 0.97)) for values in shown)
    # What comes before the lines settle may take as much room as their ends do, and no more.
    top = max(worst, min(early, worst + 1.2 * (worst - least) or early))
    room = 0.07 * (top - least) or 0.02 * abs(top) or 0.05
    low, high = sorted((sign * (least - room), sign * (top + room)))
    return low, high


def cut_to(axes: Axes, limits: tuple[float, float], lines: Sequence[Sequence[float] | np.ndarray]) -> None:
    """Set the vertical scale, and mark its ends where they are cut.

    Args:
        axes: Where.
        limits: Lower and upper end.
        lines: What is drawn.
    """
    low, high = limits
    every = np.concatenate([np.asarray(line, dtype=float) for line in lines]) if lines else np.empty(0)
    axes.set_ylim(low, high)
    mark_cut(axes, bottom=bool(low > 0 or (every < low).any()), top=bool((every > high).any()))


def note_outside(axes: Axes, values: Mapping[str, float], *, middle: bool = False) -> None:
    """Write values outside the limits of the axes at the edge that they exceed.

    Args:
        axes: With their final limits.
        values: By name.
        middle: Write left of the middle, where points of sparse networks are few; else at the right.
    """
    low, high = axes.get_ylim()
    x, across = (0.42, "center") if middle else (0.985, "right")
    for arrow, y, align, gone in (
        ("\N{DOWNWARDS ARROW}", 0.03, "bottom", {name: each for name, each in values.items() if each < low}),
        ("\N{UPWARDS ARROW}", 0.97, "top", {name: each for name, each in values.items() if each > high}),
    ):
        if gone:
            text = "\n".join(f"{arrow} {name} {value:.3g}" for name, value in gone.items())
            box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
            axes.text(x, y, text, transform=axes.transAxes, ha=across, va=align, size=7, color=MUTED,
                      linespacing=1.25, zorder=6, bbox=box)  # fmt: skip


def spread_over_decades(axes: Axes, *values: np.ndarray) -> None:
    """Write large numbers short; take a scale that is logarithmic around 0 where they differ much."""
    sizes = np.abs(np.concatenate([*values, np.empty(0)]))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if len(sizes) and sizes.max() > 30 * np.median(sizes):
        axes.set_yscale("symlog", linthresh=float(np.median(sizes)) / 3)

    def short(value: float, _: object) -> str:
        unit, name = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k") if abs(value) >= 1e3 else (1.0, "")
        return f"{value / unit:g}{name}"

    axes.yaxis.set_major_formatter(FuncFormatter(short))


def label_ends(axes: Axes, ends: Sequence[tuple[str, np.ndarray, np.ndarray, str]]) -> None:
    """Write each series' name right of its last known point, moved apart where two would touch.

    Args:
        axes: With their final limits.
        ends: Name, x, y and colour of each series.
    """
    found = []
    for name, x, y, colour in ends:
        known = np.flatnonzero(np.isfinite(y))
        if len(known):
            found.append((name, float(x[known[-1]]), float(y[known[-1]]), colour))
    axes.get_ylim()  # settles the scale
    heights = [axes.transData.transform(end[1:3])[1] * 72 / axes.figure.dpi for end in found]
    shifts = [0.0] * len(found)
    if len(found) == 2 and math.isfinite(sum(heights)):
        apart = max(0.0, 12 - abs(heights[0] - heights[1])) / 2
        shifts = [apart, -apart] if heights[0] > heights[1] else [-apart, apart]
    for (name, x_end, y_end, colour), shift in zip(found, shifts, strict=True):
        axes.annotate(name, (x_end, y_end), (7, shift), textcoords="offset points", va="center", color=colour,
                      weight="bold", size=8.5, annotation_clip=False)  # fmt: skip


def figure_curve(axes: Axes, history: DataFrame, metric: str, title: str) -> None:
    """Draw one metric over the epochs; a dot is an epoch with a reduction.

    Args:
        axes: Where to draw.
        history: As of `Record`.
        metric: Column of the history; the share removed goes from 0 to 100 %.
        title: What stands above the axes.
    """
    label_axes(axes, title, "epoch")
    x, y = (history[key].to_numpy(dtype=float) for key in ("epoch", metric))
    reduced, known, share = history["num_removed"].to_numpy() > 0, np.isfinite(y), metric == "sparsity"
    axes.plot(x, y, color=BLUE)
    axes.plot(x[reduced], y[reduced], "o", color=ORANGE, markersize=3.6, markeredgewidth=0)
    if share:
        axes.set(ylim=(0, 1), yticks=[0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    elif known.any():
        settled = y[
            min(len(y) // 10, max(len(y) - 2, 0)) :
        ]  # an unschooled first epoch would flatten the rest
        settled = settled[np.isfinite(settled)] if np.isfinite(settled).any() else y[known]
        low, high = settled.min(), settled.max()
        room = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
        cut_to(axes, (low - room, high + room), [y])
        out = np.flatnonzero((y < low - room) | (y > high + room))
        note_outside(axes, {f"epoch {x[at]:.0f}:": float(y[at]) for at in out[:1]})
    if known.any():
        end = y[known][-1]
        axes.plot(x[known][-1], end, "o", color=BLUE, markersize=5, markeredgewidth=0, clip_on=False)
        label_ends(axes, [(f"{100 * end:.1f} %" if share else f"{end:.3f}", x, y, BLUE)])


def figure_reliability(
    axes: Axes, bins: DataFrame, title: str = "Share right", style: Mapping[str, Any] | None = None,
    lowest: float = 0.0, note: str = "",
) -> None:  # fmt: skip
    """Draw accuracy against confidence with 95 % Wilson intervals; points on the diagonal are honest.

    Args:
        axes: Where to draw.
        bins: As of `Record.reliability`.
        title: What stands above the axes.
        style: Of the points, as arguments of `Axes.plot`.
        lowest: Where both scales begin; 0 takes the lowest value.
        note: Written at the upper left.
    """
    label_axes(axes, title, "confidence")
    style = style or {
        "color": BLUE,
        "marker": "o",
        "linestyle": "none",
        "markersize": 4.5,
        "markeredgewidth": 0,
    }
    bins = bins[bins["count"] > 0].dropna()
    confidence, accuracy, count = (bins[key].to_numpy(dtype=float) for key in bins.columns)
    # Wilson 1927: the interval of a proportion, which stays within [0, 1] at the rare extremes too.
    z2 = 1.96**2
    centre = (accuracy + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * (accuracy * (1 - accuracy) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    low = lowest or math.floor(10 * min((centre - half).min(initial=1), confidence.min(initial=1))) / 10
    low = max(0.0, min(low, 0.8))
    axes.grid(axis="x")
    axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, dashes=(4, 3))
    axes.vlines(confidence, centre - half, centre + half, color=style["color"], linewidth=1.2, alpha=0.55)
    axes.plot(confidence, accuracy, **style, clip_on=bool(lowest))
    room = 0.015 * (1 - low)
    axes.set(xlim=(low - room, 1 + room), ylim=(low - room, 1 + room), aspect="equal")
    mark_cut(axes, bottom=bool(low > 0))
    for text, at, align in (("too modest", (0.04, 0.95), "left"), ("too sure", (0.96, 0.06), "right")):
        shown, weight = (note, "bold") if note and align == "left" else (text, "normal")
        axes.text(
            *at, shown, transform=axes.transAxes, ha=align, va="center", color=MUTED, size=8, weight=weight
        )


def figure_reductions(axes: Axes, reductions: DataFrame) -> None:
    """Draw predicted and observed delta_f of each reduction, in nats.

    Args:
        axes: Where to draw.
        reductions: As of `Record`; at least one.
    """
    label_axes(axes, "Change of the evidence, in nats", "epoch")
    x, predicted, observed = (
        reductions[key].to_numpy(dtype=float) for key in ("epoch", "predicted_delta_f", "observed_delta_f")
    )
    spread_over_decades(axes, predicted, observed)
    axes.vlines(x, observed, predicted, color=GRID, linewidth=1.2)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    for y, colour in ((predicted, ORANGE), (observed, BLUE)):
        axes.plot(x, y, "o", color=colour, markersize=4.5, markeredgewidth=0)
    axes.margins(y=0.08)
    room = max(0.06 * (x.max() - x.min()), 1)
    axes.set_xlim(x.min() - room, x.max() + room)
    label_ends(axes, [("predicted", x, predicted, ORANGE), ("observed", x, observed, BLUE)])
