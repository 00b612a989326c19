"""`secateur evaluate`: evaluate a finished run again."""

from typing import Annotated

import typer
from rich.console import Console

from secateur import training
from secateur.cli.options import DataDir, Device, FinishedRun

__all__ = ["EXAMPLE", "evaluate"]

EXAMPLE = "Example: secateur evaluate runs/lenet-fashion-mnist-calibrated-seed0 --samples 1000"


def evaluate(
    run: FinishedRun,
    data_dir: DataDir = None,
    device: Device = "auto",
    samples: Annotated[int, typer.Option(min=1, help="Networks drawn from the posterior.")] = 100,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
) -> None:
    """Test a run again: the average of posterior samples beside the posterior-mean network."""
    from secateur.reports import terminal  # pandas: only where it is needed

    result = training.evaluate(run, data_dir=data_dir, device=device, num_samples=samples, split=split)
    terminal.show_scores(result, Console(), split=split, run=run)
