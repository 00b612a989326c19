"""Figures of a pruned network: evidence and losses over sparsity, predicted against observed evidence.

Rounds that are in the network have full markers and lines; those that were taken back are hollow and dashed.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from secateur.reports.run_figures import short_number
from secateur.reports.style import BLUE, GRID, MUTED, ORANGE, PAPER, clean_axes, drawing
from secateur.reports.trained_record import TrainedRecord

__all__ = ["evidence", "losses", "predictions"]

_WIDTH, _HEIGHT = 3.5, 2.7
_MARGINS = {"left": 0.155, "right": 0.77, "top": 0.86, "bottom": 0.17}
_DASHES = (3, 2)


def evidence(record: TrainedRecord) -> Figure:
    """Draw the log evidence above that before any removal, over the share of weights that is out.

    Args:
        record: Of the pruned network.
    """
    changes = [row.observed_delta_f for row in record.trace]
    with drawing():
        figure, axes = _axes("Log evidence gained, in nats", record)
        y = np.cumsum([0.0, *changes])
        _series(axes, _sparsities(record), y, record.chosen_round, BLUE)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: short_number(value))
        _mark_stop(axes, record)
        return figure


def losses(record: TrainedRecord) -> Figure:
    """Draw how much the loss rose, on the data that moved the weights and on held-out data with its error.

    The bound is drawn where a rise was allowed by the caller.

    Args:
        record: Of the pruned network.
    """
    x = _sparsities(record)
    own = np.array([0.0, *(row.loss - record.loss_before for row in record.trace)])
    held = np.array([0.0, *(row.held_out_rise for row in record.trace)])
    error = np.array([0.0, *(row.held_out_error for row in record.trace)])
    with drawing():
        figure, axes = _axes("Rise of the loss, nats per datum", record)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        known = np.isfinite(held) & np.isfinite(error)
        axes.fill_between(
            x[known], (held - error)[known], (held + error)[known], color=BLUE, alpha=0.15, linewidth=0
        )
        _series(axes, x, own, record.chosen_round, ORANGE)
        _series(axes, x, held, record.chosen_round, BLUE)
        allowed = record.max_loss_rise
        if math.isfinite(allowed):
            axes.axhline(allowed, color=BLUE, linewidth=0.9, dashes=(4, 3))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        _label_ends(axes, [("calibration", x, own, ORANGE), ("held out", x, held, BLUE)])
        _mark_stop(axes, record)
        return figure


def predictions(record: TrainedRecord) -> Figure:
    """Draw the predicted and the observed change of the evidence of each round.

    Args:
        record: Of the pruned network.
    """
    x = _sparsities(record)[1:]
    predicted, observed = (
        np.array([getattr(row, key) for row in record.trace], dtype=float)
        for key in ("predicted_delta_f", "observed_delta_f")
    )
    sizes = np.abs(np.concatenate([predicted, observed]))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    with drawing():
        figure, axes = _axes("Evidence for each round, in nats", record)
        if len(sizes) and sizes.max() > 30 * np.median(sizes):
            axes.set_yscale("symlog", linthresh=float(np.median(sizes)))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: short_number(value))
        axes.axhline(0, color=MUTED, linewidth=0.8)
        both = np.isfinite(predicted) & np.isfinite(observed)
        axes.vlines(x[both], observed[both], predicted[both], color=GRID, linewidth=1.2)
        axes.plot(x, predicted, "_", color=ORANGE, markersize=9, markeredgewidth=2)
        _markers(axes, x, observed, record.chosen_round - 1, BLUE)
        _label_ends(axes, [("predicted", x, predicted, ORANGE), ("observed", x, observed, BLUE)])
        return figure


def _sparsities(record: TrainedRecord) -> np.ndarray:
    return np.array([record.start_sparsity, *(row.sparsity for row in record.trace)], dtype=float)


def _axes(title: str, record: TrainedRecord) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, _HEIGHT))
    axes = figure.add_subplot()
    figure.subplots_adjust(**_MARGINS)
    clean_axes(axes, title=title, xlabel="weights out, %")
    x = _sparsities(record)
    room = 0.04 * max(float(x[-1] - x[0]), 0.01)
    axes.set_xlim(x[0] - room, x[-1] + room)
    axes.margins(y=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    return figure, axes


def _series(axes: Axes, x: np.ndarray, y: np.ndarray, chosen: int, colour: str) -> None:
    """Draw a line over the rounds that were kept, dashed over those that were taken back."""
    axes.plot(x[: chosen + 1], y[: chosen + 1], color=colour)
    axes.plot(x[chosen:], y[chosen:], color=colour, linewidth=1.2, dashes=_DASHES)
    _markers(axes, x, y, chosen, colour)


def _markers(axes: Axes, x: np.ndarray, y: np.ndarray, chosen: int, colour: str) -> None:
    kept = slice(None, chosen + 1)
    axes.plot(x[kept], y[kept], "o", color=colour, markersize=4, markeredgewidth=0)
    back = slice(chosen + 1, None)
    axes.plot(x[back], y[back], "o", color=colour, markersize=4.4, markerfacecolor=PAPER, markeredgewidth=1.1)


def _mark_stop(axes: Axes, record: TrainedRecord) -> None:
    """Mark the share of weights that is out in the network."""
    at = float(_sparsities(record)[record.chosen_round])
    axes.axvline(at, color=MUTED, linewidth=0.9, dashes=(1, 2), zorder=0)
    low, high = axes.get_xlim()
    left = at > (low + high) / 2
    axes.annotate(
        "in the network", (at, 1.0), xycoords=("data", "axes fraction"), xytext=(-4 if left else 4, -2),
        textcoords="offset points", ha="right" if left else "left", va="top", color=MUTED, size=8,
    )  # fmt: skip


def _label_ends(axes: Axes, series: Sequence[tuple[str, np.ndarray, np.ndarray, str]]) -> None:
    """Write each series' name right of its last point that is known, moved apart where they would touch."""
    ends = []
    for name, x, y, colour in series:
        known = np.flatnonzero(np.isfinite(y))
        if len(known):
            ends.append((name, float(x[known[-1]]), float(y[known[-1]]), colour))
    axes.get_ylim()  # settles the scale
    heights = [axes.transData.transform(end[1:3])[1] * 72 / axes.figure.dpi for end in ends]
    shift = [0.0] * len(ends)
    if len(ends) == 2 and math.isfinite(sum(heights)):
        apart = max(0.0, 11 - abs(heights[0] - heights[1])) / 2
        upper = int(heights[1] >= heights[0])
        shift[upper], shift[1 - upper] = apart, -apart
    for (name, at, height, colour), up in zip(ends, shift, strict=True):
        axes.annotate(
            name, (at, height), (7, up), textcoords="offset points", va="center", color=colour, weight="bold",
            size=8.5, annotation_clip=False,
        )  # fmt: skip
