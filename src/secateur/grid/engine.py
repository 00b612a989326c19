"""Run the cells of a grid on an engine: threads of this process, Dask, or SLURM; a failed run stops no other.

A run is the process `python -m secateur fit ... --resume` on its own directory. All state is there: whatever
happens to this process, to the engine or to a worker, a run loses at most the epoch it was in, and its lock
keeps a second process away. An engine is anything with the `submit` of `concurrent.futures.Executor`.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from secateur.errors import ArtifactError, SecateurError, UsageError, in_a_line
from secateur.grid import jobs as jobs_of
from secateur.grid.cells import Cell, RunOptions
from secateur.grid.jobs import Launch, run_job, use_gpu
from secateur.grid.progress import Row, is_finished, run_progress
from secateur.runs.files import open_appending, open_exclusive

__all__ = ["Engine", "GridView", "dask", "local", "rows_of", "run_cells", "slurm"]

SECONDS_TO_CONNECT = 20
MINUTES_IN_QUEUE = 60 * 24 * 7  # a run that is cut short goes on with the next comparison


@runtime_checkable
class Engine(Protocol):
    """`concurrent.futures.Executor`, as far as it is needed here; submitit's executors are none."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Have a function called somewhere; return a future, with `done`, `result` and `cancel`."""


@runtime_checkable
class GridView(Protocol):
    """Display of a running comparison."""

    def started(self, row: Row) -> None:
        """Note that a run has begun."""

    def ended(self, row: Row) -> None:
        """Note that a run has finished or failed."""

    def tick(self) -> None:
        """Show the rows as they are now; called some times a second."""


def rows_of(cells: Sequence[Cell], out: Path, options: RunOptions) -> list[Row]:
    """Return one row for each cell: skipped where its run is finished, else waiting."""
    return [
        Row(
            cell,
            run_progress(cell, out, options),
            "skipped" if is_finished(cell, out, options) else "waiting",
        )
        for cell in cells
    ]


def run_cells(
    rows: Sequence[Row], launch: Launch, *, engine: Engine, jobs: int | None, view: GridView
) -> None:
    """Run the waiting cells in order, and update their rows.

    Args:
        rows: All cells; those that wait are run.
        launch: Options to launch the process of a cell.
        engine: Where they run.
        jobs: Runs at once; None leaves that to the engine.
        view: Is told of each start and end, and asked to show the rows in between.

    Raises:
        KeyboardInterrupt: On Ctrl-C, once all runs have been stopped; what they had not finished waits again.
        ArtifactError: If a log cannot be written.
    """
    waiting = [row for row in rows if row.state == "waiting"]
    pending: dict[str, tuple[Row, Any, int]] = {}
    try:
        while waiting or pending:
            while waiting and (jobs is None or len(pending) < jobs):
                row = waiting.pop(0)
                log_end = _log_end(row, launch)
                pending[row.cell.name] = row, engine.submit(run_job, launch.job(row.cell)), log_end
            view.tick()
            time.sleep(jobs_of.POLL_SECONDS * (1 + len(pending) / 50))  # many logs take a while to look at
            for name, (row, future, log_end) in [*pending.items()]:
                done = future.done()  # before a look at what it wrote
                if row.state == "waiting" and _has_grown(row.cell.log(launch.out), log_end):
                    row.state = "running"
                    view.started(row)
                if row.state == "running" or done:
                    row.progress = run_progress(row.cell, launch.out, launch.options)
                if done:
                    del pending[name]
                    _end(row, future, launch)
                    view.ended(row)
        view.tick()
    finally:
        _stop([(row, future) for row, future, _ in pending.values()], launch)


def _log_end(row: Row, launch: Launch) -> int:
    """Return the size of a log, made if it is missing."""
    path = row.cell.log(launch.out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.is_symlink():
            raise OSError(f"{path.parent} is a link")
        with open_appending(path) as log:
            return log.tell()
    except OSError as error:
        raise ArtifactError(
            f"{path}: expected to write it, got: {error}; free space or choose another --out"
        ) from error


def _has_grown(log: Path, size: int) -> bool:
    with suppress(OSError):
        return log.stat().st_size > size
    return False


def _end(row: Row, future: Any, launch: Launch) -> None:
    """Note what came of a run that has ended."""
    try:
        row.reason = str(future.result())
    except Exception as error:  # of the engine: a worker that died too often, a queue that refused
        row.reason = in_a_line(error)
    if is_finished(row.cell, launch.out, launch.options) and not row.reason:
        row.state = "finished"
        return
    row.state = "failed"
    row.reason = row.reason or (
        f"expected a finished run (metrics.json) with these options, got none; see {row.cell.log(launch.out)}"
    )


def _stop(running: Sequence[tuple[Row, Any]], launch: Launch) -> None:
    """End what still runs, wherever it does, by a file that all runs look for."""
    if not running:
        return
    stop = launch.out / launch.stop
    with suppress(OSError):
        open_exclusive(stop).close()
    for row, future in running:
        if row.state == "waiting":
            future.cancel()
    with suppress(KeyboardInterrupt):  # asked for a second time: whoever is left sees the file
        until = time.monotonic() + 1.5 * jobs_of.SECONDS_TO_STOP
        while not all(future.done() for _, future in running) and time.monotonic() < until:
            time.sleep(jobs_of.POLL_SECONDS)
        time.sleep(2 * jobs_of.POLL_SECONDS)  # some may have begun while they were taken back
        with suppress(OSError):
            stop.unlink()
    for row, _ in running:
        row.state = "waiting"


@contextmanager
def local(jobs: int, *, device: str = "cpu") -> Iterator[Engine]:
    """Yield an engine of threads, each of which starts a fresh process for every run.

    Args:
        jobs: Runs at once.
        device: Where they train; runs on CUDA take turns at the machine's GPUs, one each.
    """
    import torch

    num_gpus = torch.cuda.device_count() if device in {"auto", "cuda"} else 0
    numbers = itertools.count()

    def take_gpu() -> None:
        if num_gpus > 1:
            use_gpu(next(numbers) % num_gpus)

    with ThreadPoolExecutor(jobs, initializer=take_gpu) as pool:
        yield pool


@contextmanager
def dask(address: str, *, jobs: int, device: str = "cpu") -> Iterator[Engine]:
    """Yield an engine of Dask workers, which see the same files.

    Args:
        address: Of the scheduler, such as `tcp://node1:8786`; `local` starts one, with workers, here.
        jobs: Workers of a scheduler started here.
        device: Where runs train. Where workers offer the resource `GPU`, a run on CUDA takes one of them.

    Raises:
        SecateurError: If Dask is not installed, or there is no scheduler at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise _not_installed("distributed", "--scheduler") from None
    with ExitStack() as stack:
        try:
            cluster: Any = address
            if address == "local":
                cluster = stack.enter_context(
                    LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
                )
            client = Client(cluster, timeout=SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:  # a timeout among them
            raise UsageError(
                f"--scheduler: expected the address of a Dask scheduler or local, got {address!r}: "
                f"{in_a_line(error)}"
            ) from error
        stack.enter_context(client)
        workers = client.scheduler_info()["workers"].values()
        offered = device != "cpu" and any("GPU" in worker["resources"] for worker in workers)
        yield client.get_executor(pure=False, resources={"GPU": 1} if offered else {})


@contextmanager
def slurm(
    partition: str, out: Path, *, threads: int, device: str = "cpu", cluster: str = "slurm"
) -> Iterator[Engine]:
    """Yield an engine that submits every run to SLURM.

    Args:
        partition: Where to submit to.
        out: Directory of the comparison, on a file system that all nodes see.
        threads: Cores of each run.
        device: Where runs train; those on CUDA ask for one GPU each.
        cluster: Kind of the queue, as `submitit.AutoExecutor` calls it.

    Raises:
        SecateurError: If submitit is not installed, or this machine has no SLURM.
    """
    try:
        import submitit
    except ImportError:
        raise _not_installed("submitit", "--slurm") from None
    # Its files are pickled: a new folder, which only this user can enter, holds no others.
    with tempfile.TemporaryDirectory(prefix=".slurm.draft.", dir=out) as folder:
        try:
            executor = submitit.AutoExecutor(folder, cluster=cluster)
        except RuntimeError as error:
            raise SecateurError(f"--slurm: expected a machine that submits to SLURM, got: {error}") from error
        executor.update_parameters(
            name="secateur",
            slurm_partition=partition,
            cpus_per_task=threads,
            gpus_per_node=1 if device.startswith("cuda") else 0,
            timeout_min=MINUTES_IN_QUEUE,
        )
        yield executor


def _not_installed(package: str, option: str) -> SecateurError:
    return SecateurError(
        f"{option}: expected the package {package}, got none; pip install 'secateur[cluster]'"
    )
