"""Print results of commands in the terminal: scores, sizes, times, and the next command to type.

Names from files are printed as text: no markup, no control characters.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import nn

from secateur.errors import ArtifactError
from secateur.export.finished_run import Exported
from secateur.reports import advice
from secateur.reports.record import Record, read
from secateur.runs import formatting
from secateur.runs.formatting import printable
from secateur.runs.reading import read_run
from secateur.training.prune_run import PrunedRun

__all__ = [
    "run_as_json",
    "show_compact",
    "show_exported",
    "show_measured",
    "show_pruned",
    "show_run",
    "show_scores",
]

_BETTER = {
    "accuracy": "higher", "negative_log_likelihood": "lower", "expected_calibration_error": "lower",
    "brier_score": "lower", "root_mean_squared_error": "lower", "deviance": "lower",
    "continuous_ranked_probability_score": "lower", "coverage_50": "0.5", "coverage_90": "0.9",
}  # fmt: skip

_OF_SOME = frozenset(_BETTER) - {"negative_log_likelihood"}  # no likelihood has them all


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(printable(text), style=style), soft_wrap=True)


def _table(
    console: Console, columns: Iterable[str], rows: Iterable[Iterable[str | Text]], words: int = 1
) -> None:
    """Print a table whose first columns are words, at the left; the others are numbers, at the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if place < words else "right", no_wrap=place > 0,
                         overflow="fold")  # fmt: skip
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    if not console.is_terminal and len(table.columns) > 5:
        console.width = max(console.width, 200)  # a table in a pipe stays in one piece
    console.print(Padding(table, (1, 0, 1, 2), expand=False))


def show_run(run_dir: Path, console: Console) -> None:
    """Print the summary of a finished run, with warnings and the next command.

    Args:
        run_dir: Directory of the run.
        console: Where to print; without a terminal there are no colours.

    Raises:
        ArtifactError: If a file of the run is missing or damaged.
    """
    record = read(run_dir)
    console.print()
    _say(console, f"{advice.title(record)}: {advice.outcome(record)}", "bold")
    judged_on = {"test": "the test set", "train": "the training set, for want of a test set"}
    single = None if record.mean_network is None else asdict(record.mean_network)
    dense = advice.dense_scores(record) if record.num_kept < record.num_weights else ("", {})
    where = judged_on.get(record.evaluated_on, record.evaluated_on)
    _print_scores(console, where, record.num_samples, asdict(record.averaged), single, dense)
    width = max(10, min(30, console.width - 50))
    rows = [
        (row.name.removesuffix(".weight"), f"{row.num_weights:,}", f"{row.num_kept:,}",
         formatting.percent(row.kept),
         _bar(row.kept, width) if row.prunable else Text("never pruned", style="dim"))
        for row in record.layers.itertuples()
        if len(row.shape) > 1  # biases would double the table and say little; the report has them
    ]  # fmt: skip
    _table(console, ("layer", "weights", "kept", "share", ""), rows)
    for remark in advice.remarks(record):
        _say(console, f"Beware: {remark}", "yellow")
    report = record.directory / "report.html"
    place = f"Report: {report}" if report.is_file() else f"Everything is in {record.directory}"
    _say(console, f"{_bytes(record)}{formatting.duration(record.seconds)} of training. {place}")
    for what, line in advice.next_commands(record)[:1]:
        _say(console, f"Next, {what[0].lower()}{what[1:]}: {line}")


def run_as_json(run_dir: Path) -> str:
    """Return the scores of a finished run as one JSON object: what it is, where it is, and all its metrics.

    Args:
        run_dir: Directory of the run.

    Raises:
        ArtifactError: If a file of the run is missing or damaged.
    """
    run = read_run(run_dir)
    known = ("network", "data", "method", "seed", "epochs", "likelihood")
    about = {key: run.config_values.get(key) for key in known}
    return json.dumps({"directory": str(run_dir), **about, **run.metrics_values})


def _bytes(record: Record) -> str:
    dense, least = formatting.num_bytes(record.dense_bytes), formatting.num_bytes(record.least_bytes)
    if record.num_kept >= record.num_weights:
        return f"{dense} of weights. "
    return f"{dense} of weights dense, {least} at least for those that are kept. "


def show_scores(scores: Mapping[str, Any], console: Console, *, split: str, run: Path | None = None) -> None:
    """Print the scores of an evaluation.

    Args:
        scores: By name, those of the one-pass network in `mean_network`, and `num_samples`.
        console: Where to print.
        split: The data they are from, `test` or `train`.
        run: Directory of the run, for its dense baseline on the test set.
    """
    single = scores.get("mean_network") if scores["num_samples"] > 1 else None
    dense: tuple[str, dict[str, float]] = ("", {})
    if run is not None and split == "test":
        record = read(run)
        dense = advice.dense_scores(record) if record.num_kept < record.num_weights else dense
    _print_scores(console, f"the {split} set", scores["num_samples"], scores, single, dense)


def _print_scores(
    console: Console, judged_on: str, num_samples: int, averaged: Mapping[str, Any],
    single: Mapping[str, Any] | None, dense: tuple[str, Mapping[str, Any]],
) -> None:  # fmt: skip
    named = [(f"mean of {num_samples}" if single else "", averaged), ("one pass", single), dense]
    columns = [(head, scores) for head, scores in named if scores]
    rows = [
        (advice.METRICS[key][0],
         *(formatting.number(float(scores.get(key, math.nan)), 4) for _, scores in columns), better)
        for key, better in _BETTER.items()
        if key in averaged and not (key in _OF_SOME and math.isnan(float(averaged[key])))
    ]  # fmt: skip
    heads = (head if len(head) < 20 else "dense" for head, _ in columns)
    _table(console, (f"on {judged_on}", *heads, "better"), rows)


def _bar(share: float, width: int) -> Text:
    """Draw a bar that is readable without colours; any share above 0 is visible."""
    eighths = max(round(8 * width * share), int(share > 0))
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return Text.assemble((filled, "blue"), ("·" * (width - len(filled)), "dim"))


def show_compact(exported: Exported, run: Path, console: Console) -> None:
    """Print the remaining size of each layer, and the path of the file.

    Args:
        exported: What was written.
        run: Directory of the run.
        console: Where to print.
    """
    assert exported.network is not None
    rows = []
    for name, layer in exported.network.named_modules():
        if isinstance(layer, nn.Linear):
            sizes = (layer.out_features, layer.in_features, layer.weight.numel())
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            sizes = (layer.out_channels, layer.in_channels, layer.weight.numel())
        else:
            continue
        rows.append((name, *(f"{size:,}" for size in sizes)))
    _table(console, ("layer", "units", "inputs", "weights"), rows)
    left = sum(parameter.numel() for parameter in exported.network.parameters())
    _say(console, f"{exported.num_weights:,} parameters of {run.name} became {left:,}.")
    if left >= exported.num_weights:
        _say(
            console,
            "Nothing became smaller: no unit lost all its weights, and scattered zeros cannot be cut out. "
            f"Remove whole units first: secateur prune {run} --granularity unit",
            "yellow",
        )
    show_exported(exported, console)


def show_exported(exported: Exported, console: Console) -> None:
    """Print the chosen kernels, if any, and the path of the file.

    Args:
        exported: What was written.
        console: Where to print.
    """
    if exported.kernels:
        _table(console, _KERNELS, (_kernel(asdict(row)) for row in exported.kernels))
    _say(console, f"{formatting.num_bytes(exported.num_bytes)} in {exported.path}")
    if exported.largest_difference is not None:
        _say(
            console, f"Outputs differ from the masked network's by {exported.largest_difference:.1e} at most."
        )


_KERNELS = ("layer", "zeros", "dense", "sparse", "used")


def _kernel(row: Mapping[str, Any]) -> tuple[str, ...]:
    times = (math.nan if row[key] is None else row[key] for key in ("dense_seconds", "sparse_seconds"))
    micro = (f"{1e6 * time:,.0f} us" if math.isfinite(time) else formatting.DASH for time in times)
    return row["layer"], formatting.percent(row["sparsity"]), *micro, row["kernel"]


def show_measured(run: Path, console: Console) -> None:
    """Print the measurements in `bench.json` of a run, each form beside the dense one.

    Args:
        run: Directory with `bench.json`.
        console: Where to print.

    Raises:
        ArtifactError: If a file is missing or damaged.
    """
    bench = read(run).bench
    if bench is None:
        raise ArtifactError(f"expected bench.json in {run}, got no such file; secateur bench writes it")
    first = bench.variants.iloc[0]
    rows = []
    for name, row in bench.variants.iterrows():
        other_weights = bench.dense_run is not None and str(name).startswith("dense")
        rows.append((
            str(name), formatting.num_bytes(row["file_bytes"]),
            formatting.times(first["file_bytes"], row["file_bytes"]),
            formatting.number(row["num_parameters"], 0), formatting.number(row["num_macs"], 0),
            formatting.num_bytes(row["peak_memory"]), formatting.number(row["accuracy"], 4),
            formatting.DASH if other_weights else f"{row['largest_difference']:.1e}",
        ))  # fmt: skip
    heads = ("variant", "on disk", "", "parameters", "multiply-adds", "memory", "accuracy", "difference")
    _table(console, heads, rows)
    rows = []
    for name in bench.variants.index:
        cells = []
        for own in bench.timings[bench.timings["variant"] == name].itertuples():
            dense = bench.milliseconds(bench.variants.index[0], own.batch)
            median, lower, upper = (1e3 * value for value in (own.median, own.lower, own.upper))
            cells.append(f"{median:.3f} ({lower:.3f}-{upper:.3f}) {formatting.times(dense, median):>6}")
        rows.append((name, *cells))
    _table(console, ("time of a call, ms", *(f"batch {batch}" for batch in bench.batches)), rows)
    if len(bench.kernels):
        kernels = bench.kernels.to_dict("records")
        _table(
            console, ("batch", *_KERNELS), ((str(row["batch"]), *_kernel(row)) for row in kernels), words=2
        )
    for remark in bench.remarks:
        _say(console, remark)
    threads = f"{bench.num_threads} thread{'' if bench.num_threads == 1 else 's'}"
    _say(
        console,
        f"Medians and quartiles, variants in turn, torch {bench.torch} on {bench.machine}, {threads}. "
        f"Kept weights need {formatting.num_bytes(bench.entropy_bound)} at least.",
    )
    _say(console, f"Kept in {Path(run) / 'bench.json'}, shown in {Path(run) / 'report.html'}")


def show_pruned(pruned: PrunedRun, console: Console) -> None:
    """Print what pruning a run removed, on which evidence, and loss and accuracy before and after.

    Args:
        pruned: What became of the run.
        console: Where to print.
    """
    _say(console, str(pruned.result))
    if math.isfinite(pruned.accuracy_after):
        accuracies = (pruned.accuracy_before, pruned.accuracy_after)
        before, after = (formatting.number(each, 4) for each in accuracies)
        _say(console, f"Accuracy of averaged predictions: {before} before, {after} after.")
