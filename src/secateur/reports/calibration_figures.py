"""Reliability diagrams and out-of-distribution detection of the methods of a comparison."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from secateur.reports.comparison_cost import LABEL_WIDTH, dots
from secateur.reports.comparison_runs import Group, MethodRuns, mean_and_error
from secateur.reports.comparison_table import Detections
from secateur.reports.figure_grid import FigureGrid, Geometry, Panel
from secateur.reports.out_of_distribution import Detection
from secateur.reports.style import INK, MUTED, clean_axes
from secateur.runs.records import ReliabilityBins

__all__ = ["detection", "entropies", "pool_bins", "reliability"]

_SMALL = Geometry(width=2.25, height=2.25, left=0.38, right=0.1, top=0.32, bottom=0.42)
_THIRD = Geometry(width=2.95, height=2.45, left=0.2, right=0.2)


def reliability(group: Group) -> FigureGrid | None:
    """Return a reliability diagram per method; None where no run has bins.

    Args:
        group: Runs of one network on one data set.
    """
    bins = [
        (variant, pool_bins([run.record.reliability for run in variant.runs])) for variant in group.variants
    ]
    bins = [(variant, own) for variant, own in bins if any(own.count)]
    if not bins:
        return None
    # One scale for all, which a single method that failed does not stretch.
    lowest = float(np.quantile([_lowest(own) for _, own in bins], 0.25))
    low = max(0.0, min(math.floor(10 * lowest) / 10, 0.8))
    panels = tuple(
        Panel(f"{index}", f"Reliability diagram of {variant.label}", partial(_diagram, variant, own, low))
        for index, (variant, own) in enumerate(bins)
    )
    return FigureGrid(
        name=f"{group.name}-reliability",
        title="Is the confidence honest?",
        caption=(
            "Share right against confidence, test images in bins of equal size sorted by confidence, all "
            "seeds together; stems are distances from honesty, the dashed line. Below it a method is too "
            "sure, above it too modest. ECE is the mean of those distances in a run, averaged over seeds."
        ),
        panels=panels,
        geometry=_SMALL,
        columns=4 if len(panels) in {4, 7, 8, 10, 11, 12} else 3,
    )


def pool_bins(runs: Sequence[ReliabilityBins]) -> ReliabilityBins:
    """Pool the reliability bins of several runs, bin by bin.

    Runs with another number of bins than the first are left out.

    Args:
        runs: At least one.
    """
    num_bins = len(runs[0].count)
    own = [run for run in runs if len(run.count) == num_bins and any(run.count)]
    if not own or not num_bins:
        return runs[0]
    count = np.array([run.count for run in own], dtype=float)
    total = count.sum(0)
    used = np.maximum(total, 1)
    return ReliabilityBins(
        tuple(((np.nan_to_num([run.confidence for run in own]) * count).sum(0) / used).tolist()),
        tuple(((np.nan_to_num([run.accuracy for run in own]) * count).sum(0) / used).tolist()),
        tuple(total.astype(int).tolist()),
    )


def _lowest(bins: ReliabilityBins) -> float:
    used = np.array(bins.count) > 0
    return float(min(np.array(bins.confidence)[used].min(), np.array(bins.accuracy)[used].min()))


def _diagram(variant: MethodRuns, bins: ReliabilityBins, low: float, axes: Axes) -> None:
    clean_axes(axes, title=variant.label, xlabel="confidence")
    axes.grid(axis="x")
    used = np.array(bins.count) > 0
    confidence, accuracy = np.array(bins.confidence)[used], np.array(bins.accuracy)[used]
    axes.plot([low, 1], [low, 1], color=MUTED, linewidth=0.9, dashes=(4, 3))
    axes.vlines(confidence, confidence, accuracy, color=variant.style.colour, linewidth=1.3, alpha=0.5)
    axes.plot(confidence, accuracy, **variant.style.points(size=3.8))
    mean, error, _ = mean_and_error(run.record.averaged.expected_calibration_error for run in variant.runs)
    text = f"ECE {mean:.4f}" + (f" \N{PLUS-MINUS SIGN} {error:.4f}" if math.isfinite(error) else "")
    if math.isfinite(mean):
        axes.text(0.05, 0.94, text, transform=axes.transAxes, va="top", size=8, color=INK, weight="bold")
    room = 0.02 * (1 - low)
    axes.set_xlim(low - room, 1 + room)
    axes.set_ylim(low - room, 1 + room)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))


def detection(group: Group, detections: Detections) -> FigureGrid | None:
    """Draw the AUROC of each method and entropy histograms of some; None where nothing was measured.

    Args:
        group: Runs of one network on one data set.
        detections: Detection of out-of-distribution images, by run directory.
    """
    found = {
        variant.label: [
            own
            for run in variant.runs
            if isinstance(own := detections.get(run.record.directory), Detection) and math.isfinite(own.auroc)
        ]
        for variant in group.variants
    }
    some = next((own[0] for own in found.values() if own), None)
    if some is None:
        return None
    values = {label: [own.auroc for own in runs] for label, runs in found.items()}
    panels = [
        Panel(
            "auroc",
            "AUROC of each method",
            partial(dots, group, values, "AUROC of the entropy", reference=0.5, digits=3),
            left=LABEL_WIDTH,
        )
    ]
    for variant in _a_few(group, values):
        panels.append(
            Panel(
                f"entropy-{variant.label.replace(' ', '-')}",
                f"Predictive entropy of test and out-of-distribution images under {variant.label}",
                partial(entropies, variant, found[variant.label]),
            )
        )
    return FigureGrid(
        name=f"{group.name}-out-of-distribution",
        title="Does it notice out-of-distribution images?",
        caption=(
            f"{some.num_outside:,} images of {some.foreign}, in the size, channels and scale of "
            f"{some.home}, against {some.num_inside:,} of its test images. AUROC: the probability that the "
            "latter has the larger predictive entropy; one half, the line, is chance. Histograms: that "
            "entropy in nats, filled for the test images, outlined for the others; all seeds together, "
            f"{NUM_SHOWN} methods at most."
        ),
        panels=tuple(panels),
        geometry=_THIRD,
        columns=3,
    )


NUM_SHOWN = 5
"""Of how many methods histograms of the entropy are shown."""

_REFERENCES = ("flat-map", "flat-ff", "bmr-spike-and-slab", "calibrated", "magnitude")


def _a_few(group: Group, values: dict[str, list[float]]) -> list[MethodRuns]:
    """Choose the methods that get a histogram: the references first, then in the order of the table."""
    known = [variant for variant in group.variants if values[variant.label]]
    first = [variant for variant in known if variant.method in _REFERENCES]
    rest = [variant for variant in known if variant not in first]
    chosen = (first + rest)[:NUM_SHOWN]
    return [variant for variant in known if variant in chosen]


def entropies(variant: MethodRuns, runs: Sequence[Detection], axes: Axes) -> None:
    """Draw histograms of the predictive entropy of test and out-of-distribution images, all seeds pooled.

    Args:
        variant: The method.
        runs: What was found in its runs; at least one.
        axes: Where to draw.
    """
    clean_axes(axes, title=variant.label, xlabel="predictive entropy, nats")
    edges = np.array(runs[0].edges)
    alike = [run for run in runs if run.edges == runs[0].edges]
    inside, outside = (
        np.array([getattr(run, which) for run in alike], dtype=float).sum(0)
        for which in ("inside", "outside")
    )
    inside, outside = inside / max(inside.sum(), 1), outside / max(outside.sum(), 1)
    axes.stairs(inside, edges, fill=True, color=variant.style.colour, alpha=0.35, linewidth=0)
    axes.stairs(outside, edges, color=INK, linewidth=1.2)
    # Sure test images fill the first bin; the scale is that of the others unless they are alone.
    others = np.concatenate([inside[1:], outside[1:]]).max(initial=0.0)
    top = max(1.25 * others, float(outside[0])) or 1.0
    axes.set_ylim(0, top)
    axes.set_xlim(edges[0], edges[-1])
    if inside[0] > top:
        axes.text(
            0.05, 0.95, f"\N{UPWARDS ARROW} {100 * inside[0]:.0f} % here", size=8, color=MUTED,
            transform=axes.transAxes, va="top",
        )  # fmt: skip
    axes.text(
        0.98, 0.95, f"AUROC {np.mean([run.auroc for run in runs]):.3f}", size=8.5, color=INK, weight="bold",
        transform=axes.transAxes, ha="right", va="top",
    )  # fmt: skip
    axes.set_yticks([])
