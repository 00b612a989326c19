"""Read and write `comparison.json`: the grids and options of a comparison, to repeat or extend it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from secateur import training
from secateur.errors import ArtifactError
from secateur.grid.cells import Cell, Grid, RunOptions, cells_of
from secateur.runs.directory import RunDirectory
from secateur.runs.fields import Fields, parse, read_text
from secateur.training.run import versions

__all__ = ["GridRecord", "add_grid", "read_record", "write_record"]

FILE = "comparison.json"
AXES = ("networks", "data", "methods", "seeds")


@dataclass(frozen=True)
class GridRecord:
    """Grids and options of a comparison directory.

    Attributes:
        grids: Grids asked for so far; what was asked for last comes first, and is run first.
        options: What all runs share.
    """

    grids: tuple[Grid, ...] = ()
    options: RunOptions = field(default_factory=RunOptions)

    def cells(self) -> tuple[Cell, ...]:
        """Return the cells of all grids, each once, in the order they are run."""
        return cells_of(self.grids)


def add_grid(
    before: GridRecord, axes: Mapping[str, tuple[Any, ...] | None], options: RunOptions, *, out: Path
) -> GridRecord:
    """Add a grid to a comparison.

    Args:
        before: What the directory is for so far; an empty one for a new directory.
        axes: Networks, data, methods and seeds of the further grid. None takes what the directory has
            already, or for a new one lenet, fashion-mnist, all methods and seed 0.
        options: What the runs are to share; None stands for what they share already.
        out: The directory, for the error.

    Raises:
        ArtifactError: If an option is another than that of the runs so far.
        UsageError: If a name does not exist.
        InvalidArgumentError: If an axis is empty, names something twice, or a seed is out of range.
    """
    defaults: dict[str, tuple[Any, ...]] = {
        "networks": ("lenet",),
        "data": ("fashion-mnist",),
        "methods": training.method_names(),
        "seeds": (0,),
    }
    chosen: dict[str, tuple[Any, ...]] = {}
    for axis in AXES:
        so_far = tuple(dict.fromkeys(value for grid in before.grids for value in getattr(grid, axis)))
        given = axes[axis]
        chosen[axis] = given if given is not None else so_far or defaults[axis]
    if before.grids:
        options = _same_options(before.options, options, out)
        if all(axes[axis] is None for axis in AXES):
            return replace(before, options=options)
    grid = Grid(**chosen)
    covered = [old for old in before.grids if set(old.cells()) <= set(grid.cells())]
    return GridRecord((grid, *(old for old in before.grids if old not in covered)), options)


def _same_options(before: RunOptions, now: RunOptions, out: Path) -> RunOptions:
    """Return the options of a directory's runs, once those asked for now are seen not to contradict them."""
    for each in fields(RunOptions):
        kept, asked = getattr(before, each.name), getattr(now, each.name)
        if asked is None or asked is False or asked == kept:  # not asked for, or the same
            continue
        option = f"--{each.name.replace('_', '-')}"
        had = f"no {option}" if kept is None or kept is False else f"{option} {kept}"
        got = option if asked is True else f"{option} {asked}"
        raise ArtifactError(
            f"{out}: expected the options that its runs share ({had}), got {got}; leave it out, or choose "
            "another --out"
        )
    return before


def read_record(out: Path) -> GridRecord:
    """Read the record of a directory; an empty one where it is new.

    Args:
        out: Directory of the comparison, which need not exist.

    Raises:
        ArtifactError: If its record is damaged.
        UsageError: If it names what this version does not know.
    """
    path = out / FILE
    if not path.exists():
        return GridRecord()
    record = parse(path, read_text(path))
    grids = tuple(_grid(each) for each in record.rows("grids"))
    return GridRecord(grids, _options(record))


def _grid(record: Fields) -> Grid:
    axes = {axis: tuple(record.items(axis)) for axis in AXES[:-1]}
    if not all(isinstance(name, str) for names in axes.values() for name in names):
        raise record.damaged(f"expected lists of names in {', '.join(AXES[:-1])}{record.where}, got others")
    return Grid(**axes, seeds=record.counts("seeds"))


def _options(record: Fields) -> RunOptions:
    kept = record.optional("options")
    values = {} if kept is None else kept.values
    known = {each.name for each in fields(RunOptions)}
    if unknown := values.keys() - known:
        raise record.damaged(f"expected options among {', '.join(sorted(known))}, got {sorted(unknown)[0]!r}")
    for name, value in values.items():
        if not isinstance(value, bool | int | float | None):
            raise record.damaged(f"expected a number, true, false or null in {name!r}, got {value!r:.60}")
    return RunOptions(**values)


def write_record(out: Path, comparison: GridRecord) -> None:
    """Write the record of a directory, created if missing.

    Raises:
        ArtifactError: If it cannot be written.
    """
    content = {
        "grids": [asdict(grid) for grid in comparison.grids],
        "options": asdict(comparison.options),
        "versions": versions(),
    }
    RunDirectory(out).write_json(out / FILE, content)
