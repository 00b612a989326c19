"""Figures of weights: distributions of absolute values by layer, and the first layer's filters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from safetensors import SafetensorError, safe_open

from secateur.errors import ArtifactError
from secateur.reports import filters
from secateur.reports.comparison_runs import Group, MethodRuns
from secateur.reports.figure_grid import FigureGrid, Geometry, Panel
from secateur.reports.filters import FilterPicture
from secateur.reports.style import MUTED, clean_axes, drawing

__all__ = ["MOST_LAYERS", "first_layers", "pictures", "sizes"]

MOST_LAYERS = 12
"""A network with more layers shows that many, evenly spread from the first to the last."""

_SMALL = Geometry(width=2.25, height=2.0, left=0.42, right=0.1, top=0.32, bottom=0.42)
_POINTS = 140


@dataclass(frozen=True)
class _Sizes:
    """Distribution of |posterior mean| in one layer of one method.

    Attributes:
        removed: Share of the weights that are exactly zero.
        ordered: The others' absolute values, ascending.
    """

    removed: float
    ordered: np.ndarray


def sizes(group: Group) -> FigureGrid | None:
    """Draw cumulative distributions of |posterior mean| by layer; None where no layer can be read.

    Args:
        group: Runs of one network on one data set; of each method the run with the lowest seed is shown.
    """
    names, total = _layers(group)
    found: dict[str, dict[str, _Sizes]] = {name: {} for name in names}
    for variant in group.variants:
        for name, own in _read(variant.runs[0].record.directory / "model.safetensors", names).items():
            found[name][variant.label] = own
    names = [name for name in names if found[name]]
    if not names:
        return None
    panels = tuple(
        Panel(
            name.replace(".", "-"),
            f"Cumulative distribution of the absolute posterior mean in {name}, a line per method",
            partial(_distribution, group, name.removesuffix(".weight"), found[name]),
        )
        for name in names
    )
    some = f" {len(names)} of {total} layers, evenly spread." if total > len(names) else ""
    return FigureGrid(
        name=f"{group.name}-weights",
        title="How large the weights are",
        caption=(
            "Share of a layer's weights, in per cent, whose posterior mean is at most this large in absolute "
            "value. Removed weights are exactly zero: they are the height at which a line begins, at the 0 "
            "of the otherwise logarithmic scale; a jump behind the grey strip is of weights that are next "
            f"to nothing. Of each method the run with the lowest seed; biases left out.{some}"
        ),
        panels=panels,
        geometry=_SMALL,
        columns=3 if len(panels) in {3, 5, 6, 9} else 4,
        legend=group.variants,
    )


def _layers(group: Group) -> tuple[list[str], int]:
    """Return names of weight matrices and kernels in order, at most `MOST_LAYERS`, and how many there are."""
    names: dict[str, None] = {}
    for variant in group.variants:
        for layer in variant.runs[0].record.layers:
            if len(layer.shape) > 1 and layer.num_weights:
                names[layer.name] = None
    every = list(names)
    if len(every) <= MOST_LAYERS:
        return every, len(every)
    chosen = np.linspace(0, len(every) - 1, MOST_LAYERS).round().astype(int)
    return [every[index] for index in chosen], len(every)


def _read(path: Path, names: Sequence[str]) -> dict[str, _Sizes]:
    try:
        with safe_open(path, framework="pt") as tensors:
            there = set(tensors.keys())
            return {name: _sizes(tensors.get_tensor(name).float().numpy()) for name in names if name in there}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: expected a readable safetensors file, got {error}; fit again") from None


def _sizes(weight: np.ndarray) -> _Sizes:
    absolute = np.abs(weight.ravel())
    kept = absolute[absolute > 0]
    return _Sizes(1 - len(kept) / len(absolute), np.sort(kept))


def _distribution(group: Group, layer: str, found: dict[str, _Sizes], axes: Axes) -> None:
    clean_axes(axes, title=layer, xlabel="|posterior mean|")
    low, high = _range([own.ordered for own in found.values()])
    left = low / (high / low) ** 0.09  # the place of zero
    grid = np.geomspace(low, high, _POINTS)
    axes.axvspan(left, low, color=MUTED, alpha=0.08, linewidth=0)
    for variant in group.variants:
        own = found.get(variant.label)
        if own is None:
            continue
        num = len(own.ordered)
        below = np.searchsorted(own.ordered, grid, side="right") / max(num, 1)
        share = own.removed + (1 - own.removed) * below
        axes.plot(
            [left, low, *grid], [own.removed, own.removed, *share], **variant.style.line(size=4.5),
            markevery=[0], clip_on=False, zorder=4 if variant.style.family == "ours" else 3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(left, high)
    axes.set_ylim(0, 1.0)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    axes.xaxis.set_major_locator(FixedLocator([left, *_ticks(low, high)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "0" if x <= left * 1.01 else _size_label(x)))


def _ticks(low: float, high: float) -> list[float]:
    """Return at most three round values, apart from the left end, where 0 stands."""
    start = low * (high / low) ** 0.08
    powers = range(math.floor(math.log10(start)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [d * 10.0**power for power in powers for d in digits if start <= d * 10.0**power <= high]
        if len(found) > 1:
            break
    step = max(1, -(-len(found) // 3))
    return found[::-1][::step][::-1]


def _size_label(value: float) -> str:
    return f"{value:g}" if value > 0.005 else f"$10^{{{math.log10(value):.0f}}}$"


def _range(ordered: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return a range that holds all but the smallest fiftieth of every method's remaining weights."""
    some = [values for values in ordered if len(values)]
    if not some:
        return 1e-3, 1.0
    low = min(float(np.quantile(values, 0.02)) for values in some)
    high = max(float(values[-1]) for values in some)
    return max(low, 1e-5 * high), 1.1 * high


def pictures(group: Group) -> list[tuple[MethodRuns, FilterPicture]]:
    """Draw the first layer of each method's run with the lowest seed.

    Args:
        group: Runs of one network on one data set.
    """
    drawn = []
    for variant in group.variants:
        first = variant.runs[0].record.first_layer
        if first is not None:
            drawn.append((variant, filters.draw(first.weight)))
    return drawn


def first_layers(group: Group, drawn: Sequence[tuple[MethodRuns, FilterPicture]]) -> FigureGrid | None:
    """Combine the pictures of first layers into one figure, for a file; a page shows them one by one.

    Args:
        group: Runs of one network on one data set.
        drawn: What `pictures` returned.
    """
    if not drawn:
        return None
    width, height = drawn[0][1].figure.get_size_inches()
    columns = 2 if width > 3 * height else 3
    size = 7.2 / columns
    return FigureGrid(
        name=f"{group.name}-first-layer",
        title="The first layer",
        caption=(
            "Posterior mean of the first layer's weights, blue below zero and orange above, each method on "
            "its own scale; grey is removed. Of each method the run with the lowest seed."
        ),
        panels=tuple(
            Panel(f"{index}", f"First layer of {variant.label}", partial(_picture, variant.label, picture))
            for index, (variant, picture) in enumerate(drawn)
        ),
        geometry=Geometry(
            width=size,
            height=(size - 0.1) * height / width + 0.3,
            left=0.05,
            right=0.05,
            top=0.26,
            bottom=0.04,
        ),
        columns=columns,
    )


def _picture(label: str, picture: FilterPicture, axes: Axes) -> None:
    with drawing():
        canvas = FigureCanvasAgg(picture.figure)
        canvas.draw()
        painted = np.asarray(canvas.buffer_rgba())
    axes.set_title(label, pad=4)
    axes.imshow(painted, interpolation="none", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
