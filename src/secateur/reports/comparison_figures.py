"""Figures of a comparison: grids of panels that share a legend.

On a page each panel is an SVG of its own, so that they flow; in a file they are one image.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from pandas import DataFrame

from secateur.reports.columns import SCORE_COLUMNS, Column, cell_text
from secateur.reports.figures import cut_to, figure_reliability, label_axes, mark_cut, note_outside, window
from secateur.reports.out_of_distribution import Detection
from secateur.reports.record import Record
from secateur.reports.style import INK, MUTED, FigureGrid, Panel, line_style, point_style
from secateur.reports.tables import Group
from secateur.reports.weight_figures import first_layers, weights
from secateur.training.methods import family_of

__all__ = ["MAKERS", "kept_scale", "pool_bins"]

HALF, THIRD, SMALL = (4.2, 2.7), (2.95, 2.5), (2.25, 2.3)
"""Sizes of panels in inches: two, three or four abreast on a desk."""

_MOST_HISTOGRAMS = 5
_HISTOGRAMS_FIRST = ("flat-map", "flat-ff", "bmr-spike-and-slab", "calibrated", "magnitude")
_TICKS = np.array([0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999])
_TITLES = {
    "accuracy": "Accuracy", "negative_log_likelihood": "Negative log-likelihood",
    "expected_calibration_error": "Calibration error", "root_mean_squared_error": "Root mean squared error",
    "deviance": "Deviance", "continuous_ranked_probability_score": "CRPS",
}  # fmt: skip


def _scored(group: Group) -> list[Column]:
    """Return the scores that are drawn of a group."""
    return [column for column in group.score_columns if column.key in _TITLES]


def _line(group: Group, label: str) -> dict[str, Any]:
    return line_style(group.labels[label], group.methods, size=4.2)


def _points(group: Group, label: str, size: float) -> dict[str, Any]:
    return point_style(group.labels[label], group.methods, size=size)


def _depth(group: Group, label: str) -> float:
    return {"ours": 4.0, "baselines": 2.5}.get(family_of(group.labels[label]), 3.0)


def _draw_line(axes: Axes, group: Group, label: str, x: Any, line: DataFrame) -> None:
    """Draw mean and error over x; markers are few and start at another place for each method."""
    y, error = line["mean"], line["sem"]
    step = max(1, round(len(line) / 5))
    start = list(group.labels).index(label) * step // 11 % step
    axes.plot(x, y, **_line(group, label), markevery=(start, step), zorder=_depth(group, label))
    if (error > 0).any():
        colour = _line(group, label)["color"]
        axes.fill_between(x, y - error, y + error, color=colour, alpha=0.18, linewidth=0)


def over_epochs(group: Group) -> FigureGrid:
    """Draw accuracy, NLL, ECE and sparsity over the epochs, a line per method."""
    panels = [
        Panel(column.key, f"{_TITLES[column.key]} over the epochs, a line per method",
              partial(_scores, group=group, column=column)) for column in _scored(group)
    ]  # fmt: skip
    panels.append(
        Panel("sparsity", "Share of the weights removed over the epochs", partial(_removed, group=group))
    )
    return FigureGrid("epochs", tuple(panels), HALF, columns=2)


def _over_seeds(group: Group, label: str, metric: str) -> DataFrame:
    """Return mean and standard error (0 for one seed) of a metric of the history, by epoch."""
    every = pandas.concat([record.history[["epoch", metric]] for record in group.of(label)]).dropna()
    return every.groupby("epoch")[metric].agg(["mean", "sem"]).fillna({"sem": 0.0})


def _scores(axes: Axes, *, group: Group, column: Column) -> None:
    label_axes(axes, _TITLES[column.key], "epoch")
    lines = {label: _over_seeds(group, label, column.key) for label in group.labels}
    for label, line in lines.items():
        _draw_line(axes, group, label, line.index, line)
    means = [line["mean"].to_numpy() for line in lines.values()]
    cut_to(axes, window(means, column.better), means)
    axes.margins(x=0.02)
    note_outside(axes, {label: line["mean"].iloc[-1] for label, line in lines.items() if len(line)})


def _removed(axes: Axes, *, group: Group) -> None:
    label_axes(axes, "Weights removed, %", "epoch")
    lines = {label: _over_seeds(group, label, "sparsity") for label in group.labels}
    kept_scale(axes, max((line["mean"].max() for line in lines.values() if len(line)), default=0.0), "y")
    for label, line in lines.items():
        _draw_line(axes, group, label, line.index, line)
    axes.margins(x=0.02)


def kept_scale(axes: Axes, largest: float, which: str) -> None:
    """Make an axis of sparsity logarithmic in the share kept, labelled by the share removed.

    Args:
        axes: Where.
        largest: The largest sparsity to show.
        which: "x" or "y".
    """

    def forward(sparsity: Any) -> Any:
        return -np.log10(np.clip(1 - np.asarray(sparsity, dtype=float), 1e-6, 10))

    def inverse(place: Any) -> Any:
        return 1 - 10.0 ** -np.asarray(place, dtype=float)

    end = float(max(forward(largest), forward(0.5)))
    gap = {"x": 0.14, "y": 0.1}[which] * end  # labels are wider than they are high
    shown: list[float] = []
    for tick in _TICKS[forward(_TICKS) <= 1.03 * end]:
        if not shown or forward(tick) - forward(shown[-1]) > gap:
            shown.append(float(tick))
    getattr(axes, f"set_{which}scale")("function", functions=(forward, inverse))
    getattr(axes, f"set_{which}lim")(inverse(-0.05 * end), inverse(1.05 * end))
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(FuncFormatter(lambda sparsity, _: f"{100 * sparsity:.4g}"))


def pareto(group: Group) -> FigureGrid:
    """Draw accuracy, NLL and ECE against sparsity, a point per run."""
    panels = (
        Panel(column.key, f"{_TITLES[column.key]} against the share of weights removed, a point per run",
              partial(_against_sparsity, group=group, column=column)) for column in _scored(group)
    )  # fmt: skip
    return FigureGrid("pareto", tuple(panels), THIRD, columns=3)


def _against_sparsity(axes: Axes, *, group: Group, column: Column) -> None:
    label_axes(axes, _TITLES[column.key], "weights removed, %")
    runs = group.runs[["label", "sparsity", column.key]].dropna()
    kept_scale(axes, runs["sparsity"].max() if len(runs) else 0.0, "x")
    points = [[value] for value in runs[column.key]]
    low, high = window(points, column.better)
    cut_to(axes, (low, high), points)
    cost = runs[column.key] * (-1 if column.better == "high" else 1)
    ranked = runs.assign(cost=cost).sort_values(["sparsity", "cost"], ascending=[False, True])
    frontier = ranked[ranked["cost"] < ranked["cost"].cummin().shift(fill_value=math.inf)]
    axes.plot(frontier["sparsity"], frontier[column.key], color=MUTED, linewidth=0.8, alpha=0.7)
    for label, sparsity, value in runs.itertuples(index=False):
        inside = min(max(value, low), high)
        axes.plot(sparsity, inside, **_points(group, label, 6.0), alpha=1.0 if inside == value else 0.45,
                  clip_on=False, zorder=_depth(group, label))  # fmt: skip
    note_outside(axes, dict(zip(runs["label"], runs[column.key], strict=True)), middle=True)


def reliability(group: Group) -> FigureGrid:
    """Draw a reliability diagram per method, all on one scale that a failed one does not stretch."""
    bins = {label: pool_bins(group.of(label)) for label in group.labels}
    bins = {label: own for label, own in bins.items() if len(own)}
    lowest = [float(own[["confidence", "accuracy"]].min().min()) for own in bins.values()]
    low = max(0.01, math.floor(10 * float(np.quantile(lowest, 0.25))) / 10) if bins else 0.0
    column = next(each for each in SCORE_COLUMNS if each.key == "expected_calibration_error")
    panels = []
    for place, (label, own) in enumerate(bins.items()):
        note = f"ECE {cell_text(column, *group.means.loc[label, column.key][['mean', 'sem']])}"
        draw = partial(figure_reliability, bins=own, title=label, style=_points(group, label, 3.8),
                       lowest=low, note=note)  # fmt: skip
        panels.append(Panel(str(place), f"Reliability diagram of {label}", draw))
    columns = 4 if len(bins) in {4, 7, 8, 10, 11, 12} else 3
    return FigureGrid("reliability", tuple(panels), SMALL, columns, legend=False)


def pool_bins(records: list[Record]) -> DataFrame:
    """Pool the reliability bins of several runs, bin by bin; those with another number of bins are left out.

    Args:
        records: At least one run.
    """
    tables = [record.reliability for record in records]
    every = pandas.concat([table for table in tables if len(table) == len(tables[0])]).fillna(0.0)
    total = every["count"].groupby(level=0).sum()
    weighted = every[["confidence", "accuracy"]].mul(every["count"], axis=0).groupby(level=0).sum()
    return weighted.div(total, axis=0).assign(count=total)[total > 0]


def detection(group: Group) -> FigureGrid:
    """Draw the AUROC of each method for out-of-distribution images, and entropy histograms of some."""
    found: dict[str, list[Detection]] = {label: [] for label in group.labels}
    for name, label in group.runs["label"].items():
        own = group.detections.get(str(name))
        if isinstance(own, Detection) and math.isfinite(own.auroc):
            found[label].append(own)
    known = [label for label in group.labels if found[label]]
    if not known:
        return FigureGrid("out-of-distribution", (), THIRD, columns=3)
    first = sorted(known, key=lambda label: group.labels[label] not in _HISTOGRAMS_FIRST)[:_MOST_HISTOGRAMS]
    auroc = partial(_dots, group=group, key="out_of_distribution_auroc", reference=0.5, digits=3,
                    title="AUROC of the entropy")  # fmt: skip
    panels = [Panel("auroc", "AUROC of each method", auroc)]
    panels += [
        Panel(f"entropy-{label}", f"Predictive entropy of test and out-of-distribution images under {label}",
              partial(_entropies, group=group, label=label, runs=found[label]))
        for label in known if label in first
    ]  # fmt: skip
    some = found[known[0]][0]
    facts = (
        f"{some.num_outside:,} images of {some.foreign}, in the size, channels and scale of {some.home}, "
        f"against {some.num_inside:,} of its test images."
    )
    return FigureGrid("out-of-distribution", tuple(panels), THIRD, columns=3, legend=False, facts=facts)


def _entropies(axes: Axes, *, group: Group, label: str, runs: list[Detection]) -> None:
    """Draw histograms of the predictive entropy of test and out-of-distribution images, all seeds pooled."""
    label_axes(axes, label, "predictive entropy, nats")
    edges = np.array(runs[0].edges)
    alike = [run for run in runs if run.edges == runs[0].edges]
    inside, outside = (
        np.array([getattr(run, which) for run in alike], dtype=float).sum(0)
        for which in ("inside", "outside")
    )
    inside, outside = inside / max(inside.sum(), 1), outside / max(outside.sum(), 1)
    axes.stairs(inside, edges, fill=True, color=_line(group, label)["color"], alpha=0.35, linewidth=0)
    axes.stairs(outside, edges, color=INK, linewidth=1.2)
    # Sure test images fill the first bin; the scale is that of the others unless they are alone.
    top = max(1.25 * np.concatenate([inside[1:], outside[1:]]).max(initial=0.0), float(outside[0])) or 1.0
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, top), yticks=[])
    words: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "size": 8}
    if inside[0] > top:
        axes.text(0.05, 0.95, f"\N{UPWARDS ARROW} {100 * inside[0]:.0f} % here", color=MUTED, **words)
        mark_cut(axes, bottom=False, top=True)
    auroc = f"AUROC {np.mean([run.auroc for run in runs]):.3f}"
    axes.text(0.98, 0.95, auroc, color=INK, weight="bold", ha="right", **words)


def cost(group: Group) -> FigureGrid:
    """Draw the time of a step relative to the dense baseline's, and NLL against time."""
    panels, key = [], "relative_seconds_per_iteration"
    if group.runs[key].notna().any():
        draw = partial(
            _dots, group=group, key=key, reference=1.0, digits=2, title="Time of a step, flat-map = 1"
        )
        panels.append(Panel("steps", "Seconds per iteration of each method relative to flat-map", draw))
    if any(group.records[name].history["seconds"].notna().any() for name in group.runs.index):
        words = "Negative log-likelihood against minutes of training, a line per method"
        panels.append(Panel("time", words, partial(_against_time, group=group)))
    return FigureGrid(
        "cost", tuple(panels), HALF, columns=2, facts=f"On {', '.join(sorted(set(group.runs['device'])))}."
    )


def _against_time(axes: Axes, *, group: Group) -> None:
    label_axes(axes, "Negative log-likelihood", "minutes")
    lines = {}
    for label in group.labels:
        every = pandas.concat([record.history for record in group.of(label)]).groupby("epoch")
        # the mean over seeds at the end of each epoch that all of them have
        line = (
            every[["seconds", "negative_log_likelihood"]]
            .mean()[every.size() == len(group.of(label))]
            .dropna()
        )
        lines[label] = line["negative_log_likelihood"].to_numpy()
        _draw_line(axes, group, label, line["seconds"] / 60, DataFrame({"mean": lines[label], "sem": 0.0}))
    cut_to(axes, window(list(lines.values()), "low"), list(lines.values()))
    note_outside(axes, {label: line[-1] for label, line in lines.items() if len(line)})


def _dots(axes: Axes, *, group: Group, key: str, title: str, reference: float, digits: int) -> None:
    """Draw one line of dots per method: small ones for seeds, a large one for their mean."""
    axes.set_title(title)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.axvline(reference, color=MUTED, linewidth=0.9)
    runs = group.runs[["label", key]].dropna()
    shown = [label for label in group.labels if label in set(runs["label"])]
    for row, label in enumerate(shown):
        seeds = runs[key][runs["label"] == label]
        if len(seeds) > 1:
            axes.plot(seeds, [row] * len(seeds), **_points(group, label, 3.0), alpha=0.5, clip_on=False)
        axes.plot(seeds.mean(), row, **_points(group, label, 6.5), clip_on=False, zorder=4)
        axes.annotate(f"{seeds.mean():.{digits}f}", (seeds.max(), row), (7, 0), textcoords="offset points",
                      va="center", size=7.5, color=INK, annotation_clip=False)  # fmt: skip
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), shown, size=8.0)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))


MAKERS = (over_epochs, pareto, weights, first_layers, reliability, detection, cost)
"""Each makes one figure of a group, without panels where there is nothing to show; in order."""
