"""`secateur compare`: fit every method on every network and data set."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from secateur import networks as network_table
from secateur import training
from secateur.cli.failures import FAILED, complain
from secateur.cli.invocation import command_line
from secateur.cli.options import Augment, Autocast, DataDir, Device
from secateur.data import names as data_names
from secateur.grid.cells import RunOptions, parse_names, parse_seeds
from secateur.grid.estimate import makespan, paces
from secateur.grid.executors import THREADS_VARIABLE, Launch, num_cores, rows_of, run_cells
from secateur.grid.live_view import estimate_table, grid_for_console
from secateur.grid.lock import locked
from secateur.grid.record import GridRecord, add_grid, read_record, write_record
from secateur.runs import formatting
from secateur.training.device import resolve_device

__all__ = ["EXAMPLE", "compare"]

EXAMPLE = (
    "Example: secateur compare --networks mlp,lenet --methods calibrated,flat-map --seeds 0,1,2 --jobs 2 "
    "--out comparison"
)
PLAIN_WIDTH = 140  # of a table that goes to a file
PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
SOURCES = {
    "finished runs": "the pace of runs of the same network, data and method in this directory.",
    "timed now": "the median of a few training steps on random images on this machine, eager and alone; "
    "compiled steps take less, runs beside each other more, judging after each epoch is left out.",
}


def compare(
    networks: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Of {', '.join(network_table.names())}; lenet by default.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Of {', '.join(data_names())}; fashion-mnist by default.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help=f"Of {', '.join(training.method_names())}; all by default."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="NUMBERS", help="0 by default.")] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Holds all runs and results; may hold some already.")
    ] = Path("comparison"),
    epochs: Annotated[int | None, typer.Option(min=1, help="By default each method's recipe.")] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of weights to remove, for methods that remove any; else each decides."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    device: Device = "auto",
    data_dir: DataDir = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Networks averaged in the final test; 100 by default.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the recipes'.")] = None,
    augment: Augment = False,
    autocast: Autocast = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run and how long it takes; write nothing.")
    ] = False,
) -> None:
    """Fit every network to every data set by every method, and put the results side by side.

    Lists are separated by commas. Each run has its own directory below DIR/runs; finished ones are skipped,
    interrupted ones go on, and a failed one does not stop the rest. The same command, or --out DIR alone,
    goes on; another list adds runs.
    """
    given = dict(locals())
    console = Console()
    options = RunOptions(
        epochs=epochs,
        sparsity=sparsity,
        samples=samples,
        batch_size=batch_size,
        augment=augment,
        autocast=autocast,
    )
    axes = {
        "networks": None if networks is None else parse_names(networks, "networks"),
        "data": None if data is None else parse_names(data, "data"),
        "methods": None if methods is None else parse_names(methods, "methods"),
        "seeds": None if seeds is None else parse_seeds(seeds),
    }
    # Whatever can be wrong with the whole is looked at before the first file is touched.
    resolve_device(device)
    wanted = add_grid(read_record(out), axes, options, out=out)
    threads = max(1, num_cores() // jobs)
    if dry_run:
        _print_estimate(wanted, out, console, device=device, data_dir=data_dir, jobs=jobs, threads=threads)
        return
    with locked(out) as lock:
        wanted = add_grid(read_record(out), axes, options, out=out)
        write_record(out, wanted)
        rows = rows_of(wanted.cells(), out, wanted.options)
        launch = Launch(
            out=out, options=wanted.options, device=device, data_dir=data_dir, threads=threads, held=(lock,)
        )
        try:
            with grid_for_console(rows, jobs, console) as view:
                run_cells(rows, launch, jobs=jobs, view=view)
        except KeyboardInterrupt:
            complain(
                f"interrupted; finished epochs are kept in {out}, go on with: {command_line(compare, given)}"
            )
            raise typer.Exit(FAILED) from None
        failed = [row for row in rows if row.state == "failed"]
        if len(failed) < len(rows):
            from secateur.reports import comparison  # matplotlib: only where it is needed

            console.print(f"Comparison: {comparison.write(out, data_dir=data_dir, device=device)}", **PLAIN)
    for row in failed:
        complain(f"{row.cell.name}: {row.reason} (log: {row.log})")
    if failed:
        raise typer.Exit(FAILED)


def _print_estimate(
    wanted: GridRecord,
    out: Path,
    console: Console,
    *,
    device: str,
    data_dir: Path | None,
    jobs: int,
    threads: int,
) -> None:
    """Print what there is to run, and how long it takes."""
    asked = os.environ.get(THREADS_VARIABLE, "")
    threads = int(asked) if asked.isdigit() and int(asked) else threads
    rows = rows_of(wanted.cells(), out, wanted.options)
    ahead = [row for row in rows if row.state == "waiting"]
    with console.status("") as status:
        found = paces(
            [row.cell for row in ahead],
            out,
            wanted.options,
            device=device,
            data_dir=data_dir,
            threads=threads,
            before_timing=lambda cell: status.update(f"timing {cell.method} on {cell.network}"),
        )
    wide = console if console.is_terminal else Console(width=PLAIN_WIDTH)  # a file has no edge to fold at
    wide.print(estimate_table(rows, found))
    left = [found[row.cell].seconds_per_epoch * (row.progress.epochs - row.progress.epoch) for row in ahead]
    sources = {pace.source for pace in found.values()}
    console.print()
    console.print(f"{len(rows)} runs in {out}, {len(rows) - len(ahead)} of them finished.", **PLAIN)
    if ahead:
        console.print(
            f"About {formatting.duration(makespan(left, jobs))} for the rest, {jobs} at once, {threads} "
            f"thread{'s' * (threads > 1)} each; the final judgement of each run comes on top.",
            **PLAIN,
        )
    for source, what in SOURCES.items():
        if source in sources:
            console.print(f"{source}: {what}", **PLAIN)
