"""Draw the weights of a first layer as images; removed weights are grey.

Shapes: a convolution's weight is (filters, channels, height, width), a linear layer's (units, inputs).
Inputs that are n x n or 3 x n x n are shown as images; anything else as one matrix.
"""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from secateur.reports.style import BLUE, ORANGE, REMOVED, drawing

__all__ = ["SIGNED", "FilterPicture", "draw"]

SIGNED = (BLUE, "#fdfcf6", ORANGE)
"""Colours of a negative, a vanishing and a positive weight."""

_MOST_TILES = 24
_COLUMNS = 6


@dataclass(frozen=True)
class FilterPicture:
    """A figure, in words what it shows, and the key to its colours.

    Attributes:
        scale: The size at which a weight has full colour; None where the colours are those of the channels.
    """

    figure: Figure
    caption: str
    scale: float | None


def draw(weight: np.ndarray) -> FilterPicture:
    """Draw the weights of a first layer; entries that are exactly zero are left grey.

    Args:
        weight: (filters, channels, height, width) or (units, inputs).
    """
    units = weight.reshape(len(weight), -1)
    alive = np.flatnonzero((units != 0).any(axis=1))
    gone = len(weight) - len(alive)
    lost = f" {gone:,} of the {len(weight):,} are removed entirely." if gone and weight.ndim == 2 else ""
    images = _as_images(weight)
    if images is None:
        return FilterPicture(
            _matrix(units),
            f"The whole matrix, one row per unit and one column per input.{lost}",
            _scale(units),
        )
    colour = " Red, green and blue stand for the three channels." if images.ndim == 4 else ""
    if weight.ndim == 4:
        chosen = np.arange(len(weight))[:_MOST_TILES]
        what = f"{'All' if len(chosen) == len(weight) else 'The first'} {len(chosen)} filters."
    else:
        spread = np.linspace(0, max(len(alive) - 1, 0), min(_MOST_TILES, len(alive))).round().astype(int)
        chosen = alive[spread]
        what = (
            f"The weights of {len(chosen)} of {len(weight):,} units, each laid out like the image it reads."
        )
    if not len(chosen):
        return FilterPicture(_matrix(units), "Every weight of this layer is removed.", None)
    scale = None if colour else _scale(images[chosen])
    return FilterPicture(_tiles(images[chosen]), what + colour + lost, scale)


def _as_images(weight: np.ndarray) -> np.ndarray | None:
    """Return (units, height, width) or (units, height, width, 3), or None where the inputs are no image."""
    if weight.ndim == 2:
        n = weight.shape[1]
        for channels in (1, 3):
            side = math.isqrt(n // channels)
            if side > 1 and channels * side * side == n:
                weight = weight.reshape(len(weight), channels, side, side)
                break
    if weight.ndim != 4 or weight.shape[1] not in {1, 3} or weight.shape[2] * weight.shape[3] == 1:
        return None
    return weight[:, 0] if weight.shape[1] == 1 else weight.transpose(0, 2, 3, 1)


def _paint(values: np.ndarray, scale: float) -> np.ndarray:
    """Return colours (..., 4): blue below zero, orange above, transparent where exactly zero."""
    if values.shape[-1] == 3 and values.ndim == 3:
        paint = np.concatenate(
            [np.clip(0.5 + values / (2 * scale), 0, 1), np.ones((*values.shape[:2], 1))], -1
        )
        paint[..., 3] = (values != 0).any(-1)
        return paint
    colours = LinearSegmentedColormap.from_list("signed", SIGNED)
    paint = colours(np.clip(0.5 + values / (2 * scale), 0, 1))
    paint[..., 3] = values != 0
    return paint


def _scale(values: np.ndarray) -> float:
    kept = np.abs(values[values != 0])
    return float(np.quantile(kept, 0.98)) if len(kept) else 1.0


def _tiles(images: np.ndarray) -> Figure:
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    side = 7.2 / _COLUMNS
    height = rows * side
    scale = _scale(images)
    with drawing():
        figure = Figure(figsize=(columns * side, height))
        pad = 0.05
        for index, image in enumerate(images):
            row, column = divmod(index, columns)
            axes = figure.add_axes((
                (column + pad) / columns,
                1 - (row + 1 - pad) * side / height,
                (1 - 2 * pad) / columns,
                (1 - 2 * pad) * side / height,
            ))
            axes.set_facecolor(REMOVED)
            axes.imshow(_paint(image, scale), interpolation="none")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        return figure


def _matrix(units: np.ndarray) -> Figure:
    scale = _scale(units)
    height = float(np.clip(6.2 * units.shape[0] / units.shape[1], 0.9, 6.5))
    with drawing():
        figure = Figure(figsize=(7.2, height))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_facecolor(REMOVED)
        axes.imshow(_paint(units, scale), interpolation="none", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return figure
