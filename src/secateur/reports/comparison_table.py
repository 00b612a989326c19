"""Compute the tables of a comparison: metrics of each run as CSV, and means over seeds."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from secateur.data import registered_name
from secateur.reports import wording
from secateur.reports.comparison_runs import ComparisonRun, Group, MethodRuns, RunTable, mean_and_error
from secateur.reports.out_of_distribution import Detection
from secateur.reports.published import Published
from secateur.runs import formatting
from secateur.runs.records import Scores

__all__ = [
    "COLUMNS",
    "Cell",
    "Column",
    "Detections",
    "best",
    "cells",
    "csv_text",
    "metrics_of",
    "published_cells",
    "relative_cost",
    "title",
    "used",
]

Detections = Mapping[Path, Detection | str]
"""By run directory: how well out-of-distribution images are detected, or in words why that is not known."""


@dataclass(frozen=True)
class Column:
    """One column of the tables of means.

    Attributes:
        key: A name of `metrics_of`.
        title: Its head.
        digits: After the point.
        better: "high" or "low", where there is such a thing.
        percent: Shown as per cent.
    """

    key: str
    title: str
    digits: int
    better: str | None = None
    percent: bool = False


COLUMNS = (
    Column("sparsity", "removed, %", 1, percent=True),
    Column("accuracy", "accuracy", 4, "high"),
    Column("negative_log_likelihood", "NLL", 4, "low"),
    Column("expected_calibration_error", "ECE", 4, "low"),
    Column("brier_score", "Brier", 4, "low"),
    Column("log_predictive_density", "LPD", 4, "high"),
    Column("mean_network_accuracy", "accuracy, one pass", 4, "high"),
    Column("mean_network_negative_log_likelihood", "NLL, one pass", 4, "low"),
    Column("mean_network_expected_calibration_error", "ECE, one pass", 4, "low"),
    Column("out_of_distribution_auroc", "AUROC, OOD", 3, "high"),
    Column("relative_seconds_per_iteration", "time of a step", 2),
)
"""The columns of every table of means, in order."""


@dataclass(frozen=True)
class Cell:
    """Mean over seeds, its standard error, and the number of seeds it is over."""

    mean: float
    error: float
    count: int

    def text(self, column: Column, *, plus_minus: str = " \N{PLUS-MINUS SIGN} ") -> str:
        """Format mean and error; no error for a single seed, a dash for no value."""
        if not math.isfinite(self.mean):
            return formatting.DASH
        factor = 100 if column.percent else 1
        text = formatting.number(factor * self.mean, column.digits)
        if math.isfinite(self.error):
            text += plus_minus + formatting.number(factor * self.error, column.digits)
        return text


def metrics_of(run: ComparisonRun, cost: float, detections: Detections) -> dict[str, float]:
    """Return all metrics of a run by name; nan for unknown ones.

    Args:
        run: The run.
        cost: Its seconds per iteration relative to flat-map's.
        detections: Detection of out-of-distribution images, by run directory.
    """
    record = run.record
    names = [field.name for field in fields(Scores)]
    # A method of a single network is its own posterior-mean network.
    mean_network = record.averaged if record.mean_network is None else record.mean_network
    found = detections.get(record.directory)
    return {
        "sparsity": record.sparsity,
        **{name: getattr(record.averaged, name) for name in names},
        **{f"mean_network_{name}": getattr(mean_network, name) for name in names},
        "seconds": record.seconds,
        "seconds_per_iteration": record.seconds_per_iteration,
        "relative_seconds_per_iteration": cost,
        "temperature": run.temperature,
        "out_of_distribution_auroc": found.auroc if isinstance(found, Detection) else math.nan,
    }


def relative_cost(group: Group) -> dict[Path, float]:
    """Return each run's seconds per iteration over those of flat-map on the same kind of device.

    Several runs of flat-map count with their mean; without any the answer is nan.

    Args:
        group: Runs of one network on one data set.
    """
    costs = {}
    for run in group.runs:
        reference = [
            other.record.seconds_per_iteration
            for other in group.runs
            if other.method == "flat-map" and other.device == run.device
        ]
        mean = mean_and_error(reference)[0]
        costs[run.record.directory] = run.record.seconds_per_iteration / mean if mean > 0 else math.nan
    return costs


def csv_text(comparison: RunTable, detections: Detections) -> str:
    """Format all metrics of all runs as CSV; nan for unknown ones.

    Args:
        comparison: The runs.
        detections: Detection of out-of-distribution images, by run directory.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head: list[str] = []
    for group in comparison.groups:
        costs = relative_cost(group)
        for run in group.runs:
            metrics = metrics_of(run, costs[run.record.directory], detections)
            if not head:
                head = ["network", "data", "method", "seed", "epochs", *metrics, "device", "run"]
                writer.writerow(head)
            names = [run.network, run.data, run.method, run.seed, run.epochs]
            writer.writerow([*names, *map(repr, metrics.values()), run.device, run.record.directory.name])
    return stream.getvalue()


def cells(group: Group, variant: MethodRuns, detections: Detections) -> dict[str, Cell]:
    """Compute means and standard errors over seeds for each column.

    Args:
        group: What the variant is of; says what time is relative to.
        variant: Runs that differ in their seed.
        detections: Detection of out-of-distribution images, by run directory.
    """
    costs = relative_cost(group)
    rows = [metrics_of(run, costs[run.record.directory], detections) for run in variant.runs]
    return {column.key: Cell(*mean_and_error(row[column.key] for row in rows)) for column in COLUMNS}


def best(rows: list[dict[str, Cell]]) -> dict[str, float]:
    """Return the best mean of each column that has a better end.

    Methods with less than half of the best accuracy do not compete: a network that knows nothing can be
    perfectly calibrated.

    Args:
        rows: Of one table.
    """
    accuracies = [row["accuracy"].mean for row in rows if math.isfinite(row["accuracy"].mean)]
    enough = 0.5 * max(accuracies, default=0.0)
    rows = [row for row in rows if not row["accuracy"].mean < enough]
    found = {}
    for column in COLUMNS:
        means = [row[column.key].mean for row in rows if math.isfinite(row[column.key].mean)]
        if column.better and len(set(means)) > 1:
            found[column.key] = max(means) if column.better == "high" else min(means)
    return found


def published_cells(row: Published) -> dict[str, str]:
    """Format a published result as cells by column key; unknown ones are left out."""
    bound = "\N{GREATER-THAN OR EQUAL TO}\N{NO-BREAK SPACE}" if row.at_least else ""
    values = {
        "sparsity": bound + formatting.number(100 * row.sparsity, 1),
        "accuracy": formatting.number(row.accuracy, 3),
        "negative_log_likelihood": formatting.number(row.negative_log_likelihood, 3),
        "expected_calibration_error": formatting.number(row.expected_calibration_error, 3),
    }
    return {key: value for key, value in values.items() if value != formatting.DASH}


_PM = "\N{PLUS-MINUS SIGN}"
EXPLANATION = (
    f"Mean {_PM} standard error over seeds; one seed has no error. Scores are those of the prediction "
    "averaged over posterior samples, *one pass* those of the network at the posterior mean. NLL and LPD are "
    "in nats per datum; ECE is over 20 bins of equal mass; *removed* counts all weights, the output layer "
    "included. *AUROC, OOD* is the probability that an out-of-distribution image, of another data "
    "set, gets the larger predictive entropy. *Time of a step* is relative to flat-map's on the same kind "
    "of device. The best mean of a column is bold; methods with less than half of the best accuracy are left "
    "aside there. Published points were read off the figures of arXiv 2309.12095: one seed, "
    f"{_PM} .002 in accuracy, {_PM} .001 in ECE, {_PM} .01 in NLL."
)


def title(group: Group) -> str:
    """Return the name of a group as the literature writes it."""
    record = group.runs[0].record
    base = registered_name(group.data)
    official = replace(record, config={**record.config, "data": base})
    return f"{wording.network_name(record)} on {wording.data_name(official)}{group.data.removeprefix(base)}"


def used(rows: list[dict[str, Cell]]) -> list[Column]:
    """Return the columns that have a value in some row."""
    return [c for c in COLUMNS if np.isfinite([row[c.key].mean for row in rows]).any()]
