"""Render the page of a comparison: one self-contained HTML file for screens, phones and print."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from secateur.reports import comparison_table as table
from secateur.reports import wording
from secateur.reports.comparison_claim import TITLE, claim_html, paired_comparisons
from secateur.reports.comparison_runs import Group, MethodRuns, RunTable
from secateur.reports.comparison_sections import legend, missing, overview, scores
from secateur.reports.comparison_table import Detections
from secateur.reports.figure_grid import FigureGrid, panel_figure
from secateur.reports.filters import SIGNED, FilterPicture
from secateur.reports.style import FORMATS, svg
from secateur.runs import formatting

__all__ = ["Chapter", "render"]


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Everything the page shows about one network on one data set.

    Attributes:
        group: Its runs.
        before: Figure grids ahead of the first layer's pictures.
        first_layers: The pictures as one grid, which names their file; None where there are none.
        pictures: Of each method's first layer.
        after: Figure grids behind them.
    """

    group: Group
    before: tuple[FigureGrid, ...]
    first_layers: FigureGrid | None
    pictures: tuple[tuple[MethodRuns, FilterPicture], ...]
    after: tuple[FigureGrid, ...]


def render(comparison: RunTable, chapters: Sequence[Chapter], detections: Detections) -> str:
    """Return the whole page.

    Args:
        comparison: The runs.
        chapters: One for each group.
        detections: Detection of out-of-distribution images, by run directory.
    """
    css = "".join(
        files("secateur.reports").joinpath(name).read_text(encoding="utf-8")
        for name in ("report.css", "comparison.css")
    )
    parts = (
        _header(comparison),
        _contents(comparison, chapters),
        overview(comparison, detections),
        *(_chapter(chapter, detections) for chapter in chapters),
        missing(comparison, detections),
        _reading(),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_title(comparison))}: Secateur</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _title(comparison: RunTable) -> str:
    groups = comparison.groups
    methods = {variant.method for group in groups for variant in group.variants}
    what = "1 method" if len(methods) == 1 else f"{len(methods)} methods"
    if len(groups) == 1:
        return f"{what} compared: {table.title(groups[0])}"
    networks = len({group.network for group in groups})
    data = len({group.data for group in groups})
    return (
        f"{what} compared on {networks} network{'s' if networks > 1 else ''} and "
        f"{data} data set{'s' if data > 1 else ''}"
    )


def _header(comparison: RunTable) -> str:
    runs = [run for group in comparison.groups for run in group.runs]
    total = sum(run.record.seconds for run in runs if run.record.seconds == run.record.seconds)
    lost = (
        f' <a href="#missing">{len(comparison.missing)} more</a> did not finish or cannot be read.'
        if comparison.missing
        else ""
    )
    return (
        '<header>\n<p class="kicker">Secateur: comparison</p>\n'
        f"<h1>{escape(_title(comparison))}</h1>\n"
        f'<p class="lead">{len(runs)} finished run{"s" if len(runs) != 1 else ""}, '
        f"{formatting.duration(total)} of training.{lost} Each run's own report is in its directory; "
        "every number behind this page is in <code>comparison.csv</code>, every figure in "
        "<code>figures</code>.</p>\n</header>\n"
    )


def _contents(comparison: RunTable, chapters: Sequence[Chapter]) -> str:
    items = ['<li><a href="#overview">All results</a></li>\n'] if len(chapters) > 1 else []
    for chapter in chapters:
        name = chapter.group.name
        inner = "\n".join(
            f'<a href="#{escape(anchor)}">{escape(title)}</a>'
            for anchor, title in [(f"{name}-scores", "Scores"), *_claim(chapter), *_figure_titles(chapter)]
        )
        items.append(
            f'<li><a href="#{escape(name)}">{escape(table.title(chapter.group))}</a>'
            f'<span class="inner">{inner}</span></li>\n'
        )
    items.append('<li><a href="#missing">What is missing</a></li>\n')
    return f'<nav aria-label="Contents">\n<ul>\n{"".join(items)}</ul>\n</nav>\n'


def _claim(chapter: Chapter) -> list[tuple[str, str]]:
    return [(f"{chapter.group.name}-claim", TITLE)] if paired_comparisons(chapter.group) else []


def _figure_titles(chapter: Chapter) -> list[tuple[str, str]]:
    """Return anchor and title of each figure in a chapter, in order."""
    grids = [*chapter.before, *([chapter.first_layers] if chapter.first_layers else []), *chapter.after]
    return [(grid.name, grid.title) for grid in grids]


def _chapter(chapter: Chapter, detections: Detections) -> str:
    group = chapter.group
    parts = [_figures(grid) for grid in chapter.before]
    if chapter.first_layers is not None:
        parts.append(_pictures(chapter.first_layers, chapter.pictures))
    parts += [_figures(grid) for grid in chapter.after]
    return (
        f'<section class="chapter" id="{escape(group.name)}">\n<h2>{escape(table.title(group))}</h2>\n'
        f"{scores(group, detections)}{claim_html(group)}{legend(group)}{''.join(parts)}</section>\n"
    )


def _figures(grid: FigureGrid) -> str:
    own = grid.geometry
    drawn = "".join(
        "<figure>"
        + svg(panel_figure(panel, own), name=f"{grid.name}-{panel.name}", description=panel.description)
        + "</figure>\n"
        for panel in grid.panels
    )
    size = "small" if own.width < 2.5 else "third" if own.width < 3 else "half"
    return _framed(grid, f'<div class="panels {size}">\n{drawn}</div>\n')


def _framed(grid: FigureGrid, body: str) -> str:
    links = " ".join(
        f'<a href="figures/{escape(grid.name)}.{ending}">{ending.upper()}</a>' for ending in FORMATS
    )
    return (
        f'<section class="figures" id="{escape(grid.name)}">\n<h3>{escape(grid.title)}</h3>\n'
        f'<p class="note">{escape(grid.caption)} <span class="files">{links}</span></p>\n{body}</section>\n'
    )


def _pictures(grid: FigureGrid, pictures: Iterable[tuple[MethodRuns, FilterPicture]]) -> str:
    drawn = ""
    wide = False
    for index, (variant, picture) in enumerate(pictures):
        width, height = picture.figure.get_size_inches()
        wide = wide or width > 3 * height
        key = f" {formatting.MINUS}{picture.scale:.2g} to +{picture.scale:.2g}" if picture.scale else ""
        drawn += (
            "<figure>"
            + svg(picture.figure, name=f"{grid.name}-{index}", description=picture.caption)
            + f"<figcaption><b>{escape(variant.label)}</b>{key}</figcaption></figure>\n"
        )
    colours = f"background: linear-gradient(to right, {', '.join(SIGNED)})"
    key = (
        f'<p class="note"><span class="gradient" style="{colours}"></span> below to above zero '
        '<span class="gap"></span> <span class="swatch"></span> removed</p>\n'
    )
    size = "half" if wide else "third"
    return _framed(grid, f'{key}<div class="panels {size} pictures">\n{drawn}</div>\n')


def _reading() -> str:
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(meaning)}</dd></div>\n"
        for _, name, meaning in wording.METRICS
    )
    return (
        '<section id="reading">\n<h2>How to read the numbers</h2>\n'
        f'<p class="note">{_emphasised(table.EXPLANATION)}</p>\n<dl class="terms">\n{rows}</dl>\n</section>\n'
    )


def _emphasised(markdown: str) -> str:
    """Return text with *emphasis* as HTML."""
    pieces = escape(markdown).split("*")
    return "".join(f"<em>{piece}</em>" if index % 2 else piece for index, piece in enumerate(pieces))
