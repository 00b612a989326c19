"""Display the progress of training: a live bar, one line for each epoch, or nothing.

The loop tells a `Progress` what happens and never asks where it is shown.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, final

from rich.console import Console
from rich.markup import escape

__all__ = ["LiveProgress", "PlainProgress", "Progress", "SilentProgress", "for_console"]


class Progress(ABC):
    """Interface for progress displays; a context manager that closes itself, also on an error.

    The order is `start`, then for every epoch `step` as often as wanted and `epoch` once, then `close`.
    """

    @abstractmethod
    def start(self, *, total_epochs: int, steps_per_epoch: int, resumed_epoch: int = 0) -> None:
        """Begin.

        Args:
            total_epochs: Epochs of the whole run.
            steps_per_epoch: Iterations of one epoch.
            resumed_epoch: Epochs already done by an earlier, interrupted fit.
        """

    @abstractmethod
    def step(self, step: int, loss: float | None = None) -> None:
        """Note that an iteration is done; cheap enough to be called after each.

        Args:
            step: Iterations done since the run began, those of an interrupted fit included.
            loss: Training loss, given only now and then: reading it makes a GPU wait.
        """

    @abstractmethod
    def epoch(self, row: Mapping[str, Any]) -> None:
        """Note that an epoch is done.

        Args:
            row: Its line of `history.jsonl`; the scores are missing where there is no test set.
        """

    @abstractmethod
    def averaging(self, done: int, total: int) -> None:
        """Note that one more of the passes is done that predictions are averaged over.

        Args:
            done: Passes done.
            total: Passes in all.
        """

    @abstractmethod
    def message(self, text: str) -> None:
        """Say something in a line of its own."""

    @abstractmethod
    def close(self) -> None:
        """End; more than once does no harm."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SilentProgress(Progress):
    """Display nothing."""

    def start(self, *, total_epochs: int, steps_per_epoch: int, resumed_epoch: int = 0) -> None:
        """Do nothing."""

    def step(self, step: int, loss: float | None = None) -> None:
        """Do nothing."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def averaging(self, done: int, total: int) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@final
class LiveProgress(Progress):
    """Display one bar over the whole run, with the latest loss, accuracy, sparsity and remaining time."""

    _SECONDS_BETWEEN_UPDATES = 0.1

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar  # here, so that importing the library does not wait for it

        self._bar = Bar(
            TextColumn("{task.fields[what]} {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[scores]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            refresh_per_second=4,  # drawing takes the interpreter from the training thread
            expand=True,
        )
        self._total_epochs, self._steps_per_epoch = 0, 1
        self._scores: dict[str, str] = {}
        self._shown_at = -math.inf

    def start(self, *, total_epochs: int, steps_per_epoch: int, resumed_epoch: int = 0) -> None:
        """Show the bar."""
        self._total_epochs, self._steps_per_epoch = total_epochs, max(steps_per_epoch, 1)
        done = resumed_epoch * self._steps_per_epoch
        self._bar.add_task(
            "fit",
            total=total_epochs * self._steps_per_epoch,
            completed=done,
            what="epoch",
            epoch=self._position(done),
            scores="",
        )
        self._bar.start()

    def step(self, step: int, loss: float | None = None) -> None:
        """Move the bar, at most ten times a second."""
        now = time.monotonic()
        if loss is not None:
            self._scores["loss"] = f"{loss:.3f}"
        elif now - self._shown_at < self._SECONDS_BETWEEN_UPDATES:
            return
        self._shown_at = now
        self._update(step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Show the epoch's scores."""
        self._scores |= dict(_scores(row))
        self._update(row["epoch"] * self._steps_per_epoch)

    def averaging(self, done: int, total: int) -> None:
        """Show a second bar for the passes of one average."""
        if done == 1 or len(self._bar.task_ids) < 2:
            for task in self._bar.task_ids[1:]:
                self._bar.remove_task(task)
            self._bar.add_task("average", total=total, what="pass", epoch="", scores="")
        self._bar.update(self._bar.task_ids[-1], completed=done, epoch=f"{done}/{total}")

    def message(self, text: str) -> None:
        """Print above the bar."""
        self._bar.console.print(escape(text), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop the bar."""
        self._bar.stop()

    def _update(self, step: int) -> None:
        if self._bar.task_ids:
            scores = "  ".join(f"[dim]{name}[/dim] {value}" for name, value in self._scores.items())
            self._bar.update(self._bar.task_ids[0], completed=step, epoch=self._position(step), scores=scores)

    def _position(self, step: int) -> str:
        return f"{min(step // self._steps_per_epoch + 1, self._total_epochs)}/{self._total_epochs}"


@final
class PlainProgress(Progress):
    """Print one line for each epoch, for logs."""

    _SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total_epochs, self._resumed_epoch, self._started_at = 0, 0, 0.0
        self._said_at = time.monotonic()

    def start(self, *, total_epochs: int, steps_per_epoch: int, resumed_epoch: int = 0) -> None:
        """Say how long the run is."""
        self._total_epochs, self._resumed_epoch = total_epochs, resumed_epoch
        self._started_at = time.monotonic()
        after = f", resumed after epoch {resumed_epoch}" if resumed_epoch else ""
        self.message(f"{total_epochs} epochs of {steps_per_epoch} iterations{after}")

    def step(self, step: int, loss: float | None = None) -> None:
        """Do nothing: only whole epochs are shown."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Print the epoch's line."""
        done = row["epoch"] - self._resumed_epoch
        left = (time.monotonic() - self._started_at) / max(done, 1) * (self._total_epochs - row["epoch"])
        scores = [f"{name} {value}" for name, value in _scores(row)]
        width = len(str(self._total_epochs))
        position = f"epoch {row['epoch']:>{width}}/{self._total_epochs}"
        self.message("  ".join([position, *scores, f"{left / 60:.1f} min left"]))

    def averaging(self, done: int, total: int) -> None:
        """Print a line every ten seconds."""
        if time.monotonic() - self._said_at > self._SECONDS_BETWEEN_LINES:
            self.message(f"{done} of {total} passes done")

    def message(self, text: str) -> None:
        """Print a line."""
        self._said_at = time.monotonic()
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Do nothing: every line is out already."""


def for_console(console: Console, *, quiet: bool = False) -> Progress:
    """Return a live bar for a terminal, else one line for each epoch.

    Args:
        console: Where to show it.
        quiet: Show nothing.
    """
    if quiet:
        return SilentProgress()
    if (console.is_terminal and not console.is_dumb_terminal) or console.is_jupyter:
        return LiveProgress(console)
    return PlainProgress(console)


def _scores(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Format loss, accuracy and sparsity, as far as the row has them."""
    formats = (
        ("train_loss", "loss", "{:.3f}"),
        ("accuracy", "accuracy", "{:.3f}"),
        ("root_mean_squared_error", "RMSE", "{:.4g}"),
        ("sparsity", "removed", "{:.1%}"),
    )
    return [(name, form.format(row[key])) for key, name, form in formats if row.get(key) is not None]
