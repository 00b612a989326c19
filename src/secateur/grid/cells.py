"""Cells of a grid: networks x data sets x methods x seeds, each cell one run; and the record of them on disk.

`comparison.json` holds the grids and options of a comparison, to repeat or extend it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from secateur import networks, training
from secateur.data import is_own_data
from secateur.data import names as data_names
from secateur.errors import ArtifactError, InvalidArgumentError, unknown_name
from secateur.factories import is_factory
from secateur.grid.cell import Cell, RunOptions, is_left_out, reduces, slug
from secateur.runs import write_json
from secateur.runs.reading import read_object
from secateur.training.run import versions

__all__ = [
    "Cell",
    "Grid",
    "GridRecord",
    "RunOptions",
    "add_grid",
    "own_functions",
    "parse_names",
    "parse_seeds",
    "read_record",
    "reduces",
    "slug",
    "write_record",
]

RECORD = "comparison.json"
AXES = ("networks", "data", "methods", "seeds")
MAX_SEED = 2**32 - 1


def _is_own(kind: str, name: str) -> bool:
    """Return whether a name is that of an own network, or of own data."""
    return (kind == "network" and is_factory(name)) or (
        kind == "data set" and (is_factory(name) or is_own_data(name))
    )


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All combinations of some networks, data sets, methods and seeds.

    Raises:
        UsageError: If a name does not exist.
        InvalidArgumentError: If an axis is empty, names something twice, or a seed is out of range.
    """

    networks: tuple[str, ...]
    data: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        named = (
            ("networks", "network", self.networks, networks.names()),
            ("data", "data set", self.data, data_names()),
            ("methods", "method", self.methods, training.method_names()),
        )
        for axis, kind, chosen, existing in named:
            _check_each_once(axis, chosen)
            for name in chosen:
                if name not in existing and not _is_own(kind, name):
                    raise unknown_name(kind, name, existing)
            if len({slug(name) for name in chosen}) < len(chosen):
                raise InvalidArgumentError(
                    f"--{axis}: expected own names that differ in their last part, got {', '.join(chosen)}; "
                    "rename one"
                )
        _check_each_once("seeds", self.seeds)
        for seed in self.seeds:
            if not 0 <= seed <= MAX_SEED:
                raise InvalidArgumentError(f"--seeds: expected whole numbers in 0 ... {MAX_SEED}, got {seed}")

    def cells(self) -> tuple[Cell, ...]:
        """Return the cells in the order they are run.

        Seeds are the outermost loop: whoever stops half-way has one seed of everything.
        """
        return tuple(
            Cell(network, data, method, seed)
            for seed in self.seeds
            for network in self.networks
            for data in self.data
            for method in self.methods
        )


@dataclass(frozen=True)
class GridRecord:
    """Grids and options of a comparison directory.

    Attributes:
        grids: Grids asked for so far; what was asked for last comes first, and is run first.
        options: What all runs share.
    """

    grids: tuple[Grid, ...]
    options: RunOptions = field(default_factory=RunOptions)

    def cells(self) -> tuple[Cell, ...]:
        """Return the cells of all grids, each once, in the order they are run."""
        return tuple(dict.fromkeys(cell for grid in self.grids for cell in grid.cells()))


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
        if is_left_out(asked) or asked == kept:
            continue
        option = f"--{each.name.replace('_', '-')}"
        had = f"no {option}" if is_left_out(kept) else f"{option} {kept}"
        got = option if asked is True else f"{option} {asked}"
        raise ArtifactError(
            f"{out}: expected the options that its runs share ({had}), got {got}; leave it out, or choose "
            "another --out"
        )
    return before


def own_functions(record: GridRecord) -> set[str]:
    """Return the functions that runs of a comparison would import: own networks and own data.

    Args:
        record: Its grids.
    """
    cells = record.cells()
    return {name for cell in cells for name in (cell.network, cell.data) if is_factory(name)}


def read_record(out: Path) -> GridRecord:
    """Read the record of a directory; an empty one where it is new.

    Args:
        out: Directory of the comparison, which need not exist.

    Raises:
        ArtifactError: If its record is damaged.
        UsageError: If it names what this version does not know.
    """
    return read_object(out / RECORD, GridRecord)[0] if (out / RECORD).exists() else GridRecord(())


def write_record(out: Path, record: GridRecord) -> None:
    """Write the record of a directory.

    Args:
        out: Directory of the comparison.
        record: Its grids and options.

    Raises:
        ArtifactError: If it cannot be written.
    """
    write_json(out / RECORD, asdict(record) | {"versions": versions()})


def parse_names(text: str, axis: str) -> tuple[str, ...]:
    """Parse names separated by commas.

    Args:
        text: The list.
        axis: The option it was given by, for the error: `"networks"`.

    Raises:
        InvalidArgumentError: If there is nothing between two commas.

    >>> parse_names("mlp, lenet", "networks")
    ('mlp', 'lenet')
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise InvalidArgumentError(f"--{axis}: expected names separated by commas, got {text!r}")
    return names


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse seeds separated by commas.

    Raises:
        InvalidArgumentError: If one is not a whole number.
    """
    try:
        return tuple(int(name) for name in parse_names(text, "seeds"))
    except ValueError:
        raise InvalidArgumentError(
            f"--seeds: expected whole numbers separated by commas, got {text!r}"
        ) from None


def _check_each_once(axis: str, chosen: Sequence[object]) -> None:
    if not chosen:
        raise InvalidArgumentError(f"--{axis}: expected at least one, got none")
    for value in chosen:
        if chosen.count(value) > 1:
            raise InvalidArgumentError(f"--{axis}: expected each one once, got {value} twice; leave one out")
