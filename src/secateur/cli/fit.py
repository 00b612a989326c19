"""`secateur fit`: train, reduce by evidence, report."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from secateur import training
from secateur.cli.config import ConfigFile, PrintConfig, as_toml
from secateur.cli.failures import FAILED, complain
from secateur.cli.invocation import command_line, run_directory
from secateur.cli.options import AsJson, Augment, Autocast, DataDir, Device, Quiet, Sparsity
from secateur.cli.own import (
    DATA_HELP,
    NETWORK_HELP,
    Ignore,
    ImageSize,
    LikelihoodName,
    Target,
    Task,
    TestData,
    TestShare,
    check_order,
    likelihood_of,
    training_data,
)
from secateur.data.own import TEST_FRACTION
from secateur.distributed import launched, rank
from secateur.factories import current_directory_first
from secateur.training.progress import Progress, for_console

__all__ = ["EXAMPLE", "fit"]

EXAMPLE = "Example: secateur fit lenet fashion-mnist --epochs 50 --seed 1 --out runs/first"


def fit(
    network: Annotated[str, typer.Argument(help=NETWORK_HELP)],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
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
    sparsity: Sparsity = None,
    samples: Annotated[int, typer.Option(min=1, help="Networks averaged in the final test.")] = 100,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Instead of the recipe's.")
    ] = None,
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
    target: Target = None,
    task: Task = None,
    likelihood: LikelihoodName = None,
    test_data: TestData = None,
    test_share: TestShare = TEST_FRACTION,
    ignore: Ignore = None,
    image_size: ImageSize = None,
    config: ConfigFile = None,
    print_config: PrintConfig = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a network, remove weights by evidence, and write a report; under torchrun, on several devices."""
    given = dict(locals()) | {"config": None, "print_config": False, "as_json": False, "quiet": False}
    from secateur.reports import run_page, terminal  # matplotlib: only where it is needed

    if print_config:
        typer.echo(as_toml(fit, given))
        return
    console = Console(stderr=as_json)
    check_order(network, data)
    wanted = likelihood_of(task, likelihood)
    where = out or run_directory(network, data, method, seed)
    with launched():
        first = rank() == 0
        shown = for_console(console, quiet=quiet) if first else None
        try:
            _fit(given, where, resume=resume, likelihood=wanted, progress=shown)
        except KeyboardInterrupt:
            again = command_line(fit, given | {"out": where, "resume": True})
            if first:
                complain(f"interrupted; finished epochs are kept in {where}, go on with: {again}")
            raise typer.Exit(FAILED) from None
    if not first:
        return
    run_page.write(where)
    if as_json:
        typer.echo(terminal.run_as_json(where))
    elif not quiet:
        terminal.show_run(where, console)


def _fit(
    given: dict[str, Any], where: Path, *, resume: bool, likelihood: str | None, progress: Progress | None
) -> None:
    """Fit what was typed; the current directory is looked into for modules of the user's own."""
    with current_directory_first():
        data = training_data(
            given["data"],
            target=given["target"],
            ignore=given["ignore"],
            test=given["test_data"],
            share=given["test_share"],
            likelihood=likelihood,
            image_size=given["image_size"],
        )
        known: dict[str, Any] = {} if likelihood is None else {"likelihood": likelihood}
        training.fit(
            given["network"],
            data,
            method=given["method"],
            epochs=given["epochs"],
            seed=given["seed"],
            out=where,
            resume=resume,
            device=given["device"],
            data_dir=given["data_dir"],
            sparsity=given["sparsity"],
            num_samples=given["samples"],
            learning_rate=given["learning_rate"],
            batch_size=given["batch_size"],
            compile=given["compile_"],
            augment=given["augment"],
            autocast=given["autocast"],
            tensorboard=given["tensorboard"],
            command=command_line(fit, given | {"resume": False}),
            progress=progress,
            **known,
        )
