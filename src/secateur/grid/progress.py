"""Read the progress of a run from its directory, while it trains and after.

Nothing here fails: a file that is missing or damaged says nothing, and the run itself will complain of it.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur import training
from secateur.data import registered_name
from secateur.errors import ArtifactError
from secateur.grid.cells import Cell, RunOptions
from secateur.runs.directory import RunDirectory, read_json

__all__ = ["RunProgress", "is_finished", "run_progress"]


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


def run_progress(cell: Cell, out: Path, options: RunOptions) -> RunProgress:
    """Read the progress of a cell's run.

    Args:
        cell: The cell.
        out: Directory of the comparison.
        options: Say how many epochs a run that has not begun will have.
    """
    directory = RunDirectory(cell.directory(out))
    epochs = _or_nothing(directory.config).get("epochs") or options.epochs
    if not isinstance(epochs, int):
        epochs = training.method_named(cell.method).default_epochs
    row, written_at = _last_row(directory.history)
    judged = _or_nothing(directory.metrics)
    scores = {**row, **judged}
    return RunProgress(
        epoch=int(_number(row, "epoch", 0.0)),
        epochs=epochs,
        seconds=_number(row, "seconds", 0.0),
        written_at=written_at,
        accuracy=_number(scores, "accuracy"),
        negative_log_likelihood=_number(scores, "negative_log_likelihood"),
        sparsity=_number(scores, "sparsity"),
    )


def is_finished(cell: Cell, out: Path, options: RunOptions) -> bool:
    """Return whether the run of a cell is finished, with these options.

    Args:
        cell: The cell.
        out: Directory of the comparison.
        options: What the run must have been made with, where they are given.
    """
    directory = RunDirectory(cell.directory(out))
    if not _or_nothing(directory.metrics):
        return False
    config = _or_nothing(directory.config)
    named = (config.get("network"), registered_name(str(config.get("data"))), config.get("method"))
    if named != (cell.network, cell.data, cell.method) or config.get("seed") != cell.seed:
        return False
    given = options.of(cell)
    if any(config.get(name) != given[name] for name in ("epochs", "sparsity") if name in given):
        return False
    if any(config.get(name, False) != getattr(options, name) for name in ("augment", "autocast")):
        return False
    recipe = config.get("recipe")
    batch_size = recipe.get("batch_size") if isinstance(recipe, dict) else None
    return given.get("batch_size", batch_size) == batch_size


def _or_nothing(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ArtifactError:
        return {}


def _last_row(path: Path) -> tuple[dict[str, Any], float]:
    """Return the last line of a history, and when it was written."""
    try:
        written_at = path.stat().st_mtime
        row = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}, time.time()
    return row if isinstance(row, dict) else {}, written_at


def _number(values: Mapping[str, Any], key: str, default: float = math.nan) -> float:
    value = values.get(key)
    return float(value) if isinstance(value, int | float) else default
