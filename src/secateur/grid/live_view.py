"""Display a running comparison: a live table on a terminal, else a line for each start and end."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from secateur.grid.cells import Cell
from secateur.grid.estimate import Pace, makespan
from secateur.grid.executors import GridView, Row
from secateur.runs import formatting

__all__ = ["LiveGrid", "PlainGrid", "estimate_table", "grid_for_console", "seconds_left", "status_line"]

STATES = ("running", "failed", "waiting", "finished", "skipped")
STYLES = {"running": "bold", "failed": "red", "waiting": "dim", "finished": "green", "skipped": "dim green"}
SECONDS_BETWEEN_UPDATES = 0.5


@final
class PlainGrid(GridView):
    """Print one line when a run starts and one when it ends, for logs."""

    def __init__(self, rows: Sequence[Row], console: Console) -> None:
        self._rows, self._console = rows, console

    def started(self, row: Row) -> None:
        """Print which run began, and after which epoch if it goes on."""
        done = f" after epoch {row.progress.epoch} of {row.progress.epochs}" if row.progress.epoch else ""
        self._print(f"started   {row.cell.name}{done}")

    def ended(self, row: Row) -> None:
        """Print what came of a run, and how many are done."""
        said = row.reason if row.state == "failed" else _scores(row)
        num_done = sum(each.state not in {"waiting", "running"} for each in self._rows)
        self._print(f"{row.state:<9} {row.cell.name}: {said} [{num_done} of {len(self._rows)} done]")

    def tick(self) -> None:
        """Do nothing: only starts and ends are shown."""

    def close(self) -> None:
        """Do nothing: every line is out already."""

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@final
class LiveGrid(GridView):
    """Redraw a table of all runs; where it does not fit, running ones and counts of the rest."""

    def __init__(self, rows: Sequence[Row], jobs: int, console: Console) -> None:
        self._rows, self._jobs, self._console = rows, jobs, console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn_at = -math.inf

    def close(self) -> None:
        """Stop, and leave a table of all started runs in the terminal."""
        self._live.stop()
        begun = [row for row in self._rows if row.state != "waiting" or row.progress.epoch]
        if begun:
            self._console.print(_full(begun))
        self._console.print(status_line(self._rows, math.nan))

    def started(self, row: Row) -> None:
        """Draw at the next tick."""
        self._drawn_at = -math.inf

    def ended(self, row: Row) -> None:
        """Draw at the next tick."""
        self._drawn_at = -math.inf

    def tick(self) -> None:
        """Draw, if the last drawing is not too fresh."""
        now = time.monotonic()
        if now - self._drawn_at >= SECONDS_BETWEEN_UPDATES:
            self._drawn_at = now
            self._live.start()  # the first time; later it does nothing
            self._live.update(self.drawing(self._console.size.height), refresh=True)

    def drawing(self, height: int) -> RenderableType:
        """Return a table that fits into a number of lines."""
        status = status_line(self._rows, seconds_left(self._rows, self._jobs, now=time.time()))
        room = height - 2  # for the status and the cursor
        if _num_lines(self._rows) <= room:
            return Group(_full(self._rows), status)
        running = [row for row in self._rows if row.state == "running"]
        while running and _num_lines(running) > room:
            running.pop()
        parts: list[RenderableType] = [_full(running)] if running else []
        groups = _groups(self._rows)
        if 1 + len(groups) <= room - (_num_lines(running) if running else 0):
            parts.append(_counts(groups))
        return Group(*parts, status)


def grid_for_console(rows: Sequence[Row], jobs: int, console: Console) -> GridView:
    """Return a live table for a terminal, else plain lines."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveGrid(rows, jobs, console)
    return PlainGrid(rows, console)


def status_line(rows: Sequence[Row], left: float) -> Text:
    """Summarise the number of runs in each state, and the remaining time where it is known."""
    counts = Counter(row.state for row in rows)
    text = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    after = f"; about {formatting.duration(left)} left" if math.isfinite(left) else ""
    return Text(f"{len(rows)} runs: {text}{after}")


def seconds_left(rows: Sequence[Row], jobs: int, *, now: float) -> float:
    """Estimate the remaining time from runs that have started; nan before the first epoch.

    A run that has not begun is taken to need what others of its network, data and method need for an epoch,
    or else of its network and data, or else any.

    Args:
        rows: All cells.
        jobs: Runs at once.
        now: Seconds since 1970.
    """
    per_epoch: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if row.progress.epoch and row.progress.seconds:
            for kind in _kinds(row.cell):
                per_epoch.setdefault(kind, []).append(row.progress.seconds / row.progress.epoch)
    durations = []
    for row in rows:
        if row.state not in {"running", "waiting"}:
            continue
        left = row.progress.seconds_left(now if row.state == "running" else None)
        if math.isnan(left):
            known = next((per_epoch[kind] for kind in _kinds(row.cell) if kind in per_epoch), [math.nan])
            left = statistics.median(known) * (row.progress.epochs - row.progress.epoch)
        durations.append((row.state != "running", left))
    return makespan([left for _, left in sorted(durations, key=lambda each: each[0])], jobs)


def _kinds(cell: Cell) -> tuple[tuple[str, ...], ...]:
    """Return what runs alike in cost have in common, the likest first."""
    return (cell.network, cell.data, cell.method), (cell.network, cell.data), ()


def _groups(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.cell.network, row.cell.data), []).append(row)
    return groups


def _num_lines(rows: Sequence[Row]) -> int:
    """Return the lines of `_full`."""
    return 1 + len(_groups(rows)) + len(rows)


def _full(rows: Sequence[Row]) -> Table:
    """Return one line per run, under one per network and data set."""
    table = _table(("", "left"), ("seed", "right"), ("", "left"))
    for name in ("epoch", "acc", "NLL", "removed", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    now = time.time()
    for (network, data), members in _groups(rows).items():
        table.add_row(Text(f"{network} on {data}", style="bold"))
        methods = list(dict.fromkeys(row.cell.method for row in members))
        for row in sorted(members, key=lambda row: (methods.index(row.cell.method), row.cell.seed)):
            known = row.progress
            left = known.seconds_left(now) if row.state == "running" else math.nan
            table.add_row(
                f"  {row.cell.method}",
                str(row.cell.seed),
                Text(row.state, style=STYLES[row.state]),
                f"{known.epoch}/{known.epochs}",
                formatting.number(known.accuracy),
                formatting.number(known.negative_log_likelihood),
                formatting.percent(known.sparsity),
                formatting.duration(left) if math.isfinite(left) else "",
            )
    return table


def _counts(groups: Mapping[tuple[str, str], Sequence[Row]]) -> Table:
    table = _table(("all runs", "left"), *((state, "right") for state in STATES))
    for (network, data), members in groups.items():
        counts = Counter(row.state for row in members)
        table.add_row(f"{network} on {data}", *(str(counts[state] or "") for state in STATES))
    return table


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    return table


def _scores(row: Row) -> str:
    known = row.progress
    return (
        f"accuracy {formatting.number(known.accuracy)}, "
        f"NLL {formatting.number(known.negative_log_likelihood)}, "
        f"{formatting.percent(known.sparsity)} removed, {formatting.duration(known.seconds)} of training"
    )


def estimate_table(rows: Sequence[Row], paces: Mapping[Cell, Pace]) -> Table:
    """Return a table of runs to do and their time, by network, data set and method.

    Args:
        rows: All cells.
        paces: The pace of those that are not finished.
    """
    table = _table(("network", "left"), ("data", "left"), ("method", "left"), ("seeds to run", "left"))
    table.add_column("finished", no_wrap=True)
    for name in ("s/iteration", "time each"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("measured on", no_wrap=True)
    kinds: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        kinds.setdefault((row.cell.network, row.cell.data, row.cell.method), []).append(row)
    for kind, members in kinds.items():
        ahead = [row for row in members if row.state != "skipped"]
        finished = " ".join(str(row.cell.seed) for row in members if row.state == "skipped")
        words = [str(row.cell.seed) + _progress(row) for row in ahead]
        pace = paces[ahead[0].cell] if ahead else None
        table.add_row(
            *kind,
            " ".join(words),
            finished,
            "" if pace is None else f"{pace.seconds_per_iteration:.4f}",
            "" if pace is None else formatting.duration(pace.seconds_per_epoch * ahead[0].progress.epochs),
            "" if pace is None else pace.source,
        )
    return table


def _progress(row: Row) -> str:
    return f" (at {row.progress.epoch}/{row.progress.epochs})" if row.progress.epoch else ""
