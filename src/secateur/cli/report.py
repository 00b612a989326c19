"""`secateur report`: write the report of a run again."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["EXAMPLE", "report"]

EXAMPLE = "Example: secateur report runs/lenet-fashion-mnist-calibrated-seed0"


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.")],
) -> None:
    """Write report.html of a run again from its files, and print its path."""
    from secateur.study.report import write  # matplotlib: only where it is needed

    typer.echo(write(run))
