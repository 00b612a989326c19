"""Cells of a grid: networks x data sets x methods x seeds, each cell one run; and the record of them on disk.

`comparison.json` holds the grids and options of a comparison, to repeat or extend it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config

from secateur import networks, training
from secateur.data import names as data_names
from secateur.errors import ArtifactError, InvalidArgumentError, unknown_name
from secateur.runs import write_json
from secateur.runs.reading import read_object
from secateur.training.run import versions

__all__ = [
    "Cell",
    "Grid",
    "GridRecord",
    "RunOptions",
    "add_grid",
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
NOMINAL_NUM_DATA = 60_000  # of a data set large enough for any method to reduce


def slug(name: str) -> str:
    """Return a name of a network or data set as part of the name of a directory.

    Args:
        name: As typed: a name, `package.module:function`, a file or a folder.

    >>> slug("fashion-mnist"), slug("nets.own:Net"), slug("../data/my cars.csv")
    ('fashion-mnist', 'nets.own-Net', 'my-cars')
    """
    path = Path(name)
    own = "/" in name or path.suffix.lower() in {".csv", ".tsv", ".parquet", ".npz", ".safetensors"}
    shown = (path.stem if path.suffix else path.name) if own else name
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in shown).strip("-.") or "own"


@dataclass(frozen=True)
class Cell:
    """One network, data set, method and seed."""

    network: str
    data: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its directory and of its log."""
        return f"{slug(self.network)}-{slug(self.data)}-{self.method}-seed{self.seed}"

    def directory(self, out: Path) -> Path:
        """Return the directory of the run within a comparison in `out`."""
        return out / "runs" / self.name

    def log(self, out: Path) -> Path:
        """Return the path of the run's log."""
        return out / "logs" / f"{self.name}.log"


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
                if name not in existing:
                    raise unknown_name(kind, name, existing)
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


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that all runs of a comparison share; None takes the default of `secateur fit`.

    Attributes:
        epochs: Passes over the training data.
        sparsity: Exact share of weights to remove; methods that never remove any run without it.
        samples: Networks averaged in the final test.
        batch_size: Examples per step.
        augment: Whether training images are cropped and flipped at random.
        autocast: Whether forward passes of training compute in bfloat16.
    """

    epochs: int | None = None
    sparsity: float | None = None
    samples: int | None = None
    batch_size: int | None = None
    augment: bool = False
    autocast: bool = False

    def __post_init__(self) -> None:
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise InvalidArgumentError(f"--sparsity: expected a share in [0, 1), got {self.sparsity}")

    def of(self, cell: Cell) -> dict[str, Any]:
        """Return the options of one run by name, only those that are given."""
        options = vars(self).items()  # a sparsity of 0 is given, and equals False
        given = {name: value for name, value in options if value is not None and value is not False}
        if not reduces(cell.method):
            given.pop("sparsity", None)
        return given

    def words(self, cell: Cell) -> list[str]:
        """Return the options of one run as `secateur fit` takes them."""
        words = []
        for name, value in self.of(cell).items():
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
        return words


def reduces(method: str) -> bool:
    """Return whether a method ever removes weights.

    Args:
        method: One of `training.method_names()`.

    Raises:
        UsageError: If there is no such method.

    >>> reduces("calibrated"), reduces("flat-map")
    (True, False)
    """
    chosen = training.method_named(method)
    return chosen.recipe(chosen.default_epochs, NOMINAL_NUM_DATA).schedule is not None


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
