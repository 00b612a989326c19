"""Figures made of panels that share a legend: one SVG for each panel on a page, one image in a file.

Panels have a size in inches and margins in inches, so that a panel looks the same alone and among others.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from secateur.reports.comparison_runs import MethodRuns
from secateur.reports.method_style import FAMILIES
from secateur.reports.style import INK, MUTED, drawing

__all__ = ["FigureGrid", "Geometry", "Panel", "combined_figure", "panel_figure"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size of a panel and of the room around its axes, in inches."""

    width: float
    height: float
    left: float
    right: float
    top: float = 0.34
    bottom: float = 0.44


@dataclass(frozen=True)
class Panel:
    """One axes of a figure grid.

    Attributes:
        name: Unique within its figure grid.
        description: What a reader who cannot see it is told.
        draw: Draws into empty axes.
        left: Margin left of the axes in inches; None takes the geometry's.
    """

    name: str
    description: str
    draw: Callable[[Axes], None]
    left: float | None = None


@dataclass(frozen=True, kw_only=True)
class FigureGrid:
    """A titled grid of panels with one legend.

    Attributes:
        name: What its files are called.
        title: Its heading.
        caption: What it shows and how to read it, in one or two sentences.
        panels: In reading order.
        geometry: Of each panel.
        columns: Panels side by side in a file.
        legend: The variants that its colours and markers stand for; none where panels say it themselves.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    geometry: Geometry
    columns: int
    legend: tuple[MethodRuns, ...] = ()


def panel_figure(panel: Panel, geometry: Geometry) -> Figure:
    """Draw a panel as a figure of its own.

    Args:
        panel: What to draw.
        geometry: Its size and margins.
    """
    with drawing():
        figure = Figure(figsize=(geometry.width, geometry.height))
        panel.draw(_axes(figure, panel, geometry, 0.0, 0.0))
        return figure


def combined_figure(grid: FigureGrid) -> Figure:
    """Draw all panels as one figure, the legend above them.

    Args:
        grid: What to draw.
    """
    own = grid.geometry
    columns = min(grid.columns, len(grid.panels))
    rows = -(-len(grid.panels) // columns)
    width = columns * own.width
    entries = _legend_rows(grid.legend, width)
    strip = _ROW * len(entries) + (0.12 if entries else 0.0)
    with drawing():
        figure = Figure(figsize=(width, rows * own.height + strip))
        for index, panel in enumerate(grid.panels):
            row, column = divmod(index, columns)
            panel.draw(_axes(figure, panel, own, column * own.width, (rows - 1 - row) * own.height))
        _draw_legend(figure, entries)
        return figure


def _axes(figure: Figure, panel: Panel, geometry: Geometry, x: float, y: float) -> Axes:
    """Return the axes of a panel whose lower left corner is at x, y inches."""
    width, height = figure.get_size_inches()
    left = geometry.left if panel.left is None else panel.left
    return figure.add_axes((
        (x + left) / width,
        (y + geometry.bottom) / height,
        (geometry.width - left - geometry.right) / width,
        (geometry.height - geometry.top - geometry.bottom) / height,
    ))


# Inches: height of a row, width of a family's name, of a handle, of a letter, and between entries.
_ROW, _HEAD, _HANDLE, _LETTER, _GAP = 0.2, 0.78, 0.36, 0.069, 0.24

_Entry = tuple[float, MethodRuns]  # where it begins, in inches from the left


def _legend_rows(variants: Sequence[MethodRuns], width: float) -> list[tuple[str, list[_Entry]]]:
    """Return rows of a legend: the family where one begins, and the entries that fit."""
    rows: list[tuple[str, list[_Entry]]] = []
    for family in FAMILIES:
        own = [variant for variant in variants if variant.style.family == family]
        x = math.inf
        for index, variant in enumerate(own):
            long = _HANDLE + _LETTER * len(variant.label)
            if x + long > width:
                rows.append(("" if index else family, []))
                x = _HEAD
            rows[-1][1].append((x, variant))
            x += long + _GAP
    return rows


def _draw_legend(figure: Figure, rows: Sequence[tuple[str, list[_Entry]]]) -> None:
    width, height = figure.get_size_inches()
    for index, (family, entries) in enumerate(rows):
        y = 1 - (index + 0.6) * _ROW / height
        figure.text(0.1 / width, y, family, va="center", color=MUTED, size=8)
        for inches, variant in entries:
            x = inches / width
            handle = variant.style.handle()
            handle.set_data([x, x + 0.14 / width, x + 0.28 / width], [y, y, y])
            handle.set(transform=figure.transFigure, markevery=[1])
            figure.add_artist(handle)
            figure.text(x + _HANDLE / width, y, variant.label, va="center", color=INK, size=8)
