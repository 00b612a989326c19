"""Matplotlib settings of all figures, and their conversion to SVG, PDF and PNG.

Figures are drawn with matplotlib's object interface, without its global state, in placeholder colours.
In the SVG each placeholder becomes a CSS variable, so one figure serves light and dark pages and print.
The hues are from the palette of Okabe and Ito, told apart by colour-blind readers as well.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "CSS_VARIABLES",
    "FORMATS",
    "GRID",
    "HUES",
    "INK",
    "MUTED",
    "ORANGE",
    "PAPER",
    "REMOVED",
    "clean_axes",
    "drawing",
    "file_of",
    "svg",
]

PAPER = "#fdfdfc"
INK = "#1f2430"
MUTED = "#667080"
GRID = "#dfe3e8"
REMOVED = "#d8dce2"
BLUE = "#0072b2"
ORANGE = "#d55e00"

HUES = {
    "slate": "#4b5563",
    "mint": "#35a585",
    "green": "#00795a",
    "pine": "#004d3b",
    "sky": "#56a8dc",
    "amber": "#e69f00",
    "pink": "#d07aae",
    "plum": "#a03c86",
    "wine": "#5e2750",
    "brown": "#8c6d31",
    "olive": "#7d8a1e",
    "clay": "#a98467",
}
"""Further hues, for figures of many methods: each family one hue, its members told apart by lightness."""

CSS_VARIABLES = {
    PAPER: "--paper",
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    REMOVED: "--removed",
    BLUE: "--blue",
    ORANGE: "--orange",
} | {colour: f"--{name}" for name, colour in HUES.items()}
"""Placeholder colour to the CSS variable that stands for it on a page."""


@contextmanager
def drawing() -> Iterator[None]:
    """Set matplotlib's settings for drawing, whatever the user's configuration; restored on exit."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            "font.size": 9,
            "axes.titlesize": 9.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 9,
            "axes.titlecolor": INK,
            "axes.labelcolor": MUTED,
            "axes.edgecolor": MUTED,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "axes.axisbelow": True,
            "axes.facecolor": "none",
            "figure.facecolor": "none",
            "text.color": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.major.size": 3,
            "ytick.major.size": 0,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "lines.linewidth": 1.8,
            "lines.solid_capstyle": "round",
            "svg.fonttype": "none",
            "svg.image_inline": True,
            "pdf.fonttype": 42,
        })
        yield


def clean_axes(axes: Axes, *, title: str, xlabel: str) -> None:
    """Give axes a title, a labelled foot and nothing but light horizontal lines."""
    axes.set_title(title)
    axes.set_xlabel(xlabel, labelpad=3)
    axes.grid(axis="y")


def svg(figure: Figure, *, name: str, description: str) -> str:
    """Render a figure as SVG markup for an HTML page; deterministic.

    Args:
        figure: What to draw.
        name: Sets this figure's identifiers apart from those of others on the page.
        description: What a reader who cannot see the figure is told.
    """
    stream = io.StringIO()
    with drawing(), matplotlib.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(
            stream, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    view = re.search(r'viewBox="([^"]*)"', text)
    assert view is not None
    width = float(view[1].split()[2])
    head = (
        f'<svg class="figure" role="img" aria-label="{escape(description)}" viewBox="{view[1]}" '
        f'style="max-width: {width * 1.5:.0f}px" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index(">") + 1 :], flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--sans, sans-serif)", body)
    for colour, variable in CSS_VARIABLES.items():
        body = body.replace(colour, f"var({variable}, {colour})")
    return head + re.sub(r"\n\s*", "\n", body)


FORMATS = ("svg", "pdf", "png")
"""What `file_of` can make, by the ending of the file's name."""

_PNG_DOTS_PER_INCH = 200


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
            figure.set_dpi(_PNG_DOTS_PER_INCH)
            FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()
