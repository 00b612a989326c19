"""Commands on a finished run: `secateur prune`, `compact`, `export` and `bench`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secateur.cli.invocation import command_line
from secateur.cli.options import DataDir, FinishedRun, Sparsity
from secateur.cli.own import RunData, RunNetwork, own_parts
from secateur.factories import current_directory_first
from secateur.training.progress import for_console

__all__ = ["EXAMPLES", "bench", "compact", "export", "prune"]

EXAMPLES = {
    "prune": "Example: secateur prune runs/first --granularity unit --max-loss-rise 0.02 --recover 4",
    "compact": "Example: secateur compact runs/mlp-fashion-mnist-calibrated-seed0 --multiple-of 8",
    "export": "Example: secateur export runs/lenet-fashion-mnist-calibrated-seed0 --to onnx",
    "bench": "Example: secateur bench runs/mlp-fashion-mnist-calibrated-seed0 --batch 1 --batch 256",
}


def prune(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory of a finished run, which is only read.")
    ],
    sparsity: Sparsity = None,
    granularity: Annotated[
        str,
        typer.Option(metavar="KIND", help="weight, neuron, channel, head, or unit for all three of these."),
    ] = "weight",
    max_loss_rise: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="NATS",
            help="How far the loss on held-out data may rise; by default within one standard error.",
        ),
    ] = None,
    cost: Annotated[
        str,
        typer.Option(metavar="COST", help="What removing whole units is to save: weights or multiply-adds."),
    ] = "weights",
    multiply_adds: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Remove whole units until this share of the work is left."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Steps that it takes, at most.")] = 12,
    recover: Annotated[
        int,
        typer.Option(min=0, metavar="EPOCHS", help="Train what is left for so long, by the run's method."),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New or empty; RUN-pruned by default.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Networks averaged in the test.")] = 100,
    data_dir: DataDir = None,
    network: RunNetwork = None,
    data: RunData = None,
) -> None:
    """Remove more of a finished run's network, judge it, and write a new run."""
    given = dict(locals())
    from secateur.reports import run_page, terminal
    from secateur.training.prune_run import prune_run

    console = Console()
    apart = {"run", "out", "samples", "network", "data"}
    options = {name: value for name, value in given.items() if name not in apart}
    with current_directory_first():
        pruned = prune_run(
            run,
            out=out or run.with_name(f"{run.resolve().name}-pruned"),
            num_samples=samples,
            command=command_line(prune, given),
            progress=for_console(console),
            **options,
            **own_parts(network, data),
        )
    run_page.write(pruned.directory)
    terminal.show_run(pruned.directory, console)
    terminal.show_pruned(pruned, console)


def compact(
    run: FinishedRun,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="RUN/compact.safetensors by default.")
    ] = None,
    multiple_of: Annotated[
        int, typer.Option(min=1, help="Round the units that a layer keeps up to a multiple of this.")
    ] = 1,
    network: RunNetwork = None,
) -> None:
    """Remove dead units from a run's network, save it, and print the remaining size of each layer."""
    from secateur.export.finished_run import compact_run
    from secateur.reports import terminal

    with current_directory_first():
        exported = compact_run(run, out=out, multiple_of=multiple_of, **own_parts(network))
    terminal.show_compact(exported, run, Console())


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
    network: RunNetwork = None,
) -> None:
    """Write the compact network of a run to a file that was checked against it."""
    from secateur.export.finished_run import export_run
    from secateur.reports import terminal

    with current_directory_first():
        exported = export_run(run, to=to, out=out, num_samples=samples, batch=batch, **own_parts(network))
    terminal.show_exported(exported, Console())


def bench(
    run: FinishedRun,
    dense: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run of the same network with all its weights, to compare with."),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size; may be repeated. 1, 32 and 256 by default.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each batch size, over all variants.")] = 5.0,
    multiple_of: Annotated[
        int, typer.Option(min=1, help="Compact network: round units up to a multiple of this.")
    ] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to compute with; all by default.")
    ] = None,
    data_dir: DataDir = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy/--no-accuracy", help="Judge each variant on the test set.")
    ] = True,
    network: RunNetwork = None,
    data: RunData = None,
) -> None:
    """Measure a run's network dense, masked, compact and in onnxruntime.

    Variants take turns call by call. The table is kept in RUN/bench.json and shown in the report.
    """
    import torch

    from secateur.export.finished_run import measure_run
    from secateur.reports import run_page, terminal

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with current_directory_first():
            measure_run(
                run,
                dense=dense,
                batches=tuple(batch or (1, 32, 256)),
                seconds=seconds,
                multiple_of=multiple_of,
                data_dir=data_dir,
                accuracy=accuracy,
                **own_parts(network, data),
            )
    finally:
        torch.set_num_threads(before)
    run_page.write(run)
    terminal.show_measured(run, Console())
