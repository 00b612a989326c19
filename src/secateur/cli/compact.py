"""`secateur compact`: take masked units out of a run's network physically."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secateur.cli.options import FinishedRun

__all__ = ["EXAMPLE", "compact"]

EXAMPLE = "Example: secateur compact runs/mlp-fashion-mnist-calibrated-seed0 --multiple-of 8"


def compact(
    run: FinishedRun,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="RUN/compact.safetensors by default.")
    ] = None,
    multiple_of: Annotated[
        int, typer.Option(min=1, help="Round the units that a layer keeps up to a multiple of this.")
    ] = 1,
) -> None:
    """Remove dead units from a run's network, save it, and print the remaining size of each layer."""
    from secateur.export.finished_run import compact_run
    from secateur.reports import terminal

    terminal.show_compact(compact_run(run, out=out, multiple_of=multiple_of), run, Console())
