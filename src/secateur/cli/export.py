"""`secateur export`: write a run's network for another program or machine."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secateur.cli.options import FinishedRun

__all__ = ["EXAMPLE", "export"]

EXAMPLE = "Example: secateur export runs/lenet-fashion-mnist-calibrated-seed0 --to onnx"


def export(
    run: FinishedRun,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="onnx, safetensors (smallest file), or sparse (kernels that are faster on this machine).",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="In RUN by default, named after the format.")
    ] = None,
    samples: Annotated[
        int,
        typer.Option(min=0, help="onnx: average this many posterior samples in one graph; 0 is the mean."),
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="sparse: the batch size to be fast at.")] = 1,
) -> None:
    """Write the compact network of a run to a file that was checked against it."""
    from secateur.export.finished_run import export_run
    from secateur.reports import terminal

    exported = export_run(run, to=to, out=out, num_samples=samples, batch=batch)
    terminal.show_exported(exported, Console())
