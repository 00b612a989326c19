"""Figures of scores: over the epochs, and against sparsity."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from secateur.reports.comparison_runs import Group, MethodRuns
from secateur.reports.comparison_scale import (
    Better,
    few_ticks,
    kept_axis,
    kept_position,
    note_outside,
    window,
)
from secateur.reports.figure_grid import FigureGrid, Geometry, Panel
from secateur.reports.style import MUTED, clean_axes

__all__ = ["HALF", "draw_line", "over_epochs", "pareto"]

HALF = Geometry(width=4.2, height=2.7, left=0.52, right=0.14)
"""Panels that stand two abreast on a desk."""
_THIRD = Geometry(width=2.75, height=2.5, left=0.5, right=0.14)

_SCORES: tuple[tuple[str, str, Better], ...] = (
    ("accuracy", "Accuracy", "high"),
    ("negative_log_likelihood", "Negative log-likelihood", "low"),
    ("expected_calibration_error", "Calibration error", "low"),
)


def over_epochs(group: Group) -> FigureGrid:
    """Draw accuracy, NLL, ECE and sparsity over the epochs, one line for each method.

    Args:
        group: Runs of one network on one data set.
    """
    panels = [
        Panel(
            metric,
            f"{name} over the epochs, a line per method",
            partial(_curves, group, metric, name, better),
        )
        for metric, name, better in _SCORES
    ]
    panels.append(Panel("sparsity", "Share of the weights removed over the epochs", partial(_removed, group)))
    return FigureGrid(
        name=f"{group.name}-epochs",
        title="Epoch by epoch",
        caption=(
            "The network at the posterior mean on the test set, after each epoch. Lines are means over "
            "seeds, bands their standard error; a single seed has no band. A value that a scale leaves out "
            "is written at its edge."
        ),
        panels=tuple(panels),
        geometry=HALF,
        columns=2,
        legend=group.variants,
    )


def _series(variant: MethodRuns, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return epochs, mean over seeds and its standard error (0 for one seed), each of shape (epochs,)."""
    values: dict[int, list[float]] = {}
    for run in variant.runs:
        for row in run.record.epochs:
            value = getattr(row, metric)
            if math.isfinite(value):
                values.setdefault(row.epoch, []).append(value)
    epochs = sorted(values)
    mean = np.array([np.mean(values[epoch]) for epoch in epochs])
    error = np.array([
        np.std(values[epoch], ddof=1) / math.sqrt(len(values[epoch])) if len(values[epoch]) > 1 else 0.0
        for epoch in epochs
    ])
    return np.array(epochs, dtype=float), mean, error


def draw_line(
    axes: Axes, variant: MethodRuns, place: int, x: np.ndarray, y: np.ndarray, e: np.ndarray
) -> None:
    """Draw one line with its band; markers are few and start at another place for each method."""
    style = variant.style
    if not len(x):
        return
    if (e > 0).any():
        axes.fill_between(x, y - e, y + e, color=style.colour, alpha=0.18, linewidth=0)
    step = max(1, round(len(x) / 5))
    axes.plot(
        x, y, **style.line(size=4.2), markevery=(place * step // 11 % step, step), zorder=_depth(variant)
    )


def _depth(variant: MethodRuns) -> float:
    return {"ours": 4.0, "baselines": 2.5}.get(variant.style.family, 3.0)


def _curves(group: Group, metric: str, name: str, better: Better, axes: Axes) -> None:
    clean_axes(axes, title=name, xlabel="epoch")
    series = [(variant, *_series(variant, metric)) for variant in group.variants]
    for place, (variant, x, y, e) in enumerate(series):
        draw_line(axes, variant, place, x, y, e)
    axes.set_ylim(window([y for _, _, y, _ in series], better))
    _whole_epochs(axes)
    few_ticks(axes)
    note_outside(axes, [(v.label, y[-1]) for v, _, y, _ in series if len(y)])


def _removed(group: Group, axes: Axes) -> None:
    """Draw sparsity on a scale that is logarithmic in the share kept."""
    clean_axes(axes, title="Weights removed, %", xlabel="epoch")
    largest = 0.0
    for place, variant in enumerate(group.variants):
        x, y, e = _series(variant, "sparsity")
        largest = max([largest, *y])
        position = np.array([kept_position(value) for value in y])
        below = np.array([kept_position(value) for value in y - e])
        above = np.array([kept_position(value) for value in y + e])
        draw_line(axes, variant, place, x, position, np.zeros_like(e))
        if (e > 0).any():
            axes.fill_between(x, below, above, color=variant.style.colour, alpha=0.18, linewidth=0)
    _whole_epochs(axes)
    kept_axis(axes, largest, vertical=True)


def _whole_epochs(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(x=0.02)


def pareto(group: Group) -> FigureGrid:
    """Draw accuracy, NLL and ECE against sparsity, one point for each run.

    Args:
        group: Runs of one network on one data set.
    """
    panels = tuple(
        Panel(
            metric,
            f"{name} against the share of weights removed, a point per run",
            partial(_points, group, metric, name, better),
        )
        for metric, name, better in _SCORES
    )
    return FigureGrid(
        name=f"{group.name}-pareto",
        title="What a sparsity costs",
        caption=(
            "Every run is a point: its averaged prediction on the test set against the share of all weights "
            "removed. The horizontal scale is logarithmic in what is left. The thin line is the frontier: no "
            "run is better both in the score and in what it removed."
        ),
        panels=panels,
        geometry=_THIRD,
        columns=3,
        legend=group.variants,
    )


def _points(group: Group, metric: str, name: str, better: Better, axes: Axes) -> None:
    clean_axes(axes, title=name, xlabel="weights removed, %")
    runs = [
        (variant, run, getattr(run.record.averaged, metric))
        for variant in group.variants
        for run in variant.runs
    ]
    runs = [row for row in runs if math.isfinite(row[2])]
    low, high = window([[value] for _, _, value in runs], better)
    axes.set_ylim(low, high)
    frontier = _frontier([(run.record.sparsity, value) for _, run, value in runs], better)
    axes.plot(
        [kept_position(x) for x, _ in frontier],
        [y for _, y in frontier],
        color=MUTED,
        linewidth=0.8,
        alpha=0.7,
    )
    for variant, run, value in runs:
        inside = min(max(value, low), high)
        faint = 1.0 if inside == value else 0.45
        axes.plot(
            kept_position(run.record.sparsity), inside, **variant.style.points(size=6.0), alpha=faint,
            clip_on=False, zorder=_depth(variant),
        )  # fmt: skip
    kept_axis(axes, max([run.record.sparsity for _, run, _ in runs], default=0.0))
    few_ticks(axes)
    outside = {}
    for variant, _, value in runs:
        if not low <= value <= high:
            outside[variant.label] = (variant.label, value)
    note_outside(axes, list(outside.values()), middle=True)


def _frontier(points: Sequence[tuple[float, float]], better: Better) -> list[tuple[float, float]]:
    """Return the points that no other equals or exceeds in both sparsity and score, by sparsity.

    >>> _frontier([(0.0, 0.9), (0.5, 0.91), (0.9, 0.88), (0.8, 0.87)], "high")
    [(0.5, 0.91), (0.9, 0.88)]
    """
    sign = 1 if better == "high" else -1
    chosen: list[tuple[float, float]] = []
    for sparsity, value in sorted(points, key=lambda p: (-p[0], -sign * p[1])):
        if not chosen or sign * value > sign * chosen[-1][1]:
            chosen.append((sparsity, value))
    return chosen[::-1]
