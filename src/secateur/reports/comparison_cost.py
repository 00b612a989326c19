"""Figures of training cost: seconds per step, and score against training time."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from secateur.reports.comparison_figures import HALF, draw_line
from secateur.reports.comparison_runs import ComparisonRun, Group
from secateur.reports.comparison_scale import few_ticks, note_outside, window
from secateur.reports.comparison_table import relative_cost
from secateur.reports.figure_grid import FigureGrid, Panel
from secateur.reports.style import INK, MUTED, clean_axes

__all__ = ["LABEL_WIDTH", "cost", "dots"]

LABEL_WIDTH = 1.32
"""Inches at the left of the axes for names of methods."""


def cost(group: Group) -> FigureGrid | None:
    """Draw the time of a step relative to flat-map, and NLL against time; None without any times.

    Args:
        group: Runs of one network on one data set.
    """
    costs = relative_cost(group)
    panels = []
    if any(map(math.isfinite, costs.values())):
        values = {
            variant.label: [costs[run.record.directory] for run in variant.runs] for variant in group.variants
        }
        panels.append(
            Panel(
                "steps",
                "Seconds per iteration of each method relative to flat-map",
                partial(dots, group, values, "Time of a step, flat-map = 1", logarithmic=True),
                left=LABEL_WIDTH,
            )
        )
    if any(math.isfinite(s) for run in group.runs for s in run.elapsed):
        panels.append(
            Panel(
                "time",
                "Negative log-likelihood against minutes of training, a line per method",
                partial(_against_time, group),
            )
        )
    if not panels:
        return None
    devices = ", ".join(sorted({run.device for run in group.runs}))
    return FigureGrid(
        name=f"{group.name}-cost",
        title="What it costs",
        caption=(
            "Seconds per iteration relative to flat-map's, small markers for seeds; NLL of the posterior-"
            "mean network against minutes since the start, to compare at one budget of time. On "
            f"{devices}; a machine that was busy with something else shows in both."
        ),
        panels=tuple(panels),
        geometry=HALF,
        columns=2,
        legend=group.variants,
    )


def _against_time(group: Group, axes: Axes) -> None:
    clean_axes(axes, title="Negative log-likelihood", xlabel="minutes")
    ends = []
    lines = []
    for place, variant in enumerate(group.variants):
        x, y = _mean_over_time(variant.runs)
        draw_line(axes, variant, place, x, y, np.zeros_like(y))
        lines.append(y)
        if len(y):
            ends.append((variant.label, float(y[-1])))
    axes.set_ylim(window(lines, "low"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    few_ticks(axes)
    note_outside(axes, ends)


def _mean_over_time(runs: Sequence[ComparisonRun]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean minutes and mean NLL at the end of each epoch that all runs have."""
    length = min(len(run.record.epochs) for run in runs)
    minutes = np.array([run.elapsed[:length] for run in runs], dtype=float) / 60
    scores = np.array(
        [[row.negative_log_likelihood for row in run.record.epochs[:length]] for run in runs], dtype=float
    )
    x, y = minutes.mean(0), scores.mean(0)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def dots(
    group: Group,
    values: dict[str, list[float]],
    title: str,
    axes: Axes,
    *,
    logarithmic: bool = False,
    reference: float = 1.0,
    digits: int = 2,
) -> None:
    """Draw one line of dots per method: small ones for seeds, a large one for their mean.

    Args:
        group: Whose variants to draw, from the top.
        values: Of each variant's seeds, by its label.
        title: What stands above the axes.
        axes: Where to draw.
        logarithmic: Whether the scale is.
        reference: Where a line is drawn to compare with.
        digits: Of the mean that stands beside its dot, after the point.
    """
    axes.set_title(title, x=-0.02)
    axes.grid(axis="x")
    axes.axvline(reference, color=MUTED, linewidth=0.9)
    shown = [v for v in group.variants if any(map(math.isfinite, values.get(v.label, [])))]
    for row, variant in enumerate(shown):
        seeds = [value for value in values[variant.label] if math.isfinite(value)]
        mean = float(np.mean(seeds))
        if len(seeds) > 1:
            axes.plot(seeds, [row] * len(seeds), **variant.style.points(size=3.0), alpha=0.5, clip_on=False)
        axes.plot(mean, row, **variant.style.points(size=6.5), clip_on=False, zorder=4)
        axes.annotate(
            f"{mean:.{digits}f}", (max(seeds), row), (7, 0), textcoords="offset points", va="center",
            size=7.5, color=INK, annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), [variant.label for variant in shown], size=8.0)
    every = [v for variant in shown for v in values[variant.label] if math.isfinite(v)] + [reference]
    low, high = min(every), max(every)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.15, high * (high / low) ** 0.2 * 1.05)
        if high < 2 * low:  # a round ratio would stand alone
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        else:
            subs = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 3)
            axes.xaxis.set_major_locator(LogLocator(10, subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    else:
        room = high - low or 0.1
        axes.set_xlim(low - 0.06 * room, high + 0.16 * room)
        axes.xaxis.set_major_locator(MaxNLocator(5))
