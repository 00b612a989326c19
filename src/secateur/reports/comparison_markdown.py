"""Format a comparison as Markdown: a table of means for each network and data set, and the claim."""

from secateur.data import registered_name
from secateur.reports.comparison_claim import claim_markdown
from secateur.reports.comparison_runs import Group, RunTable
from secateur.reports.comparison_table import (
    EXPLANATION,
    Detections,
    best,
    cells,
    published_cells,
    title,
    used,
)
from secateur.reports.published import published

__all__ = ["markdown"]


def markdown(comparison: RunTable, detections: Detections) -> str:
    """Return the tables of means and the list of missing runs as Markdown.

    Args:
        comparison: The runs.
        detections: Detection of out-of-distribution images, by run directory.
    """
    parts = ["# Comparison", EXPLANATION]
    for group in comparison.groups:
        parts += [f"## {title(group)}", _table(group, detections), claim_markdown(group)]
    if comparison.missing:
        rows = "\n".join(f"- `{row.name}`: {row.reason}" for row in comparison.missing)
        parts += ["## Missing", rows]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(group: Group, detections: Detections) -> str:
    rows = [cells(group, variant, detections) for variant in group.variants]
    shown = used(rows)
    top = best(rows)
    lines = [
        "| method | seeds | " + " | ".join(column.title for column in shown) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    for variant, row in zip(group.variants, rows, strict=True):
        texts = []
        for column in shown:
            text = row[column.key].text(column)
            texts.append(f"**{text}**" if row[column.key].mean == top.get(column.key) else text)
        lines.append(f"| {variant.label} | {len(variant.runs)} | " + " | ".join(texts) + " |")
    for point in published(group.network, registered_name(group.data)):
        values = published_cells(point)
        texts = [values.get(column.key, "") for column in shown]
        lines.append(f"| *published* {point.method} | 1 | " + " | ".join(texts) + " |")
    return "\n".join(lines)
