"""`secateur bench`: measure file size, operations and latency of each form of a run's network."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secateur.cli.options import DataDir, FinishedRun

__all__ = ["EXAMPLE", "bench"]

EXAMPLE = "Example: secateur bench runs/mlp-fashion-mnist-calibrated-seed0 --batch 1 --batch 256"


def bench(
    run: FinishedRun,
    dense: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run of the same network with all its weights, to compare with."),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size; may be repeated. 1, 32 and 256 by default.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each batch size, over all variants.")] = 5.0,
    multiple_of: Annotated[
        int, typer.Option(min=1, help="Compact network: round units up to a multiple of this.")
    ] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to compute with; all by default.")
    ] = None,
    data_dir: DataDir = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy/--no-accuracy", help="Judge each variant on the test set.")
    ] = True,
) -> None:
    """Measure a run's network dense, masked, compact, with sparse kernels and in onnxruntime.

    Variants take turns call by call. The table is kept in RUN/bench.json and shown in the report.
    """
    import torch

    from secateur.export.measured_run import measure_run, write_measured
    from secateur.reports import run_page, terminal

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        measured = measure_run(
            run,
            dense=dense,
            batches=tuple(batch or (1, 32, 256)),
            seconds=seconds,
            multiple_of=multiple_of,
            data_dir=data_dir,
            accuracy=accuracy,
        )
    finally:
        torch.set_num_threads(before)
    write_measured(run, measured)
    run_page.write(run)
    terminal.show_measured(run, Console())
