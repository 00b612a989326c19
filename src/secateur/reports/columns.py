"""Columns of the tables of means: how a number is shown, which one is best, and what others have published.

Published scores are those of Markovic, Friston & Kiebel 2023, arXiv:2309.12095, read off the figures, one
seed: accuracy to .002, calibration error to .001, negative log-likelihood to .01 (`published.csv`).
"""

import math
from dataclasses import dataclass
from importlib.resources import files

import pandas
from pandas import DataFrame, Series

from secateur.runs import formatting

__all__ = ["COSTS", "NUMBER_COLUMNS", "SCORE_COLUMNS", "Column", "best", "cell_text", "published"]

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


@dataclass(frozen=True)
class Column:
    """One column of the tables of means.

    Attributes:
        key: Column of `Group.runs`.
        title: Its head.
        digits: After the point.
        better: "high" or "low", where there is such a thing.
        factor: That the values are multiplied by.
        signed: Whether a plus stands before positive values.
    """

    key: str
    title: str
    digits: int
    better: str | None = None
    factor: float = 1.0
    signed: bool = False


def _score(key: str, title: str, better: str) -> tuple[Column, Column]:
    return Column(key, title, 4, better), Column(f"{key}_minus_dense", f"{title}, to dense", 4, signed=True)


SCORE_COLUMNS = (
    Column("sparsity", "removed, %", 1, factor=100.0),
    *_score("accuracy", "accuracy", "high"),
    *_score("negative_log_likelihood", "NLL", "low"),
    *_score("expected_calibration_error", "ECE", "low"),
    Column("brier_score", "Brier", 4, "low"),
    Column("log_predictive_density", "LPD", 4, "high"),
    Column("out_of_distribution_auroc", "AUROC, OOD", 3, "high"),
)
NUMBER_COLUMNS = (
    Column("sparsity", "removed, %", 1, factor=100.0),
    Column("root_mean_squared_error", "RMSE", 4, "low"),
    Column("deviance", "deviance", 4, "low"),
    *_score("negative_log_likelihood", "NLL", "low"),
    Column("continuous_ranked_probability_score", "CRPS", 4, "low"),
    Column("coverage_50", "inside 50 %", 3),
    Column("coverage_90", "inside 90 %", 3),
    Column("log_predictive_density", "LPD", 4, "high"),
)
"""Columns of scores where targets are numbers or counts."""
COSTS = (
    Column("mean_network_accuracy", "accuracy", 4, "high"),
    Column("mean_network_negative_log_likelihood", "NLL", 4, "low"),
    Column("mean_network_expected_calibration_error", "ECE", 4, "low"),
    Column("dense_bytes", "dense, kB", 1, factor=1e-3),
    Column("least_bytes", "kept, kB at least", 1, "low", factor=1e-3),
    Column("dense_milliseconds", "dense, ms", 3),
    Column("milliseconds", "pruned, ms", 3, "low"),
    Column("relative_seconds_per_iteration", "time of a step", 2),
)


def cell_text(
    column: Column, mean: float, error: float = math.nan, *, between: str = f" {PLUS_MINUS} "
) -> str:
    """Format mean and standard error; no error for a single seed, a dash for no value.

    >>> cell_text(SCORE_COLUMNS[0], 0.953, 0.002)
    '95.3 \N{PLUS-MINUS SIGN} 0.2'
    """
    if not math.isfinite(mean):
        return formatting.DASH
    sign = "+" if column.signed and mean > 0 else ""
    text = sign + formatting.number(column.factor * mean, column.digits)
    return text + (between + formatting.number(column.factor * error, column.digits)
                   if math.isfinite(error) else "")  # fmt: skip


def best(means: DataFrame, columns: tuple[Column, ...]) -> dict[str, float]:
    """Return the best mean of each column that has a better end, where there is a choice.

    Methods with less than half of the best accuracy do not compete: a network that knows nothing can be
    perfectly calibrated.

    Args:
        means: As of `Group.means`.
        columns: To look at.
    """
    accuracy = means["accuracy"]["mean"]
    able = means[~(accuracy < 0.5 * accuracy.max())]
    found = {}
    for column in columns:
        values: Series = able[column.key]["mean"].dropna().round(12)
        if column.better and values.nunique() > 1:
            found[column.key] = float(values.max() if column.better == "high" else values.min())
    return found


def published(network: str, data: str) -> DataFrame:
    """Return published scores for a network on a data set, a row per method; empty where the paper has none.

    Args:
        network: As the command line calls it.
        data: As the command line calls it.

    >>> published("lenet", "cifar10")["accuracy"].tolist()
    [0.609, 0.558, 0.632]
    """
    with files("secateur.reports").joinpath("published.csv").open(encoding="utf-8") as file:
        table = pandas.read_csv(file)
    return table[(table["network"] == network) & (table["data"] == data)].set_index("method")
