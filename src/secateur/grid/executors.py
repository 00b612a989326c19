"""Run the cells of a grid as parallel processes; a failed run does not stop the others.

A run is `python -m secateur fit ... --resume` on its own directory. Whatever happens to this process, a run's
directory holds its last finished epoch, and the next comparison goes on from there.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO

from secateur.errors import ArtifactError
from secateur.grid.cells import Cell, RunOptions
from secateur.grid.progress import RunProgress, is_finished, run_progress
from secateur.runs.writing import open_appending

__all__ = ["THREADS_VARIABLE", "GridView", "Launch", "Row", "num_cores", "rows_of", "run_cells"]

POLL_SECONDS = 0.2
SECONDS_TO_STOP = 20.0  # after SIGINT; a run that is still reading its data may be slow to notice
THREADS_VARIABLE = "OMP_NUM_THREADS"


@dataclass
class Row:
    """State and progress of one cell.

    Attributes:
        cell: The cell.
        progress: Progress of its run.
        state: waiting, running, finished, skipped (finished before) or failed.
        reason: Why it failed.
        log: What the run printed, if it was started.
    """

    cell: Cell
    progress: RunProgress
    state: str = "waiting"
    reason: str = ""
    log: Path | None = None


class GridView(ABC):
    """Display of a running comparison; a context manager."""

    @abstractmethod
    def started(self, row: Row) -> None:
        """Note that a run has begun."""

    @abstractmethod
    def ended(self, row: Row) -> None:
        """Note that a run has finished or failed."""

    @abstractmethod
    def tick(self) -> None:
        """Show the rows as they are now; called some times a second."""

    @abstractmethod
    def close(self) -> None:
        """End."""

    def __enter__(self) -> "GridView":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Options to launch the process of a cell.

    Attributes:
        out: Directory of the comparison.
        options: What all runs share.
        device: As `secateur fit` takes it.
        data_dir: Folder with data sets, if any.
        threads: Threads of each run, unless the environment says.
        held: Descriptors that runs inherit, such as the lock's.
    """

    out: Path
    options: RunOptions
    device: str = "auto"
    data_dir: Path | None = None
    threads: int = 1
    held: tuple[int, ...] = ()

    def command(self, cell: Cell) -> list[str]:
        """Return the command line of a cell's run."""
        words = [sys.executable, "-m", "secateur", "fit", cell.network, cell.data]
        words += ["--method", cell.method, "--seed", str(cell.seed), "--device", self.device]
        words += self.options.words(cell)
        if self.data_dir is not None:
            words += ["--data-dir", str(self.data_dir)]
        return [*words, "--out", str(cell.directory(self.out)), "--resume"]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a run, from that of this process."""
        return {THREADS_VARIABLE: str(self.threads), **given, "PYTHONUNBUFFERED": "1"}


@dataclass
class _Run:
    """A process and its log."""

    row: Row
    process: subprocess.Popen[bytes]
    log: BinaryIO
    log_start: int


def num_cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def run_cells(rows: Sequence[Row], launch: Launch, *, jobs: int, view: GridView) -> None:
    """Run the waiting cells in order, and update their rows.

    Args:
        rows: All cells; those that wait are run.
        launch: Options to launch the process of a cell.
        jobs: Runs at once.
        view: Is told of each start and end, and asked to show the rows in between.

    Raises:
        KeyboardInterrupt: On SIGINT, SIGTERM or SIGHUP, once all runs have been stopped; what they had not
            finished waits again.
        ArtifactError: If a log cannot be written.
    """
    waiting = [row for row in rows if row.state == "waiting"]
    running: list[_Run] = []
    with _interrupted_by(signal.SIGTERM, signal.SIGHUP):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(_start(waiting[0], launch))
                    view.started(waiting.pop(0))
                view.tick()
                time.sleep(POLL_SECONDS)
                for run in [*running]:
                    if run.process.poll() is None:
                        run.row.progress = run_progress(run.row.cell, launch.out, launch.options)
                        continue
                    running.remove(run)
                    _end(run, launch)
                    view.ended(run.row)
            view.tick()
        finally:
            _stop(running)


def _start(row: Row, launch: Launch) -> _Run:
    path, command = row.cell.log(launch.out), launch.command(row.cell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = open_appending(path)
    except OSError as error:
        raise ArtifactError(
            f"{path}: expected to write it, got: {error}; free space or choose another --out"
        ) from error
    # Its own process group: Ctrl-C in a terminal reaches this process alone, which then passes it on once.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=launch.environment(os.environ),
        process_group=0,
        pass_fds=launch.held,
    )
    row.state, row.log = "running", path
    return _Run(row, process, log, log.tell())


def _end(run: _Run, launch: Launch) -> None:
    """Note what came of a run whose process has ended."""
    run.log.close()
    row, code = run.row, run.process.returncode
    row.progress = run_progress(row.cell, launch.out, launch.options)
    if code == 0 and is_finished(row.cell, launch.out, launch.options):
        row.state = "finished"
        return
    row.state = "failed"
    assert row.log is not None
    last = _last_line(row.log, run.log_start)
    if code == 0:
        row.reason = f"expected a finished run (metrics.json) with these options, got none; see {row.log}"
        return
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        last = f"ended by {name}; the last line of its log is: {last}" if last else f"ended by {name}"
    row.reason = last or f"exit code {code}, and nothing in its log"


def _last_line(log: Path, start: int) -> str:
    """Return the last line that was written to a log after some position."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "").removeprefix("Error: ")


def _stop(running: Sequence[_Run]) -> None:
    """End what still runs: gently, then not."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # inherited by the runs, as under nohup
    for run in running:
        with suppress(ProcessLookupError):
            run.process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
    try:
        until = time.monotonic() + SECONDS_TO_STOP
        for run in running:
            run.process.wait(max(0.0, until - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # too slow, or asked for a second time
        for run in running:
            run.process.kill()
    for run in running:
        run.process.wait()
        run.log.close()
        run.row.state = "waiting"


@contextmanager
def _interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Let signals do what Ctrl-C does; those that are ignored, as SIGHUP under nohup, stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: dict[signal.Signals, Callable[..., object] | int | None] = {}
    for number in signals:
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN:
            before[number] = handler
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
