"""Estimate the time of a comparison from its finished runs, or from training steps timed now."""

import heapq
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from secateur import networks, training
from secateur.data import Dataset, Split, load, registered_name
from secateur.errors import ArtifactError
from secateur.grid.cells import Cell, RunOptions
from secateur.runs.directory import RunDirectory, read_json
from secateur.training.device import resolve_device
from secateur.training.progress import SilentProgress

__all__ = ["DataShape", "Pace", "iterations_per_epoch", "makespan", "pace_of_finished", "paces", "timed_pace"]

MOST_TIMED_STEPS, FEWEST_TIMED_STEPS = 10, 2
SECONDS_TO_TIME = 1.0
TIMED_EPOCHS = 10_000  # no method finds that too short for its schedule, and the fit is stopped long before


@dataclass(frozen=True)
class DataShape:
    """Number and shape of training images, and number of classes."""

    num_train: int
    image_shape: tuple[int, int, int]
    num_classes: int

    @classmethod
    def of(cls, data: str, data_dir: Path | None = None) -> "DataShape":
        """Return the shape of a data set; the built-in ones need not be on the machine.

        Raises:
            DataError: If it is not known and cannot be loaded.
        """
        if data in _KNOWN:
            return _KNOWN[data]
        loaded = load(data, data_dir=data_dir)
        return cls(len(loaded.train), loaded.image_shape, loaded.num_classes)


_KNOWN = {
    "digits": DataShape(1437, (1, 8, 8), 10),
    "fashion-mnist": DataShape(60_000, (1, 28, 28), 10),
    "cifar10": DataShape(50_000, (3, 32, 32), 10),
    "cifar100": DataShape(50_000, (3, 32, 32), 100),
}


@dataclass(frozen=True)
class Pace:
    """Training speed of a network on a data set with a method.

    Attributes:
        seconds_per_iteration: Of a training step alone.
        seconds_per_epoch: Of all steps of an epoch; where finished runs were measured, of reducing and of
            judging after it too.
        source: `"finished runs"`, or `"timed now"`.
    """

    seconds_per_iteration: float
    seconds_per_epoch: float
    source: str


def iterations_per_epoch(cell: Cell, options: RunOptions, shape: DataShape) -> int:
    """Return the training steps of one epoch of a cell."""
    recipe = _recipe(cell, options, shape)
    num_data = shape.num_train - recipe.num_held_out(shape.num_train)
    return max(1, num_data // (options.batch_size or recipe.batch_size))


def _recipe(cell: Cell, options: RunOptions, shape: DataShape) -> training.Recipe:
    method = training.method_named(cell.method)
    return method.recipe(options.epochs or method.default_epochs, shape.num_train)


def paces(
    cells: Sequence[Cell],
    out: Path,
    options: RunOptions,
    *,
    device: str,
    data_dir: Path | None,
    threads: int,
    before_timing: Callable[[Cell], None] = lambda cell: None,
) -> dict[Cell, Pace]:
    """Estimate the pace of each cell; cells that differ only in the seed share one.

    Args:
        cells: Cells to run.
        out: Directory of the comparison, whose finished runs are looked at; nothing is written.
        options: What all runs share.
        device: As `secateur fit` takes it.
        data_dir: Folder with data sets, if any.
        threads: Threads of each run.
        before_timing: Is told of each cell before training steps are timed for it.

    Raises:
        DataError: If a data set's shape is not known.
        InvalidArgumentError: If there is no such device.
    """
    finished = pace_of_finished(out, device=device)
    timed: dict[tuple[object, ...], float] = {}
    found = {}
    for cell in cells:
        kind = (cell.network, cell.data, cell.method)
        if kind in finished:
            found[cell] = finished[kind]
            continue
        shape = DataShape.of(cell.data, data_dir)
        recipe = _recipe(cell, options, shape)
        size = networks.image_size(cell.network)
        image = shape.image_shape if size is None else (shape.image_shape[0], size, size)
        batch_size = options.batch_size or recipe.batch_size
        key = (cell.network, cell.method, image, shape.num_classes, batch_size)
        if key not in timed:
            before_timing(cell)
            with _threads(threads):
                timed[key] = timed_pace(
                    cell, image, shape.num_classes, batch_size, options=options, device=device
                )
        seconds = timed[key]
        found[cell] = Pace(seconds, seconds * iterations_per_epoch(cell, options, shape), "timed now")
    return found


def pace_of_finished(out: Path, *, device: str) -> dict[tuple[str, str, str], Pace]:
    """Return the median pace of a directory's finished runs by network, data and method.

    Args:
        out: Directory of the comparison, which need not exist.
        device: Where the runs must have been made.

    Raises:
        InvalidArgumentError: If there is no such device.
    """
    where = str(resolve_device(device))
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for path in sorted(out.glob("runs/*/metrics.json")):
        directory = RunDirectory(path.parent)
        try:
            config, metrics = read_json(directory.config), read_json(directory.metrics)
            if config["device"] == where:
                pace = float(metrics["seconds_per_iteration"]), float(metrics["seconds"]) / config["epochs"]
                kind = config["network"], registered_name(config["data"]), config["method"]
                found.setdefault(kind, []).append(pace)
        except (ArtifactError, KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
            continue  # a damaged run has no pace; running it will say what is wrong
    medians = {
        kind: [statistics.median(each) for each in zip(*pairs, strict=True)] for kind, pairs in found.items()
    }
    return {kind: Pace(step, epoch, "finished runs") for kind, (step, epoch) in medians.items()}


def timed_pace(
    cell: Cell,
    image_shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    *,
    options: RunOptions,
    device: str = "cpu",
    seed: int = 0,
) -> float:
    """Time training steps on random images, eager; return the median in seconds.

    The steps are those of the built-in loop, which is stopped after them.

    Args:
        cell: Says which network and method.
        image_shape: Channels, height and width that the network gets.
        num_classes: Number of classes.
        batch_size: Examples per step.
        options: Say whether to augment and to compute in bfloat16.
        device: Where to train.
        seed: Seeds the images.
    """
    generator = torch.Generator().manual_seed(seed)
    num_data = 2 * batch_size * (MOST_TIMED_STEPS + 2)  # more than enough, whatever share is held out
    images = torch.randn(num_data, *image_shape, generator=generator)
    labels = torch.arange(num_data) % num_classes
    split = Split(images, labels)
    classes = tuple(map(str, range(num_classes)))
    data = Dataset(cell.data, split, split, num_classes, classes)
    flags = {name: True for name in ("augment", "autocast") if getattr(options, name)}
    stopwatch = _Stopwatch(on_cuda=resolve_device(device).type == "cuda")
    with suppress(_EnoughError):
        training.fit(
            cell.network,
            data,
            method=cell.method,
            epochs=TIMED_EPOCHS,
            batch_size=batch_size,
            device=device,
            compile=False,
            progress=stopwatch,
            **flags,  # type: ignore[arg-type]
        )
    return statistics.median(stopwatch.durations())


class _EnoughError(Exception):
    """Ends a fit of which only some steps were wanted."""


class _Stopwatch(SilentProgress):
    """Notes when each step ends, and ends the fit."""

    def __init__(self, *, on_cuda: bool) -> None:
        self.on_cuda = on_cuda
        self.times: list[float] = []

    def durations(self) -> list[float]:
        """Return the seconds of each step after the first, which also allocates."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    def step(self, step: int, loss: float | None = None) -> None:
        """Note the time; end the fit once there are enough."""
        if self.on_cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        num_timed = len(self.times) - 1
        enough = num_timed >= FEWEST_TIMED_STEPS and self.times[-1] - self.times[0] >= SECONDS_TO_TIME
        if enough or num_timed >= MOST_TIMED_STEPS:
            raise _EnoughError


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


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
