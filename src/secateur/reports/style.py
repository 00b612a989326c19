"""How pages and figures look: templates, one style sheet for matplotlib, colours and markers of methods.

Figures are drawn with matplotlib's object interface, without its global state, in placeholder colours. In
the SVG on a page each placeholder becomes a CSS variable, so that one figure serves light, dark and print.
The hues are from the palette of Okabe and Ito, told apart by colour-blind readers as well. A family of
methods has its own hues and its own kind of line: the published methods solid with filled markers, ours
solid and warm, the baselines dashed with markers of strokes. Every method has a marker of its own.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

import matplotlib.style
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from secateur.runs import formatting

__all__ = [
    "BLUE", "CSS_VARIABLES", "FORMATS", "GRID", "INK", "MUTED", "ORANGE", "PAPER", "REMOVED", "FigureGrid",
    "Panel", "combined_figure", "drawing", "file_of", "line_style", "panel", "point_style", "render", "svg",
]  # fmt: skip

PAPER, INK, MUTED, GRID, REMOVED = "#fdfdfc", "#1f2430", "#667080", "#dfe3e8", "#d8dce2"
BLUE, ORANGE = "#0072b2", "#d55e00"
HUES = {
    "slate": "#4b5563", "mint": "#35a585", "green": "#00795a", "pine": "#004d3b", "sky": "#56a8dc",
    "amber": "#e69f00", "pink": "#d07aae", "plum": "#a03c86", "wine": "#5e2750", "brown": "#8c6d31",
    "olive": "#7d8a1e", "clay": "#a98467",
}  # fmt: skip
CSS_VARIABLES = {
    PAPER: "--paper", INK: "--ink", MUTED: "--muted", GRID: "--grid", REMOVED: "--removed", BLUE: "--blue",
    ORANGE: "--orange",
} | {colour: f"--{name}" for name, colour in HUES.items()}  # fmt: skip
"""Placeholder colour to the CSS variable that stands for it on a page."""

FORMATS = ("svg", "pdf", "png")
"""What `file_of` can make, by the ending of the file's name."""

STYLES: dict[str, dict[str, Any]] = {
    "flat-map": {"color": HUES["slate"], "marker": "o"},
    "flat-ff": {"color": HUES["mint"], "marker": "v"},
    "tiered-ff": {"color": HUES["green"], "marker": "^"},
    "horseshoe-ff": {"color": HUES["pine"], "marker": "<"},
    "tiered-ff-tuned": {"color": HUES["green"], "marker": "^", "linestyle": (0, (3.0, 1.2))},
    "horseshoe-ff-tuned": {"color": HUES["pine"], "marker": "<", "linestyle": (0, (3.0, 1.2))},
    "bmr-spike-and-slab": {"color": BLUE, "marker": "s"},
    "bmr-horseshoe": {"color": HUES["sky"], "marker": "D"},
    "calibrated": {"color": ORANGE, "marker": "*", "linewidth": 2.2},
    "ivon": {"color": HUES["amber"], "marker": "P", "linewidth": 1.8},
    "magnitude": {"color": HUES["pink"], "marker": "x", "linestyle": (0, (4.0, 1.6))},
    "signal-to-noise": {"color": HUES["plum"], "marker": "+", "linestyle": (0, (1.4, 1.4))},
    "obd": {"color": HUES["wine"], "marker": "1", "linestyle": (0, (5.0, 1.5, 1.2, 1.5))},
}
"""Arguments of `Axes.plot` by method; one that is not here gets a style that no other has."""

_SPARE = [(HUES[hue], marker) for marker in "phXd>8" for hue in ("brown", "olive", "clay")]
_MARKER_SCALE = {"*": 1.5, "D": 0.85, "s": 0.9, "1": 1.35, "+": 1.2}
_STROKES = frozenset("x+1")  # markers without an inside to fill
_DOTS_PER_INCH = 200


def line_style(method: str, others: Iterable[str] = (), *, size: float = 5.0) -> dict[str, Any]:
    """Return the arguments of `Axes.plot` for a line of a method.

    Args:
        method: Name of the method.
        others: All methods of the comparison, so that those without an entry in `STYLES` differ.
        size: Of the markers, in points.
    """
    if method in STYLES:
        style = {"linewidth": 1.5} | STYLES[method]
    else:
        index = sorted({method, *others} - STYLES.keys()).index(method)
        colour, marker = _SPARE[index % len(_SPARE)]
        dashes = ("-", (0, (3.0, 1.2)), (0, (1.0, 1.0)))[index // len(_SPARE) % 3]
        style = {"linewidth": 1.5, "color": colour, "marker": marker, "linestyle": dashes}
    stroked = style["marker"] in _STROKES
    return style | {
        "markersize": size * _MARKER_SCALE.get(style["marker"], 1.0),
        "markeredgewidth": 0.3 * size if stroked else 0.0,
    }


def point_style(method: str, others: Iterable[str] = (), *, size: float = 5.0) -> dict[str, Any]:
    """Return the arguments of `Axes.plot` for points of a method without a line; see `line_style`."""
    return line_style(method, others, size=size) | {"linestyle": "none"}


def drawing() -> AbstractContextManager[None]:
    """Set matplotlib's settings for drawing, whatever the user's configuration; restored on exit."""
    sheet = files("secateur.reports").joinpath("figures.mplstyle")
    return matplotlib.style.context(str(sheet), after_reset=True)


def panel(
    draw: Callable[..., None], *tables: Any, size: tuple[float, float], name: str, description: str
) -> Markup:
    """Draw a figure of one axes as SVG markup for a page.

    Args:
        draw: Called with empty axes and the tables.
        tables: What it draws.
        size: Width and height in inches.
        name: Sets this figure's identifiers apart from those of others on the page.
        description: What a reader who cannot see the figure is told.
    """
    with drawing():
        figure = Figure(figsize=size)
        draw(figure.add_subplot(), *tables)
        return svg(figure, name=name, description=description)


@dataclass(frozen=True)
class Panel:
    """One axes of a figure grid: a name, what a reader who cannot see it is told, and what draws it.

    Attributes:
        note: What stands under it on a page.
    """

    name: str
    description: str
    draw: Callable[[Axes], None]
    note: str = ""


@dataclass(frozen=True)
class FigureGrid:
    """A grid of panels with one legend.

    Attributes:
        name: What its files are called, after the group's name, and the template's caption.
        size: Of each panel in inches.
        columns: Panels side by side in a file.
        legend: Whether colours and markers need one.
        facts: What the caption says of these runs.
    """

    name: str
    panels: tuple[Panel, ...]
    size: tuple[float, float]
    columns: int
    legend: bool = True
    facts: str = ""


def combined_figure(grid: FigureGrid, legend: Mapping[str, dict[str, Any]]) -> Figure:
    """Draw all panels as one figure, the legend above them.

    Args:
        grid: What to draw.
        legend: Line style by name.
    """
    columns = min(grid.columns, len(grid.panels))
    rows = -(-len(grid.panels) // columns)
    across = max(1, int(columns * grid.size[0] / 1.9))
    strip = 0.25 * -(-len(legend) // across) if grid.legend else 0.0
    with drawing():
        figure = Figure(figsize=(columns * grid.size[0], rows * grid.size[1] + strip))
        every = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(every, grid.panels, strict=False):
            panel.draw(axes)
        for axes in every[len(grid.panels) :]:
            axes.set_axis_off()
        if grid.legend:
            handles = [Line2D([], [], **style) for style in legend.values()]
            figure.legend(handles, list(legend), loc="outside upper left", ncols=across)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # settled, for all formats
    return figure


def svg(figure: Figure, *, name: str, description: str) -> Markup:
    """Render a figure as SVG markup for an HTML page; deterministic.

    Args:
        figure: What to draw.
        name: Sets this figure's identifiers apart from those of others on the page.
        description: What a reader who cannot see the figure is told.
    """
    name = re.sub(r"[^\w-]", "-", name)
    stream = io.StringIO()
    with drawing(), matplotlib.rc_context({"svg.hashsalt": name}):
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(stream, metadata=metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    width, height = (72 * inches for inches in figure.get_size_inches())
    head = (
        f'<svg class="figure" role="img" aria-label="{escape(description)}" '
        f'viewBox="0 0 {width:g} {height:g}" style="max-width: {width * 1.5:.0f}px" '
        'xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index(">") + 1 :], flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--sans, sans-serif)", body)
    for colour, variable in CSS_VARIABLES.items():
        body = body.replace(colour, f"var({variable}, {colour})")
    return Markup(head + re.sub(r"\n\s*", "\n", body))


def file_of(figure: Figure, ending: str, *, name: str) -> bytes:
    """Render a figure as the bytes of an SVG, PDF or PNG file, on white; deterministic.

    Args:
        figure: What to draw.
        ending: One of `FORMATS`.
        name: Seeds the identifiers in an SVG.
    """
    stream = io.BytesIO()
    with drawing(), matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.set_facecolor("white")
        if ending == "svg":
            text = io.StringIO()
            FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
            return text.getvalue().encode()
        if ending == "pdf":
            metadata = {"CreationDate": None, "Producer": None, "Creator": None}
            FigureCanvasPdf(figure).print_pdf(stream, metadata=metadata)
        else:
            figure.set_dpi(_DOTS_PER_INCH)
            FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def render(template: str, **values: Any) -> str:
    """Fill a template: every value is escaped, for HTML or, in a template named `.md.jinja`, for Markdown.

    Args:
        template: Name of a file in `templates`.
        values: What the template calls by name; markup of the library's own making is of type `Markup`.
    """
    return _environment(template.endswith(".md.jinja")).get_template(template).render(**values)


@cache
def _environment(markdown: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("secateur.reports"),
        autoescape=not markdown,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_markdown if markdown else None,
    )
    environment.globals["nan"] = math.nan
    environment.filters |= {
        "number": formatting.number,
        "percent": formatting.percent,
        "num_bytes": formatting.num_bytes,
        "duration": formatting.duration,
        "times": formatting.times,
        "count": lambda value: formatting.number(float(value), 0),
    }
    return environment


def _markdown(value: object) -> str:
    """Return text without markup, line ends or cell ends of Markdown and HTML; `Markup` stays as it is."""
    if isinstance(value, Markup):
        return str(value)
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|!~$])", r"\\\1", text)
