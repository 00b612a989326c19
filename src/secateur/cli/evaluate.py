"""`secateur evaluate`: evaluate a finished run again."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secateur import training
from secateur.reports import summary

__all__ = ["EXAMPLE", "evaluate"]

EXAMPLE = "Example: secateur evaluate runs/lenet-fashion-mnist-calibrated-seed0 --samples 1000"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.")],
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with data sets; else $SECATEUR_DATA.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    samples: Annotated[int, typer.Option(min=1, help="Networks drawn from the posterior.")] = 100,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
) -> None:
    """Test a run again: the average of posterior samples beside the posterior-mean network."""
    result = training.evaluate(run, data_dir=data_dir, device=device, num_samples=samples, split=split)
    summary.show_scores(result, Console(), split=split)
