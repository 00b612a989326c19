"""`secateur prune`: prune the network of a finished run further, as a new run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secateur.cli.invocation import command_line
from secateur.cli.options import DataDir
from secateur.training.progress import for_console

__all__ = ["EXAMPLE", "prune"]

EXAMPLE = "Example: secateur prune runs/first --granularity unit --max-loss-rise 0.02 --recover 4"


def prune(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory of a finished run, which is only read.")
    ],
    sparsity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of weights to be out; by default the evidence decides."),
    ] = None,
    granularity: Annotated[
        str,
        typer.Option(metavar="KIND", help="weight, neuron, channel, head, or unit for all three of these."),
    ] = "weight",
    max_loss_rise: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="NATS",
            help="Remove whole units past what the evidence asks for, until the training loss has risen "
            "by this.",
        ),
    ] = None,
    cost: Annotated[
        str,
        typer.Option(metavar="COST", help="What removing whole units is to save: unit, or multiply-adds."),
    ] = "unit",
    multiply_adds: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Remove whole units until this share of the work is left."
        ),
    ] = None,
    recover: Annotated[
        int,
        typer.Option(min=0, metavar="EPOCHS", help="Train what is left for so long, by the run's method."),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New or empty; RUN-pruned by default.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Networks averaged in the test.")] = 100,
    data_dir: DataDir = None,
) -> None:
    """Remove more of a finished run's network, judge it, and write a new run."""
    given = dict(locals())
    from secateur.reports import run_page, terminal
    from secateur.training.prune_run import prune_run

    console = Console()
    pruned = prune_run(
        run,
        out=out or run.with_name(f"{run.resolve().name}-pruned"),
        sparsity=sparsity,
        granularity=granularity,
        max_loss_rise=max_loss_rise,
        cost=cost,
        multiply_adds=multiply_adds,
        recover=recover,
        num_samples=samples,
        data_dir=data_dir,
        command=command_line(prune, given),
        progress=for_console(console),
    )
    run_page.write(pruned.directory)
    terminal.show_run(pruned.directory, console)
    terminal.show_pruned(pruned, console)
