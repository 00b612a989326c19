"""Show a comparison: a live table on a terminal, else a line for each start and end; and the plan ahead."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from secateur.grid.engine import GridView
from secateur.grid.progress import Row, epoch_seconds, seconds_left
from secateur.runs import formatting

__all__ = ["LiveGrid", "PlainGrid", "estimate_table", "shown_on", "status_line"]

STATES = ("running", "failed", "waiting", "finished", "skipped")
STYLES = {"running": "bold", "failed": "red", "waiting": "dim", "finished": "green", "skipped": "dim green"}


@final
class PlainGrid:
    """Print one line when a run starts and one when it ends, for logs."""

    def __init__(self, rows: Sequence[Row], console: Console) -> None:
        self._rows, self._console = rows, console

    def started(self, row: Row) -> None:
        """Print which run began, and after which epoch if it goes on."""
        done = f" after epoch {row.progress.epoch} of {row.progress.epochs}" if row.progress.epoch else ""
        self._print(f"started   {row.cell.name}{done}")

    def ended(self, row: Row) -> None:
        """Print what came of a run, and how many are done."""
        known = row.progress
        said = (
            f"accuracy {formatting.number(known.accuracy)}, "
            f"NLL {formatting.number(known.negative_log_likelihood)}, "
            f"{formatting.percent(known.sparsity)} removed, {formatting.duration(known.seconds)} of training"
        )
        num_done = sum(each.state not in {"waiting", "running"} for each in self._rows)
        said = row.reason if row.state == "failed" else said
        self._print(f"{row.state:<9} {row.cell.name}: {said} [{num_done} of {len(self._rows)} done]")

    def tick(self) -> None:
        """Do nothing: only starts and ends are shown."""

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@final
class LiveGrid:
    """Redraw a table of all runs; where it does not fit, running ones and counts of the rest."""

    def __init__(self, rows: Sequence[Row], jobs: int, live: Live) -> None:
        self._rows, self._jobs, self._live = rows, jobs, live

    def started(self, row: Row) -> None:
        """Draw."""
        self.tick()

    def ended(self, row: Row) -> None:
        """Draw."""
        self.tick()

    def tick(self) -> None:
        """Draw; the display itself keeps to some times a second."""
        self._live.update(self.drawing(self._live.console.size.height))

    def drawing(self, height: int) -> RenderableType:
        """Return a table that fits into a number of lines."""
        status = status_line(self._rows, seconds_left(self._rows, self._jobs, now=time.time()))
        room = height - 2  # for the status and the cursor
        if 1 + len(_groups(self._rows)) + len(self._rows) <= room:
            return Group(run_table(self._rows), status)
        counts = _counts(self._rows)
        running = [row for row in self._rows if row.state == "running"]
        parts: list[RenderableType] = [counts] if counts.row_count < room else []
        room -= counts.row_count + 1 if parts else 0
        while running and 1 + len(_groups(running)) + len(running) > room:
            running.pop()
        return Group(*([run_table(running)] if running else []), *parts, status)


@contextmanager
def shown_on(console: Console, rows: Sequence[Row], jobs: int) -> Iterator[GridView]:
    """Show a grid until the block ends: a live table on a terminal, else plain lines.

    Args:
        console: Where to.
        rows: All runs; those that have begun stay on a terminal.
        jobs: Runs at once.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainGrid(rows, console)
        return
    try:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield LiveGrid(rows, jobs, live)
    finally:
        if begun := [row for row in rows if row.state != "waiting" or row.progress.epoch]:
            console.print(run_table(begun))
        console.print(status_line(rows, math.nan))


def status_line(rows: Sequence[Row], left: float) -> Text:
    """Summarise the number of runs in each state, and the remaining time where it is known."""
    counts = Counter(row.state for row in rows)
    text = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    after = f"; about {formatting.duration(left)} left" if math.isfinite(left) else ""
    return Text(f"{len(rows)} runs: {text}{after}")


def run_table(rows: Sequence[Row]) -> Table:
    """Return one line per run, under one per network and data set."""
    table = _table("", ">seed", "", ">epoch", ">acc", ">NLL", ">removed", ">left")
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


def estimate_table(rows: Sequence[Row]) -> Table:
    """Return a table of runs to do and their time, by network, data set and method.

    Args:
        rows: All cells; a time is a dash until some run has finished an epoch.
    """
    table = _table("network", "data", "method", "seeds to run", "finished", ">s/epoch", ">time each")
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        kinds.setdefault((row.cell.network, row.cell.data, row.cell.method), []).append(row)
    for kind, members in kinds.items():
        ahead = [row for row in members if row.state != "skipped"]
        times = ("", "")
        if ahead:
            pace = epoch_seconds(ahead[0], rows)
            times = formatting.number(pace, 1), formatting.duration(pace * ahead[0].progress.epochs)
        finished = " ".join(str(row.cell.seed) for row in members if row.state == "skipped")
        table.add_row(*kind, " ".join(map(_seed, ahead)), finished, *times)
    return table


def _seed(row: Row) -> str:
    known = row.progress
    return str(row.cell.seed) + (f" (at {known.epoch}/{known.epochs})" if known.epoch else "")


def _counts(rows: Sequence[Row]) -> Table:
    table = _table("all runs", *(f">{state}" for state in STATES))
    for (network, data), members in _groups(rows).items():
        counts = Counter(row.state for row in members)
        table.add_row(f"{network} on {data}", *(str(counts[state] or "") for state in STATES))
    return table


def _groups(rows: Sequence[Row]) -> Mapping[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.cell.network, row.cell.data), []).append(row)
    return groups


def _table(*columns: str) -> Table:
    """Return an empty table; a column whose name begins with > is aligned at the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        side = "right" if name.startswith(">") else "left"
        table.add_column(name.removeprefix(">"), justify=side, no_wrap=True)  # type: ignore[arg-type]
    return table
