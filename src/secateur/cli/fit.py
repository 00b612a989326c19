"""`secateur fit`: train, reduce by evidence, report."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secateur import networks, training
from secateur.cli.failures import FAILED, complain
from secateur.cli.invocation import command_line, run_directory
from secateur.cli.options import Augment, Autocast, DataDir, Device
from secateur.data import names as data_names
from secateur.distributed import launched, rank
from secateur.training.progress import for_console

__all__ = ["EXAMPLE", "fit"]

EXAMPLE = "Example: secateur fit lenet fashion-mnist --epochs 50 --seed 1 --out runs/first"


def fit(
    network: Annotated[str, typer.Argument(help=f"One of {', '.join(networks.names())}.")],
    data: Annotated[str, typer.Argument(help=f"One of {', '.join(data_names())}.")],
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(training.method_names())}.", metavar="NAME")
    ] = "calibrated",
    epochs: Annotated[int | None, typer.Option(min=1, help="By default the method's recipe.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Holds all results; runs/NETWORK-DATA-METHOD-seedN by default."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    sparsity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of weights to remove; by default the evidence decides."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Networks averaged in the final test.")] = 100,
    learning_rate: Annotated[float | None, typer.Option(help="Instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the training step; by default where it pays."),
    ] = None,
    augment: Augment = False,
    autocast: Autocast = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log scalars to DIR/tensorboard as well.")
    ] = False,
) -> None:
    """Train a network, remove weights by evidence, and write a report; under torchrun, on several devices."""
    given = dict(locals())
    from secateur.reports import run_page, terminal  # matplotlib: only where it is needed

    console = Console()
    where = out or run_directory(network, data, method, seed)
    with launched():
        first = rank() == 0
        try:
            training.fit(
                network,
                data,
                method=method,
                epochs=epochs,
                seed=seed,
                out=where,
                resume=resume,
                device=device,
                data_dir=data_dir,
                sparsity=sparsity,
                num_samples=samples,
                learning_rate=learning_rate,
                batch_size=batch_size,
                compile=compile_,
                augment=augment,
                autocast=autocast,
                tensorboard=tensorboard,
                command=command_line(fit, given | {"resume": False}),
                progress=for_console(console) if first else None,
            )
        except KeyboardInterrupt:
            again = command_line(fit, given | {"out": where, "resume": True})
            if first:
                complain(f"interrupted; finished epochs are kept in {where}, go on with: {again}")
            raise typer.Exit(FAILED) from None
    if not first:
        return
    run_page.write(where)
    terminal.show_run(where, console)
