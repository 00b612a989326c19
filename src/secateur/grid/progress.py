"""How far the runs of a grid are, read from their directories, and how long the rest takes.

Reading does not fail: a file that is missing or damaged says nothing, and the run itself will complain of it.
Times are those of finished epochs, of unfinished runs too.
"""

import heapq
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from secateur import training
from secateur.data import registered_name
from secateur.errors import ArtifactError
from secateur.grid.cells import Cell, RunOptions
from secateur.runs import RunDirectory, read_json
from secateur.runs.files import read_bytes
from secateur.runs.reading import decode, read_object
from secateur.runs.records import Config, Epoch, Number

__all__ = ["Row", "RunProgress", "epoch_seconds", "is_finished", "makespan", "run_progress", "seconds_left"]


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """Epochs done, time and scores of a run so far; nan where unknown.

    Attributes:
        epoch: Epochs done.
        epochs: Epochs of the whole run.
        seconds: Time spent in the epochs done.
        written_at: When the last of them was written, in seconds since 1970.
        accuracy: Share of test images that are right: of the average over samples once the run is judged, of
            the posterior-mean network until then.
        negative_log_likelihood: Nats per test image, of the same network.
        sparsity: Share of all weights removed.
    """

    epoch: int = 0
    epochs: int
    seconds: float = 0.0
    written_at: float = math.nan
    accuracy: float = math.nan
    negative_log_likelihood: float = math.nan
    sparsity: float = math.nan

    def seconds_left(self, now: float | None = None) -> float:
        """Return the training time left at the pace so far; nan before the first epoch is done.

        Args:
            now: Seconds since 1970 for a run that goes on; None for one that stands still.
        """
        if not self.epoch:
            return math.nan
        left = self.seconds / self.epoch * (self.epochs - self.epoch)
        return left if now is None else max(0.0, left - max(0.0, now - self.written_at))


@dataclass
class Row:
    """State and progress of one cell.

    Attributes:
        cell: The cell.
        progress: Progress of its run.
        state: waiting, running, finished, skipped (finished before) or failed.
        reason: Why it failed.
    """

    cell: Cell
    progress: RunProgress
    state: str = "waiting"
    reason: str = ""


@dataclass(frozen=True)
class _Judged:
    accuracy: Number = math.nan
    negative_log_likelihood: Number = math.nan
    sparsity: Number = math.nan


def run_progress(cell: Cell, out: Path, options: RunOptions) -> RunProgress:
    """Read the progress of a cell's run.

    Args:
        cell: The cell.
        out: Directory of the comparison.
        options: Say how many epochs a run that has not begun will have.
    """
    directory = RunDirectory(cell.directory(out))
    epochs, written_at = options.epochs, time.time()
    last: Epoch | None = None
    judged: _Judged | None = None
    with suppress(ArtifactError):
        epochs = read_object(directory.config, Config)[0].epochs or epochs
    with suppress(ArtifactError, OSError, IndexError):
        written_at = directory.history.stat().st_mtime
        last, _ = decode(directory.history, read_bytes(directory.history).splitlines()[-1], Epoch)
    with suppress(ArtifactError):
        judged = read_object(directory.metrics, _Judged)[0]
    scores = judged or last
    return RunProgress(
        epoch=0 if last is None else last.epoch,
        epochs=epochs or training.method_named(cell.method).default_epochs,
        seconds=0.0 if last is None else last.seconds,
        written_at=written_at,
        accuracy=math.nan if scores is None else scores.accuracy,
        negative_log_likelihood=math.nan if scores is None else scores.negative_log_likelihood,
        sparsity=math.nan if scores is None else scores.sparsity,
    )


def is_finished(cell: Cell, out: Path, options: RunOptions) -> bool:
    """Return whether the run of a cell is finished, with these options.

    Args:
        cell: The cell.
        out: Directory of the comparison.
        options: What the run must have been made with, where they are given.
    """
    directory = RunDirectory(cell.directory(out))
    try:
        config = read_object(directory.config, Config)[0]
        if not read_json(directory.metrics):
            return False
    except ArtifactError:
        return False
    data = config.data if config.data == cell.data else registered_name(config.data)
    made = Cell(config.network, data, config.method, config.seed)
    batch_size = (config.recipe or {}).get("batch_size")
    values = {"epochs": config.epochs, "sparsity": config.sparsity, "batch_size": batch_size}
    given = options.of(cell)
    same = all(given.get(name, value) == value for name, value in values.items())
    return made == cell and same and (config.augment, config.autocast) == (options.augment, options.autocast)


def epoch_seconds(row: Row, rows: Sequence[Row]) -> float:
    """Return the seconds of an epoch of a run; nan where no run has finished an epoch yet.

    They are the run's own, else the median of runs of its network, data and method, else of its network and
    data, else of all.

    Args:
        row: The run.
        rows: All runs.
    """
    own = (row.cell.network, row.cell.data, row.cell.method)
    for alike in ([row], *_alike(own, rows)):
        known = [each.progress.seconds / each.progress.epoch for each in alike if each.progress.epoch]
        if known := [seconds for seconds in known if seconds > 0]:
            return statistics.median(known)
    return math.nan


def _alike(own: tuple[str, ...], rows: Sequence[Row]) -> list[list[Row]]:
    kinds = [(row.cell.network, row.cell.data, row.cell.method) for row in rows]
    return [[row for row, kind in zip(rows, kinds, strict=True) if kind[:n] == own[:n]] for n in (3, 2, 0)]


def seconds_left(rows: Sequence[Row], jobs: int, *, now: float) -> float:
    """Estimate the remaining training time; nan before the first epoch of any run is done.

    Args:
        rows: All cells.
        jobs: Runs at once.
        now: Seconds since 1970.
    """
    durations = []
    for row in sorted(rows, key=lambda row: row.state != "running"):
        if row.state == "running" and row.progress.epoch:
            durations.append(row.progress.seconds_left(now))
        elif row.state in {"running", "waiting"}:
            durations.append(epoch_seconds(row, rows) * (row.progress.epochs - row.progress.epoch))
    return makespan(durations, jobs)


def makespan(durations: Sequence[float], jobs: int) -> float:
    """Return the total time of runs that start in order on `jobs` workers.

    Args:
        durations: Seconds of each; nan makes the result nan.
        jobs: Runs at once.

    >>> makespan([3.0, 1.0, 1.0, 1.0], 2)
    3.0
    """
    if any(map(math.isnan, durations)):
        return math.nan
    free_at = [0.0] * min(jobs, max(1, len(durations)))
    for seconds in durations:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)
