"""Figures of weights: the first layer as images, and how large the weights of each layer are."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from secateur.reports.figures import label_axes
from secateur.reports.style import BLUE, MUTED, ORANGE, REMOVED, FigureGrid, Panel, line_style
from secateur.reports.tables import Group
from secateur.runs import formatting

__all__ = ["SIGNED", "Filters", "figure_filters", "filters", "first_layers", "weights"]

SIGNED = (BLUE, "#fdfcf6", ORANGE)
"""Colours of a negative, a vanishing and a positive weight."""

_MOST_TILES, _TILE_COLUMNS = 24, 6
_MOST_LAYERS, _POINTS = 12, 140


@dataclass(frozen=True, eq=False)
class Filters:
    """Weights of a first layer, as images or as one matrix, and in words what they show.

    Attributes:
        tiles: (images, height, width) or (images, height, width, 3).
        scale: The size at which a weight has full colour; None where colours are those of the channels.
    """

    tiles: np.ndarray
    caption: str
    scale: float | None

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure in inches."""
        count, height, width = self.tiles.shape[:3]
        if count == 1:
            return 7.2, float(np.clip(6.2 * height / width, 0.9, 6.5))
        return 1.2 * min(_TILE_COLUMNS, count), 1.2 * -(-count // _TILE_COLUMNS)


def filters(weight: np.ndarray) -> Filters:
    """Choose what to show of a first layer: filters, or units laid out like the images that they read.

    Args:
        weight: (filters, channels, height, width) or (units, inputs); n x n or 3 x n x n inputs are images.
            Anything else is shown as one matrix.
    """
    units, images = weight.reshape(len(weight), -1), _as_images(weight)
    alive = np.flatnonzero((units != 0).any(axis=1))
    gone = len(weight) - len(alive)
    lost = f" {gone:,} of the {len(weight):,} are removed entirely." if gone and weight.ndim == 2 else ""
    if images is None or not len(alive):
        whole = f"The whole matrix, one row per unit and one column per input.{lost}"
        return Filters(
            units[None], whole if len(alive) else "Every weight of this layer is removed.", _scale(units)
        )
    colour = " Red, green and blue stand for the three channels." if images.ndim == 4 else ""
    if weight.ndim == 4:
        chosen = np.arange(len(weight))[:_MOST_TILES]
        what = f"{'All' if len(chosen) == len(weight) else 'The first'} {len(chosen)} filters."
    else:
        chosen = alive[np.linspace(0, len(alive) - 1, min(_MOST_TILES, len(alive))).round().astype(int)]
        what = (
            f"The weights of {len(chosen)} of {len(weight):,} units, each laid out like the image it reads."
        )
    return Filters(images[chosen], what + colour + lost, None if colour else _scale(images[chosen]))


def _as_images(weight: np.ndarray) -> np.ndarray | None:
    """Return (units, height, width) or (units, height, width, 3), or None where the inputs are no image."""
    if weight.ndim == 2:
        for channels in (1, 3):
            side = math.isqrt(weight.shape[1] // channels)
            if side > 1 and channels * side * side == weight.shape[1]:
                weight = weight.reshape(len(weight), channels, side, side)
                break
    if weight.ndim != 4 or weight.shape[1] not in {1, 3} or weight.shape[2] * weight.shape[3] == 1:
        return None
    return weight[:, 0] if weight.shape[1] == 1 else weight.transpose(0, 2, 3, 1)


def _scale(values: np.ndarray) -> float:
    kept = np.abs(values[values != 0])
    return float(np.quantile(kept, 0.98)) if len(kept) else 1.0


def figure_filters(axes: Axes, shown: Filters) -> None:
    """Draw the tiles side by side: blue below zero, orange above, grey where exactly zero.

    Args:
        axes: Where to draw.
        shown: What `filters` chose.
    """
    colours = LinearSegmentedColormap.from_list("signed", SIGNED)
    columns, pad = min(_TILE_COLUMNS, len(shown.tiles)), 0.05 if len(shown.tiles) > 1 else 0.0
    for index, tile in enumerate(shown.tiles):
        row, column = divmod(index, columns)
        corner, side = (column + pad, row + pad), 1 - 2 * pad
        axes.add_patch(Rectangle(corner, side, side, facecolor=REMOVED, linewidth=0, zorder=0))
        values = np.clip(0.5 + tile / (2 * (shown.scale or _scale(shown.tiles))), 0, 1)
        painted = colours(values) if tile.ndim == 2 else np.dstack([values, np.ones(tile.shape[:2])])
        painted[..., 3] = tile != 0 if tile.ndim == 2 else (tile != 0).any(-1)
        extent = (corner[0], corner[0] + side, corner[1] + side, corner[1])
        axes.imshow(painted, interpolation="none", extent=extent, zorder=1)
    axes.set(xlim=(0, columns), ylim=(-(-len(shown.tiles) // columns), 0), aspect="auto")
    axes.set_axis_off()


def weights(group: Group) -> FigureGrid:
    """Draw cumulative distributions of the absolute posterior mean, a panel per layer."""
    first = {label: group.of(label)[0] for label in group.labels}
    every: dict[str, None] = {}
    for record in first.values():
        matrices = record.layers[record.layers["shape"].map(len) > 1]
        every |= dict.fromkeys(matrices["name"][matrices["num_weights"] > 0])
    places = np.linspace(0, len(every) - 1, min(len(every), _MOST_LAYERS)).round().astype(int)
    names = [list(every)[place] for place in places]
    found = {label: record.weights(names) for label, record in first.items()}
    panels = []
    for name in names:
        sizes = {label: np.abs(own[name].ravel()) for label, own in found.items() if name in own}
        words = f"Cumulative distribution of the absolute posterior mean in {name}, a line per method"
        draw = partial(_distribution, group=group, layer=name.removesuffix(".weight"), sizes=sizes)
        panels += [Panel(name, words, draw)] if sizes else []
    some = f"{len(names)} of {len(every)} layers, evenly spread." if len(every) > len(names) else ""
    columns = 3 if len(panels) in {3, 5, 6, 9} else 4
    return FigureGrid("weights", tuple(panels), (2.25, 2.1), columns, facts=some)


def _distribution(axes: Axes, *, group: Group, layer: str, sizes: dict[str, np.ndarray]) -> None:
    label_axes(axes, layer, "|posterior mean|")
    kept = {label: np.sort(own[own > 0]) for label, own in sizes.items()}
    some = [own for own in kept.values() if len(own)]
    high = 1.1 * max((float(own[-1]) for own in some), default=1.0)
    # all but the smallest fiftieth of every method's remaining weights
    low = max(min((float(np.quantile(own, 0.02)) for own in some), default=0.0), 1e-5 * high)
    left = low / (high / low) ** 0.09  # the place of zero
    grid = np.geomspace(low, high, _POINTS)
    axes.axvspan(left, low, color=MUTED, alpha=0.08, linewidth=0)
    for label, own in kept.items():
        style = line_style(group.labels[label], group.methods, size=4.2)
        removed = 1 - len(own) / len(sizes[label])
        share = removed + (1 - removed) * np.searchsorted(own, grid, side="right") / max(len(own), 1)
        axes.plot([left, low, *grid], [removed, removed, *share], **style, markevery=[0],
                  clip_on=False, zorder=3)  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlim=(left, high), ylim=(0, 1), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    powers = [
        10.0**power for power in range(math.ceil(math.log10(left) + 0.4), math.floor(math.log10(high)) + 1)
    ]
    ticks = (
        powers[:: -max(1, -(-len(powers) // 3))]
        if len(powers) > 1
        else [float(f"{math.sqrt(low * high):.2g}")]
    )
    axes.xaxis.set_major_locator(FixedLocator([left, *ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "0" if x <= left * 1.01 else f"{x:.2g}"))


def first_layers(group: Group) -> FigureGrid:
    """Draw the weights of the first layer, a panel per method."""
    panels, width, height = [], 2.4, 1.0
    for place, label in enumerate(group.labels):
        record = group.of(label)[0]
        if record.first_layer is not None:
            shown = filters(record.weights([record.first_layer])[record.first_layer])
            across, down = shown.size
            width = 3.6 if across > 3 * down else 2.4
            height = width * down / across + 0.3
            ends = f"{formatting.MINUS}{shown.scale:.2g} to +{shown.scale:.2g}" if shown.scale else ""
            draw = partial(_titled_filters, label=label, shown=shown)
            panels.append(Panel(str(place), f"{label}: {shown.caption}", draw, ends))
    columns = 2 if width > 3 else 3
    return FigureGrid("first-layer", tuple(panels), (width, height), columns, legend=False)


def _titled_filters(axes: Axes, *, label: str, shown: Any) -> None:
    figure_filters(axes, shown)
    axes.set_title(label, pad=4)
