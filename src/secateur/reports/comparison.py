"""Write the results of a comparison: a CSV file, Markdown tables, figures, and one HTML page."""

import math
import shlex
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from secateur.data import registered_name
from secateur.errors import ArtifactError, SecateurError
from secateur.reports import claims, columns, tables
from secateur.reports.advice import METRICS
from secateur.reports.comparison_figures import MAKERS
from secateur.reports.out_of_distribution import Detection, measure, read_measured
from secateur.reports.record import Record
from secateur.reports.style import (
    FORMATS,
    FigureGrid,
    combined_figure,
    file_of,
    line_style,
    panel,
    render,
)
from secateur.reports.tables import Comparison, Group
from secateur.reports.weight_figures import SIGNED
from secateur.runs import formatting, write_whole
from secateur.runs.formatting import printable
from secateur.training.device import resolve_device
from secateur.training.methods import family_of

__all__ = ["is_comparison", "write"]


def is_comparison(directory: Path) -> bool:
    """Return whether a directory is that of a comparison rather than that of a run."""
    return (directory / tables.RUNS).is_dir() and not (directory / "config.json").exists()


def write(
    out: Path,
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write tables, figures and the page of a comparison; return the page's path.

    `comparison.csv`, `comparison.md`, `comparison.html` and the files in `figures` are replaced one by one,
    each whole or not at all. Runs that are unfinished or damaged are listed on the page with the reason.

    Args:
        out: Directory with the runs in `runs`.
        data_dir: Where to look for data sets first, for the detection of out-of-distribution images.
        device: Where to measure that: "auto", "cpu", "cuda", ...
        say: Called with a line before each step that takes a while.

    Raises:
        ArtifactError: If there is no finished run, or a file cannot be written.
    """
    out = Path(out)
    resolve_device(device)  # refuse a wrong name before anything else

    def detect(record: Record) -> Detection | str:
        known = read_measured(record.directory)
        if known is not None:
            return known
        say(f"measuring out-of-distribution detection of {printable(record.directory.name)}")
        try:
            return measure(record.directory, data_dir=data_dir, device=device)
        except SecateurError as error:
            reason = str(error).replace(f"{record.directory}/", "").replace(str(record.directory), "this run")
            return str(printable(reason))

    comparison = tables.collect(out, detect)
    write_whole(out / "comparison.csv", tables.csv_text(comparison).encode())
    folder = out / "figures"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"{folder}: expected to write figures into this folder, got: {error.strerror}"
        ) from None
    chapters = []
    for group in comparison.groups:
        say(f"drawing {group.name}")
        chapters.append(_chapter(group))
        for grid in chapters[-1]["grids"]:
            lines = {
                label: line_style(group.labels[label], group.methods, size=4.2) for label in group.labels
            }
            figure = combined_figure(grid, lines)
            for ending in FORMATS:
                name = f"{group.name}-{grid.name}"
                write_whole(folder / f"{name}.{ending}", file_of(figure, ending, name=name))
    values = {
        "comparison": comparison,
        "title": _title(comparison),
        "chapters": chapters,
        "overview": _overview(comparison),
        "not_measured": _not_measured(comparison),
        "metrics": METRICS,
        "claim_head": claims.HEAD,
        "next_commands": _next_commands(comparison),
        "formats": FORMATS,
        "signed": SIGNED,
        "seconds": math.fsum(record.seconds for group in comparison.groups for record in _records(group)
                             if math.isfinite(record.seconds)),
    }  # fmt: skip
    write_whole(out / "comparison.md", render("comparison.md.jinja", **values).encode())
    page = out / "comparison.html"
    write_whole(page, render("comparison.html.jinja", **values).encode())
    return page


def _records(group: Group) -> list[Record]:
    return [group.records[name] for name in group.runs.index]


def _chapter(group: Group) -> dict[str, Any]:
    """Return everything that the page shows about one network on one data set."""
    grids = [grid for make in MAKERS if (grid := make(group)).panels]
    tips = {"dense": group.dense, "measured": group.runs["milliseconds"].notna().any()}
    return {
        "group": group,
        "remarks": claims.remarks(group),
        "scores": _table(group, group.score_columns),
        "costs": _table(group, columns.COSTS),
        "claims": claims.claim_rows(group),
        "grids": grids,
        "drawn": {grid.name: _drawn(group, grid) for grid in grids},
        "legend": [
            (family, [(label, _swatch(group, label)) for label in labels])
            for family, labels in groupby(group.labels, key=lambda label: family_of(group.labels[label]))
        ],
        **tips,
    }


def _drawn(group: Group, grid: FigureGrid) -> list[tuple[Markup, str]]:
    """Return each panel as markup, with its note."""
    prefix = f"{group.name}-{grid.name}"
    return [
        (
            panel(each.draw, size=grid.size, name=f"{prefix}-{each.name}", description=each.description),
            each.note,
        )
        for each in grid.panels
    ]


def _swatch(group: Group, label: str) -> Markup:
    """Draw a piece of a method's line, for the legend."""

    def draw(axes: Axes) -> None:
        axes.figure.set_layout_engine("none")  # type: ignore[union-attr]
        axes.set_position((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.plot([0, 1, 2], [0, 0, 0], **line_style(group.labels[label], group.methods), markevery=[1],
                  clip_on=False)  # fmt: skip
        axes.set(xlim=(-0.1, 2.1), ylim=(-1, 1))

    return panel(draw, size=(0.42, 0.15), name=f"{group.name}-legend-{label}", description=f"line of {label}")


def _table(group: Group, given: Sequence[columns.Column]) -> dict[str, Any]:
    """Return head and rows of a table of means, with published scores; only columns with a value."""
    means = group.means
    shown = [column for column in given if means[column.key]["mean"].notna().any()]
    top = columns.best(means, tuple(shown))
    rows = []
    for label in group.labels:
        cells = []
        for column in shown:
            mean, sem, _ = means.loc[label, column.key]
            best = column.key in top and round(mean, 12) == top[column.key]
            error = formatting.number(column.factor * sem, column.digits) if math.isfinite(sem) else ""
            cells.append((columns.cell_text(column, mean), error, best))
        family = family_of(group.labels[label])
        rows.append({"label": label, "family": family, "seeds": len(group.of(label)), "cells": cells})
    points = columns.published(group.network, registered_name(group.data))
    paper = [(method, [_published(row, column.key) for column in shown]) for method, row in points.iterrows()]
    paper = paper if given is columns.SCORE_COLUMNS else []
    return {"head": [column.title for column in shown], "rows": rows, "published": paper}


def _published(row: Any, key: str) -> str:
    if key not in row.index or not math.isfinite(row[key]):
        return ""
    if key == "sparsity":
        bound = "\N{GREATER-THAN OR EQUAL TO}\N{NO-BREAK SPACE}" if row["at_least"] else ""
        return bound + formatting.number(100 * row[key], 1)
    return formatting.number(row[key], 3)


def _title(comparison: Comparison) -> str:
    groups = comparison.groups
    methods = {method for group in groups for method in group.labels.values()}
    counts = [len(methods), len({group.network for group in groups}), len({group.data for group in groups})]
    what, networks, data = (
        f"{count} {word}{'s' if count > 1 else ''}"
        for count, word in zip(counts, ("method", "network", "data set"), strict=True)
    )
    return (
        f"{what} compared: {groups[0].title}"
        if len(groups) == 1
        else f"{what} compared on {networks} and {data}"
    )


def _overview(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row per method over all groups; of a method in several settings the first stands for it."""
    rows = []
    for method in comparison.groups[0].methods:
        cells = []
        for group in comparison.groups:
            label = next((label for label, own in group.labels.items() if own == method), None)
            means = None if label is None else group.means.xs("mean", axis=1, level=1).loc[label]
            firsts = group.means["accuracy"]["mean"]
            cells.append(means is not None and (means, means["accuracy"] == firsts.max()))
        rows.append({"method": method, "family": family_of(method), "cells": cells})
    return rows


def _not_measured(comparison: Comparison) -> dict[str, list[str]]:
    """Return the runs whose detection of out-of-distribution images is not known, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, found in comparison.groups[0].detections.items():
        if isinstance(found, str):
            reasons.setdefault(found, []).append(str(printable(name)))
    return reasons


def _next_commands(comparison: Comparison) -> list[tuple[str, str]]:
    here = str(comparison.directory)
    found = []
    if comparison.missing:
        found.append(("Go on with the runs that are missing", ["secateur", "compare", "--out", here]))
    if any(group.dense is None for group in comparison.groups):
        words = ["secateur", "compare", "--methods", tables.DENSE, "--out", here]
        found.append(("Add the dense baseline", words))
    if any(group.means["negative_log_likelihood"]["count"].max() < 2 for group in comparison.groups):
        found.append((
            "Add seeds, for an error of each mean",
            ["secateur", "compare", "--seeds", "0,1,2", "--out", here],
        ))
    bare = [name for group in comparison.groups for name in group.runs.index
            if group.records[name].bench is None and group.runs.loc[name, "sparsity"] > 0]  # fmt: skip
    if bare:
        words = ["secateur", "bench", str(comparison.directory / tables.RUNS / bare[0])]
        found.append(("Measure bytes and milliseconds of a run", words))
    found.append(("Write this page again", ["secateur", "report", here]))
    return [(what, shlex.join(words)) for what, words in found]
