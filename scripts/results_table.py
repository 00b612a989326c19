"""Print finished runs as rows of a Markdown table: python scripts/results_table.py RUN [RUN ...]."""

import json
import statistics
import sys
from pathlib import Path

FIGURES = ("accuracy", "negative_log_likelihood", "expected_calibration_error")


def row(label: str, removed: float, averaged: list[float], mean: list[float], temperature: str) -> str:
    """Return one row: the average over posterior samples, then the posterior-mean network."""
    cells = [f"{value:.4f}" for value in averaged] + [f"{value:.4f}" for value in mean]
    return f"| {label} | {100 * removed:.1f} % | {' | '.join(cells)} | {temperature} |"


def main() -> None:
    """Read every run named, print a row each, and their mean with its standard error if there are several."""
    print("| run | removed | accuracy | NLL | ECE | accuracy, one pass | NLL, one pass | ECE, one pass | T |")
    print("|---|---|---|---|---|---|---|---|---|")
    every = []
    for name in sys.argv[1:]:
        metrics = json.loads((Path(name) / "metrics.json").read_text(encoding="utf-8"))
        averaged = [metrics[figure] for figure in FIGURES]
        mean = [metrics["mean_network"][figure] for figure in FIGURES]
        every.append((metrics["sparsity"], *averaged, *mean))
        print(row(Path(name).name, metrics["sparsity"], averaged, mean, f"{metrics['temperature']:.2g}"))
    if len(every) > 1:
        columns = list(zip(*every, strict=True))
        means = [statistics.mean(column) for column in columns]
        errors = [statistics.stdev(column) / len(column) ** 0.5 for column in columns]
        print(row(f"mean of {len(every)}", means[0], means[1:4], means[4:], ""))
        print(row("standard error", errors[0], errors[1:4], errors[4:], ""))


if __name__ == "__main__":
    main()
