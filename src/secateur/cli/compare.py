"""`secateur compare`: fit every method on every network and data set."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from secateur import networks as network_table
from secateur import training
from secateur.cli.failures import FAILED, complain
from secateur.cli.invocation import command_line
from secateur.cli.options import Augment, Autocast, DataDir, Device, Sparsity
from secateur.cli.own import Ignore, ImageSize, LikelihoodName, Target, Task, TestData, likelihood_of
from secateur.data import names as data_names
from secateur.errors import UsageError
from secateur.grid import engine
from secateur.grid.cells import (
    RECORD,
    RunOptions,
    add_grid,
    own_functions,
    parse_names,
    parse_seeds,
    read_record,
    write_record,
)
from secateur.grid.engine import Engine, rows_of, run_cells
from secateur.grid.jobs import Launch, num_cores
from secateur.grid.progress import Row, seconds_left
from secateur.grid.view import estimate_table, shown_on
from secateur.runs import formatting
from secateur.runs.directory import only_writer
from secateur.training.device import resolve_device

__all__ = ["EXAMPLE", "compare"]

EXAMPLE = (
    "Example: secateur compare --networks mlp,lenet --methods calibrated,flat-map --seeds 0,1,2 --jobs 2 "
    "--out comparison"
)
LOCK = "comparison.lock"
PLAIN_WIDTH = 140  # of a table that goes to a file
PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}


def compare(
    networks: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Of {', '.join(network_table.names())}, or your own as package.module:function (this runs "
            "its code); lenet by default.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Of {', '.join(data_names())}, or your own as secateur fit takes them; fashion-mnist by "
            "default.",
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
    sparsity: Sparsity = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; 1 by default, on a cluster what it takes.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Run on the workers of a Dask scheduler; local starts one here."
        ),
    ] = None,
    slurm: Annotated[
        str | None, typer.Option(metavar="PARTITION", help="Submit each run to this partition of SLURM.")
    ] = None,
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
    target: Target = None,
    task: Task = None,
    likelihood: LikelihoodName = None,
    test_data: TestData = None,
    test_share: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of own data to judge by; 0.2 by default.")
    ] = None,
    ignore: Ignore = None,
    image_size: ImageSize = None,
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
        likelihood=likelihood_of(task, likelihood),
        target=tuple(target or ()),
        ignore=tuple(ignore or ()),
        test_data=test_data,
        test_share=test_share,
        image_size=image_size,
    )
    axes = {
        "networks": None if networks is None else parse_names(networks, "networks"),
        "data": None if data is None else parse_names(data, "data"),
        "methods": None if methods is None else parse_names(methods, "methods"),
        "seeds": None if seeds is None else parse_seeds(seeds),
    }
    # Whatever can be wrong with the whole is looked at before the first file is touched.
    if scheduler is not None and slurm is not None:
        raise UsageError("expected one of --scheduler and --slurm, got both")
    if scheduler is None and slurm is None:
        resolve_device(device)  # another machine may have another
    wanted = add_grid(read_record(out), axes, options, out=out)
    typed = {name for axis in ("networks", "data") for name in axes[axis] or ()}
    if untyped := sorted(own_functions(wanted) - typed):
        # a name in a file is never imported
        raise UsageError(
            f"{out}: expected own networks and data to be typed, got {untyped[0]} from {RECORD} alone; give "
            "it by --networks or --data as well, which imports it, if you trust it"
        )
    if dry_run:
        _print_estimate(rows_of(wanted.cells(), out, wanted.options), out, console, jobs=jobs or 1)
        return
    with only_writer(out, what="comparison there", lock=LOCK):
        wanted = add_grid(read_record(out), axes, options, out=out)
        write_record(out, wanted)
        rows = rows_of(wanted.cells(), out, wanted.options)
        try:
            with ExitStack() as stack:
                threads = max(1, num_cores() // (jobs or 1))
                where = stack.enter_context(
                    _engine(scheduler, slurm, jobs=jobs or 1, out=out, threads=threads, device=device)
                )
                own_cores = scheduler not in {None, "local"} or slurm is not None
                launch = Launch(
                    out=out,
                    options=wanted.options,
                    device=device,
                    data_dir=data_dir,
                    threads=None if own_cores else threads,
                )
                view = stack.enter_context(shown_on(console, rows, jobs or 1))
                run_cells(rows, launch, engine=where, jobs=jobs, view=view)
        except KeyboardInterrupt:
            complain(
                f"interrupted; finished epochs are kept in {out}, go on with: {command_line(compare, given)}"
            )
            raise typer.Exit(FAILED) from None
        failed = [row for row in rows if row.state == "failed"]
        if len(failed) < len(rows):
            from secateur.reports import comparison  # matplotlib: only where it is needed

            here = device if scheduler is None and slurm is None else "auto"
            console.print(f"Comparison: {comparison.write(out, data_dir=data_dir, device=here)}", **PLAIN)
    for row in failed:
        complain(f"{row.cell.name}: {row.reason} (log: {row.cell.log(out)})")
    if failed:
        raise typer.Exit(FAILED)


@contextmanager
def _engine(
    scheduler: str | None, slurm: str | None, *, jobs: int, out: Path, threads: int, device: str
) -> Iterator[Engine]:
    """Yield the engine that the options name."""
    if scheduler is not None:
        chosen = engine.dask(scheduler, jobs=jobs, device=device)
    elif slurm is not None:
        chosen = engine.slurm(slurm, out, threads=threads, device=device)
    else:
        chosen = engine.local(jobs, device=device)
    with chosen as found:
        yield found


def _print_estimate(rows: list[Row], out: Path, console: Console, *, jobs: int) -> None:
    """Print what there is to run, and how long it takes."""
    ahead = [row for row in rows if row.state == "waiting"]
    wide = console if console.is_terminal else Console(width=PLAIN_WIDTH)  # a file has no edge to fold at
    wide.print(estimate_table(rows))
    console.print()
    console.print(f"{len(rows)} runs in {out}, {len(rows) - len(ahead)} of them finished.", **PLAIN)
    left = seconds_left(rows, jobs, now=0.0)
    if ahead and left == left:
        console.print(
            f"About {formatting.duration(left)} for the rest, {jobs} at once, by the finished epochs of the "
            "runs there; the final judgement of each run comes on top.",
            **PLAIN,
        )
    elif ahead:
        console.print("The time for them is known once the first run has finished an epoch.", **PLAIN)
