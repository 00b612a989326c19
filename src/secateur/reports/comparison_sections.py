"""HTML tables and legend of the page of a comparison."""

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from matplotlib.figure import Figure

from secateur.data import registered_name
from secateur.reports import comparison_table as table
from secateur.reports.comparison_runs import Group, MethodRuns, RunTable
from secateur.reports.comparison_table import Column, Detections
from secateur.reports.method_style import MethodStyle, in_order, method_style
from secateur.reports.published import published
from secateur.reports.style import drawing, svg
from secateur.runs import formatting

__all__ = ["legend", "missing", "overview", "scores"]


def swatch(style: MethodStyle, name: str) -> str:
    """Draw a sample of a method's line as SVG.

    Args:
        style: How the method is drawn.
        name: Sets its identifiers apart from others' on the page.
    """
    with drawing():
        figure = Figure(figsize=(0.42, 0.15))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.plot([0, 1, 2], [0, 0, 0], **style.line(size=5.0), markevery=[1], clip_on=False)
        axes.set_xlim(-0.1, 2.1)
        axes.set_ylim(-1, 1)
        return svg(figure, name=name, description=f"line of {style.name}").replace(
            'class="figure"', 'class="swatch-line"', 1
        )


def legend(group: Group) -> str:
    """Return the legend of colours and markers as HTML, family by family.

    Args:
        group: Runs of one network on one data set.
    """
    parts = []
    for family, variants in groupby(group.variants, key=lambda variant: variant.style.family):
        entries = "".join(
            f'<span class="entry">{swatch(v.style, f"{group.name}-legend-{_slug(v.label)}")} '
            f"{escape(v.label)}</span>"
            for v in variants
        )
        parts.append(f'<div><span class="family">{family}</span>{entries}</div>')
    return f'<div class="legend" aria-label="Legend">\n{"".join(parts)}</div>\n'


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


def scores(group: Group, detections: Detections) -> str:
    """Return the table of means over seeds as HTML, published scores last.

    Args:
        group: Runs of one network on one data set.
        detections: Detection of out-of-distribution images, by run directory.
    """
    rows = [table.cells(group, variant, detections) for variant in group.variants]
    shown = table.used(rows)
    top = table.best(rows)
    titles = ("seeds", *(column.title for column in shown))
    head = "".join(f'<th class="num" scope="col">{escape(title)}</th>' for title in titles)
    body = ""
    family = ""
    for variant, row in zip(group.variants, rows, strict=True):
        if variant.style.family != family:
            family = variant.style.family
            body += _family(family, len(shown) + 1)
        values = "".join(
            f'<td class="num{" best" if row[c.key].mean == top.get(c.key) else ""}">'
            f"{row[c.key].text(c, plus_minus='<small>' + _PLUS_MINUS)}"
            f"{'</small>' if math.isfinite(row[c.key].error) else ''}</td>"
            for c in shown
        )
        body += (
            f'<tr><th scope="row">{escape(variant.label)}</th>'
            f'<td class="num">{len(variant.runs)}</td>{values}</tr>\n'
        )
    body += _published(group, shown)
    return (
        f'<section class="figures" id="{escape(group.name)}-scores">\n<h3>Scores on the test set</h3>\n'
        f'<div class="scroll" tabindex="0"><table class="means">\n<thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>\n{_judged(group)}</section>\n"
    )


_PLUS_MINUS = "\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}"


def _family(name: str, num_columns: int) -> str:
    return f'<tr class="family"><th colspan="{num_columns + 1}" scope="rowgroup">{escape(name)}</th></tr>\n'


def _published(group: Group, shown: Sequence[Column]) -> str:
    points = published(group.network, registered_name(group.data))
    if not points:
        return ""
    body = _family("read off the paper's figures", len(shown) + 1)
    for point in points:
        values = table.published_cells(point)
        cells = "".join(f'<td class="num">{escape(values.get(c.key, ""))}</td>' for c in shown)
        name = escape(point.method)
        body += f'<tr class="paper"><th scope="row">{name}</th><td class="num">1</td>{cells}</tr>\n'
    return body


def _judged(group: Group) -> str:
    """Return a warning where scores are not from a test set."""
    odd = {run.record.directory.name for run in group.runs if run.record.evaluated_on != "test"}
    if not odd:
        return ""
    names = escape(", ".join(sorted(odd)))
    return f'<p class="note">Judged on training data for want of a test set: {names}.</p>\n'


def overview(comparison: RunTable, detections: Detections) -> str:
    """Return a table of all methods and groups as HTML; empty for a single group.

    Args:
        comparison: The runs.
        detections: Detection of out-of-distribution images, by run directory.
    """
    groups = comparison.groups
    if len(groups) < 2:
        return ""
    head = "".join(
        f'<th class="num" scope="col"><a href="#{escape(g.name)}">{escape(table.title(g))}</a></th>'
        for g in groups
    )
    # Of a method that ran in several settings the first stands for it here.
    first: dict[tuple[str, str], tuple[Group, MethodRuns]] = {}
    for group in groups:
        for variant in group.variants:
            first.setdefault((variant.method, group.name), (group, variant))
    rows = {key: table.cells(group, variant, detections) for key, (group, variant) in first.items()}
    names = in_order(method for method, _ in rows)
    top = {
        group.name: max(
            (row["accuracy"].mean for (_, name), row in rows.items() if name == group.name), default=math.nan
        )
        for group in groups
    }
    body = ""
    family = ""
    for name in names:
        style = method_style(name, names)
        if style.family != family:
            family = style.family
            body += _family(family, len(groups))
        cells = ""
        for group in groups:
            row = rows.get((name, group.name))
            if row is None:
                cells += f'<td class="num">{formatting.DASH}</td>'
                continue
            accuracy = row["accuracy"].mean
            mark = " best" if accuracy == top[group.name] else ""
            cells += (
                f'<td class="num{mark}">{formatting.number(accuracy, 3)}<small>'
                f"{formatting.number(row['negative_log_likelihood'].mean, 3)} &middot; "
                f"{formatting.percent(row['sparsity'].mean)}</small></td>"
            )
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'
    return (
        '<section id="overview">\n<h2>All results</h2>\n<p class="note">Accuracy, below it negative '
        "log-likelihood and the share of weights removed; means over seeds.</p>\n"
        '<div class="scroll" tabindex="0"><table class="means overview">\n'
        f"<thead><tr><th></th>{head}</tr></thead>\n"
        f"<tbody>\n{body}</tbody>\n</table></div>\n</section>\n"
    )


def missing(comparison: RunTable, detections: Detections) -> str:
    """Return the list of missing runs and failed measurements as HTML, with reasons.

    Args:
        comparison: The runs.
        detections: Detection of out-of-distribution images, by run directory.
    """
    lost = "".join(
        f"<li><code>{escape(row.name)}</code>: {escape(row.reason)}</li>\n" for row in comparison.missing
    )
    body = (
        f"<p>These runs are not on this page:</p>\n<ul>\n{lost}</ul>\n"
        if lost
        else "<p>Nothing: every run directory holds a finished run.</p>\n"
    )
    reasons: dict[str, list[str]] = {}
    for directory, found in detections.items():
        if isinstance(found, str):
            reasons.setdefault(found, []).append(directory.name)
    if reasons:
        rows = "".join(
            f"<li>{escape(', '.join(names[:3]))}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: "
            f"{escape(reason)}</li>\n"
            for reason, names in reasons.items()
        )
        body += f"<p>Detection of out-of-distribution images was not measured for:</p>\n<ul>\n{rows}</ul>\n"
    return f'<section id="missing">\n<h2>What is missing</h2>\n{body}</section>\n'
