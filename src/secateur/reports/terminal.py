"""Print results of compact, export, bench and prune in the terminal."""

import math
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import nn

from secateur.errors import ArtifactError
from secateur.export import KernelRow
from secateur.export.finished_run import Exported
from secateur.runs import RunDirectory, formatting
from secateur.runs.reading import read_object
from secateur.runs.records import Bench, BenchVariant, Kernel
from secateur.training.prune_run import PrunedRun

__all__ = ["show_compact", "show_exported", "show_measured", "show_pruned"]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _print(console: Console, table: Table) -> None:
    if not console.is_terminal:
        console.width = max(console.width, 200)  # a table in a pipe stays in one piece
    console.print(Padding(table, (1, 0, 1, 2), expand=False))


def show_compact(exported: Exported, run: Path, console: Console) -> None:
    """Print the remaining size of each layer, and the path of the file.

    Args:
        exported: What was written.
        run: Directory of the run.
        console: Where to print.
    """
    assert exported.network is not None
    table = _table("layer", "units", "inputs", "weights")
    for name, layer in exported.network.named_modules():
        if isinstance(layer, nn.Linear):
            table.add_row(
                name, f"{layer.out_features:,}", f"{layer.in_features:,}", f"{layer.weight.numel():,}"
            )
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            table.add_row(
                name, f"{layer.out_channels:,}", f"{layer.in_channels:,}", f"{layer.weight.numel():,}"
            )
    _print(console, table)
    left = sum(parameter.numel() for parameter in exported.network.parameters())
    console.print(
        Text(f"{exported.num_weights:,} parameters of {run.name} became {left:,}."),
        soft_wrap=True,
    )
    show_exported(exported, console)


def show_exported(exported: Exported, console: Console) -> None:
    """Print the chosen kernels, if any, and the path of the file.

    Args:
        exported: What was written.
        console: Where to print.
    """
    if exported.kernels:
        _print(console, _kernel_table([(None, row) for row in exported.kernels]))
    console.print(Text(f"{formatting.num_bytes(exported.num_bytes)} in {exported.path}"), soft_wrap=True)
    if exported.largest_difference is not None:
        console.print(
            Text(f"Outputs differ from the masked network's by {exported.largest_difference:.1e} at most."),
            soft_wrap=True,
        )


def _kernel_table(rows: list[tuple[int | None, KernelRow | Kernel]]) -> Table:
    named = any(batch is not None for batch, _ in rows)
    table = _table("layer", *(["batch"] if named else []), "zeros", "dense", "sparse", "used")
    for batch, row in rows:
        faster = math.nan if row.sparse_seconds is None else row.sparse_seconds
        table.add_row(
            row.layer,
            *([str(batch)] if named else []),
            formatting.percent(row.sparsity),
            _micro(row.dense_seconds),
            _micro(faster),
            row.kernel,
        )
    return table


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} us" if math.isfinite(seconds) else formatting.DASH


def show_measured(run: Path, console: Console) -> None:
    """Print the measurements in `bench.json` of a run.

    Args:
        run: Directory with `bench.json`.
        console: Where to print.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    path = RunDirectory(Path(run)).bench
    if not path.exists():
        raise ArtifactError(f"expected bench.json in {run}, got no such file; secateur bench writes it")
    bench, _ = read_object(path, Bench)
    first = bench.variants[0]
    table = _table(
        "variant", "on disk", "", "parameters", "multiply-adds", "memory", "accuracy", "difference"
    )
    for row in bench.variants:
        table.add_row(row.name, *_sizes(row, first, bench))
    _print(console, table)
    table = _table("time of a call, ms", *[f"batch {batch}" for batch in bench.batches])
    for row in bench.variants:
        cells = [
            f"{1e3 * own.median:.3f} ({1e3 * own.lower:.3f}-{1e3 * own.upper:.3f})"
            f" {formatting.times(reference.median, own.median):>6}"
            for own, reference in zip(row.timings, first.timings, strict=True)
        ]
        table.add_row(row.name, *cells)
    _print(console, table)
    if bench.kernels:
        _print(console, _kernel_table([(each.batch, row) for each in bench.kernels for row in each.layers]))
    for remark in bench.remarks:
        console.print(Text(remark), soft_wrap=True)
    console.print(
        Text(
            f"Medians and quartiles, variants in turn, torch {bench.machine.torch} on "
            f"{bench.machine.machine}, "
            f"{bench.machine.num_threads} thread{'' if bench.machine.num_threads == 1 else 's'}. "
            f"Kept weights need {formatting.num_bytes(bench.entropy_bound)} at least."
        ),
        soft_wrap=True,
    )
    console.print(Text(f"Kept in {path}, shown in {Path(run) / 'report.html'}"), soft_wrap=True)


def show_pruned(pruned: PrunedRun, console: Console) -> None:
    """Print weights removed, loss and accuracy before and after pruning a run.

    Args:
        pruned: What became of the run.
        console: Where to print.
    """
    console.print(
        Text(
            f"Removed {pruned.kept_before - pruned.kept_after:,} of the {pruned.kept_before:,} weights that "
            f"were in. Training loss {formatting.number(pruned.loss_before, 4)} before, "
            f"{formatting.number(pruned.loss_after, 4)} after; accuracy "
            f"{formatting.number(pruned.accuracy_before, 4)} before, "
            f"{formatting.number(pruned.accuracy_after, 4)} after. "
            f"Predicted evidence {formatting.number(pruned.predicted_delta_f, 0)} nats."
        ),
        soft_wrap=True,
    )


def _sizes(row: BenchVariant, first: BenchVariant, bench: Bench) -> list[str]:
    other_weights = bench.is_other_network(row)
    difference = row.largest_difference
    return [
        formatting.num_bytes(row.file_bytes),
        formatting.times(first.file_bytes, row.file_bytes),
        formatting.number(row.num_parameters, 0),
        formatting.number(row.num_macs, 0),
        formatting.num_bytes(row.peak_memory),
        formatting.number(row.accuracy, 4),
        formatting.DASH if other_weights else f"{difference:.1e}",
    ]
