"""Axis limits and ticks that keep differences visible where one run failed."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from secateur.reports.style import MUTED, PAPER

__all__ = ["Better", "few_ticks", "kept_axis", "kept_position", "note_outside", "window"]

Better = Literal["high", "low"]

_FACTOR = 4.0
"""A final value this many times as far from the best as the median one is left to the note at the edge."""


def window(lines: Sequence[Sequence[float] | np.ndarray], better: Better) -> tuple[float, float]:
    """Choose axis limits that show the best end and every run but failures.

    Args:
        lines: Values of each method in the order of time; single points are lines of one value.
        better: Which end of the scale is the good one.
    """
    sign = 1.0 if better == "low" else -1.0
    series = [sign * values[np.isfinite(values)] for values in map(np.asarray, lines)]
    series = [values for values in series if len(values)]
    if not series:
        return 0.0, 1.0
    finals = np.array([values[-1] for values in series])
    least = min(values.min() for values in series)
    typical = _FACTOR * max(float(np.median(finals - finals.min())), 1e-3 * abs(float(finals.min())))
    usual = finals <= finals.min() + typical if len(finals) > 2 else np.ones(len(finals), dtype=bool)
    worst = finals[usual].max()
    early = max(
        float(np.quantile(values[len(values) // 8 :], 0.97))
        for values, shown in zip(series, usual, strict=True)
        if shown
    )
    # What comes before the lines settle may take as much room as their ends do, and no more.
    top = max(worst, min(early, worst + 1.2 * (worst - least)))
    room = 0.07 * (top - least) or 0.02 * abs(top) or 0.05
    low, high = sign * (least - room), sign * (top + room)
    return (low, high) if low < high else (high, low)


def note_outside(axes: Axes, ends: Sequence[tuple[str, float]], *, middle: bool = False) -> None:
    """Annotate values outside the axis limits at the edge they exceed.

    Args:
        axes: With its final limits.
        ends: Name and value of each line's end.
        middle: Write left of the middle, where points of sparse networks are few; else at the right.
    """
    low, high = axes.get_ylim()
    for arrow, y, align, out in (
        ("\N{DOWNWARDS ARROW}", 0.03, "bottom", lambda v: v < low),
        ("\N{UPWARDS ARROW}", 0.97, "top", lambda v: v > high),
    ):
        gone = [f"{arrow} {name} {value:.3g}" for name, value in ends if math.isfinite(value) and out(value)]
        if gone:
            x, across = (0.42, "center") if middle else (0.985, "right")
            axes.text(
                x, y, "\n".join(gone), transform=axes.transAxes, ha=across, va=align, size=7, color=MUTED,
                linespacing=1.25, zorder=6,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
            )  # fmt: skip


def kept_position(sparsity: float) -> float:
    """Convert a sparsity to its position on `kept_axis`: -log10 of the share kept.

    >>> kept_position(0.0), round(kept_position(0.99), 3)
    (0.0, 2.0)
    """
    return math.log10(1 / max(1 - sparsity, 1e-6))


_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)


def kept_axis(axes: Axes, largest: float, *, vertical: bool = False) -> None:
    """Turn an axis into one of sparsity: logarithmic in the share kept, labelled by the share removed.

    Args:
        axes: Whose values are those of `kept_position`.
        largest: The largest sparsity to show.
        vertical: Whether it is the y axis.
    """
    end = max(kept_position(largest), kept_position(0.5))
    axis = axes.yaxis if vertical else axes.xaxis
    (axes.set_ylim if vertical else axes.set_xlim)(-0.05 * end, 1.05 * end)
    shown: list[float] = []
    gap = (0.1 if vertical else 0.14) * end  # labels are wider than they are high
    for tick in _TICKS:
        if kept_position(tick) <= 1.03 * end and (
            not shown or kept_position(tick) - kept_position(shown[-1]) > gap
        ):
            shown.append(tick)
    axis.set_major_locator(FixedLocator([kept_position(tick) for tick in shown]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 10**-x):.4g}"))


def few_ticks(axes: Axes) -> None:
    """Give the y axis at most five round values."""
    axes.yaxis.set_major_locator(MaxNLocator(5))
