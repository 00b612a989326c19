"""`secateur prune-trained`: prune a network that is already trained, without training it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from secateur import networks
from secateur.cli.invocation import command_line
from secateur.cli.options import DataDir, Device
from secateur.cli.own import Ignore, Target
from secateur.data import names as data_names
from secateur.likelihoods import resolve
from secateur.pruning.result import PruneRound
from secateur.runs import formatting

__all__ = ["EXAMPLE", "prune_trained"]

LEARNED = {"gaussian": {"noise": "learned"}}  # a standard deviation of 1 would say nothing of the evidence
PASSED_ON = (
    "sparsity", "pattern", "multiply_adds", "max_loss_rise", "structure", "rounds", "include", "exclude",
    "num_data", "max_batches",
)  # fmt: skip
EXAMPLE = (
    "Example: secateur prune-trained --model lenet --weights lenet.safetensors --data fashion-mnist "
    "--held-out fashion-mnist --out pruned"
)


def prune_trained(
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="package.module:function, called without arguments (this runs its code; the current "
            f"directory is looked into first), one of {', '.join(networks.names())}, or a directory of a "
            "Transformers network.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="package.module:function that returns a loader (this runs its code), one of "
            f"{', '.join(data_names())}, a .safetensors or .npz file with the tensors inputs and targets, a "
            ".csv, .tsv or .parquet table, or a .txt file for a Transformers directory.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New or empty directory for all results.")],
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The trained weights, a .safetensors file.")
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Data to judge by, best such as the network was not trained on, named like --data; of a "
            "data set its test images. By default a tenth of --data.",
        ),
    ] = None,
    likelihood: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of the targets: categorical, bernoulli, gaussian (its noise is learned), poisson.",
        ),
    ] = "categorical",
    sparsity: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of the weights that may go to be out; by default it stops by itself."
        ),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(metavar="N:M", help="Keep N of each M inputs of a unit, as 2:4.")
    ] = None,
    multiply_adds: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Remove whole units until this share of the work is left."
        ),
    ] = None,
    max_loss_rise: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="NATS",
            help="Rise of the held-out loss at which to stop; by default one standard error from the best.",
        ),
    ] = None,
    granularity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="What goes: weight by default; or neuron, channel, head, perhaps several."
        ),
    ] = None,
    structure: Annotated[
        str,
        typer.Option(
            metavar="KIND", help="Which weights depend on each other: kronecker, row, or diagonal (none)."
        ),
    ] = "kronecker",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of removal; 16 by default, at most 24 without a target.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Names of weights that may go, as 'layers.*'.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Names of weights that stay.")
    ] = None,
    num_data: Annotated[
        int | None,
        typer.Option(min=1, help="Size of the data the network was trained on; that of DATA by default."),
    ] = None,
    max_batches: Annotated[
        int | None, typer.Option(min=1, help="Batches a round takes its curvature from; all by default.")
    ] = None,
    recover: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="EPOCHS",
            help="Afterwards learn for so long to answer as before, without labels and with zeros held.",
        ),
    ] = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="128 by default, 4 windows of text; a loader has its own.")
    ] = None,
    window: Annotated[int, typer.Option(min=2, metavar="TOKENS", help="Length of windows of text.")] = 1024,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of a data set's images, if MODEL needs one.")
    ] = None,
    target: Target = None,
    ignore: Ignore = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Prune a trained network: remove what the data do not pay for, move the rest. No training is needed.

    Without --sparsity or --pattern the removal stops by itself: where the evidence peaks, and no later
    than the held-out loss allows. DIR gets the network with exact zeros, result.json and report.html.
    """
    given = dict(locals())
    # matplotlib and the Transformers library: only where they are needed
    from secateur.cli.trained_data import DataSource, check_batch
    from secateur.cli.trained_model import TrainedModel
    from secateur.export.trained_run import check_new, prune_to_directory
    from secateur.factories import current_directory_first
    from secateur.reports import trained_page
    from secateur.training.device import resolve_device

    console = Console()
    check_new(out)
    source = TrainedModel(model, weights)
    source.check()
    place = resolve_device(device)
    reader = DataSource(
        model, batch_size, window, image_size, data_dir, tuple(target or ()), tuple(ignore or ()), likelihood
    )

    def say(row: PruneRound) -> None:
        console.print(Text(_line(row)), soft_wrap=True)

    with current_directory_first():
        if source.is_ours:
            calibration = reader.load(data)
            network = source.load(calibration.image_shape, calibration.num_classes).to(place)
        else:
            network = source.load().to(place)
            calibration = reader.load(data, model=network)
        check_batch(network, calibration.loader, "--data")
        judged = None
        if held_out is not None:
            judged = reader.load(held_out, option="--held-out", model=network, like=data).loader
            check_batch(network, judged, "--held-out")
        pruned = prune_to_directory(
            network,
            calibration.loader,
            out=out,
            write=source.write,
            likelihood=resolve({"name": likelihood, **LEARNED.get(likelihood, {})}),
            held_out=judged,
            seed=seed,
            about={"command": command_line(prune_trained, given)}
            | {name: given[name] for name in ("model", "data", "held_out")},
            granularity=granularity or "weight",
            recovery_epochs=recover,
            on_round=say,
            **{name: given[name] for name in PASSED_ON},
        )
    page = trained_page.write(out)
    console.print(Text(str(pruned.result)), soft_wrap=True)
    for path in (pruned.weights, page):
        console.print(Text(f"{formatting.num_bytes(path.stat().st_size)} in {path}"), soft_wrap=True)


def _line(row: PruneRound) -> str:
    """Return what a round did, in one line."""
    return (
        f"{formatting.percent(row.sparsity):>7} out: loss {formatting.number(row.loss, 4)}, held out "
        f"{formatting.number(row.held_out_loss, 4)}, evidence "
        f"{formatting.number(row.observed_delta_f, 0)} nats"
    )
