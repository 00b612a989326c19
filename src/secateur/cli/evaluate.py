"""`secateur evaluate`: evaluate a finished run again."""

import json
from typing import Annotated

import typer
from rich.console import Console

from secateur import training
from secateur.cli.options import AsJson, DataDir, Device, FinishedRun
from secateur.cli.own import RunData, RunNetwork, own_parts
from secateur.factories import current_directory_first
from secateur.runs import as_json as as_values

__all__ = ["EXAMPLE", "evaluate"]

EXAMPLE = "Example: secateur evaluate runs/lenet-fashion-mnist-calibrated-seed0 --samples 1000"


def evaluate(
    run: FinishedRun,
    data_dir: DataDir = None,
    device: Device = "auto",
    samples: Annotated[int, typer.Option(min=1, help="Networks drawn from the posterior.")] = 100,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    network: RunNetwork = None,
    data: RunData = None,
    as_json: AsJson = False,
) -> None:
    """Test a run again: the average of posterior samples beside the posterior-mean network."""
    from secateur.reports import terminal  # pandas: only where it is needed

    with current_directory_first():
        result = training.evaluate(
            run,
            data_dir=data_dir,
            device=device,
            num_samples=samples,
            split=split,
            **own_parts(network, data),
        )
    if as_json:
        typer.echo(json.dumps(as_values(result)))
    else:
        terminal.show_scores(result, Console(), split=split, run=run)
