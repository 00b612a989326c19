"""Print the summary of a fit in the terminal: scores, kept weights by layer, path of the report."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from secateur.reports import wording
from secateur.reports.record import Record, read
from secateur.runs import formatting
from secateur.runs.records import Scores

__all__ = ["show", "show_scores"]

_SHORT = {
    "accuracy": "higher is better",
    "negative_log_likelihood": "lower is better",
    "expected_calibration_error": "0 is honest",
    "brier_score": "lower is better",
}


def show(run_dir: Path, console: Console) -> None:
    """Print the summary of a finished run.

    Args:
        run_dir: Directory of the run.
        console: Where to print; without a terminal there are no colours.

    Raises:
        ArtifactError: If a file of the run is missing or damaged.
    """
    record = read(run_dir)
    console.print()
    console.print(Text(wording.outcome(record), style="bold"), soft_wrap=True)
    console.print()
    scores = _scores(
        record.averaged, record.mean_network, record.num_samples, wording.judged_on(record.evaluated_on)
    )
    console.print(Padding(scores, (0, 0, 1, 2)))
    console.print(Padding(_layers(record, console), (0, 0, 1, 2)))
    report = record.directory / "report.html"
    wrote = Text(f"{formatting.duration(record.seconds)} of training. ")
    wrote.append("Everything is in " if not report.is_file() else "Report: ")
    wrote.append(str(report if report.is_file() else record.directory), style="bold")
    console.print(wrote, soft_wrap=True)


def show_scores(scores: Mapping[str, Any], console: Console, *, split: str) -> None:
    """Print the scores of an evaluation.

    Args:
        scores: By name, those of the one-pass network in `mean_network`, and `num_samples`.
        console: Where to print.
        split: The data they are from, `test` or `train`.
    """
    names = [field.name for field in fields(Scores)]
    averaged = Scores(**{name: float(scores[name]) for name in names})
    one_pass = scores.get("mean_network") if scores["num_samples"] > 1 else None
    mean_network = None if one_pass is None else Scores(**{name: float(one_pass[name]) for name in names})
    console.print(_scores(averaged, mean_network, scores["num_samples"], f"the {split} set"))


def _scores(averaged: Scores, mean_network: Scores | None, num_samples: int, judged_on: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(f"on {judged_on}", no_wrap=True)
    table.add_column(f"mean of {num_samples} samples" if mean_network else "", justify="right")
    if mean_network:
        table.add_column("one pass", justify="right")
    table.add_column("", style="dim", no_wrap=True)
    for key, name, _ in wording.METRICS:
        if key in _SHORT:
            values = [formatting.number(getattr(s, key), 4) for s in (averaged, mean_network) if s]
            table.add_row(name, *values, _SHORT[key])
    return table


def _layers(record: Record, console: Console) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("layer", overflow="fold")
    table.add_column("weights", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    width = max(10, min(30, console.width - 50))
    for layer in record.layers:
        if len(layer.shape) < 2:  # biases would double the table and say little; the report has them
            continue
        table.add_row(
            layer.name.removesuffix(".weight"),
            f"{layer.num_weights:,}",
            f"{layer.num_kept:,}",
            formatting.percent(layer.kept),
            _bar(layer.kept, width) if layer.prunable else Text("never pruned", style="dim"),
        )
    return table


def _bar(share: float, width: int) -> Text:
    """Draw a bar that is readable without colours; any share above 0 is visible."""
    eighths = max(round(8 * width * share), int(share > 0))
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return Text.assemble((filled, "blue"), ("·" * (width - len(filled)), "dim"))
