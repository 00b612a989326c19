"""One cell of a grid and the options of its run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config

from secateur import training
from secateur.data import names as data_names
from secateur.data.own import SUFFIXES
from secateur.errors import InvalidArgumentError

__all__ = ["Cell", "RunOptions", "is_left_out", "reduces", "slug"]

NOMINAL_NUM_DATA = 60_000  # of a data set large enough for any method to reduce
OF_OWN_DATA = ("target", "ignore", "test_data", "test_share", "image_size")


def slug(name: str) -> str:
    """Return a name of a network or data set as part of the name of a directory.

    Args:
        name: As typed: a name, `package.module:function`, a file or a folder.

    >>> slug("fashion-mnist"), slug("nets.own:Net"), slug("../data/my cars.csv")
    ('fashion-mnist', 'nets.own-Net', 'my-cars')
    """
    path = Path(name)
    own = "/" in name or path.suffix.lower() in SUFFIXES
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
        likelihood: Name of the likelihood of the targets.
        target: Columns of own tables to predict.
        ignore: Columns of own tables to leave out.
        test_data: Own data to judge by.
        test_share: Share of own data to judge by.
        image_size: Height and width to resize images of own folders to.
    """

    epochs: int | None = None
    sparsity: float | None = None
    samples: int | None = None
    batch_size: int | None = None
    augment: bool = False
    autocast: bool = False
    likelihood: str | None = None
    target: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    test_data: str | None = None
    test_share: float | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise InvalidArgumentError(f"--sparsity: expected a share in [0, 1), got {self.sparsity}")

    def of(self, cell: Cell) -> dict[str, Any]:
        """Return the options of one run by name, only those that are given."""
        options = vars(self).items()  # a sparsity of 0 is given, and equals False
        given = {name: value for name, value in options if not is_left_out(value)}
        if cell.data in data_names():
            for name in OF_OWN_DATA:
                given.pop(name, None)
        if not reduces(cell.method):
            given.pop("sparsity", None)
        return given

    def words(self, cell: Cell) -> list[str]:
        """Return the options of one run as `secateur fit` takes them."""
        words = []
        for name, value in self.of(cell).items():
            option = f"--{name.replace('_', '-')}"
            for each in value if isinstance(value, tuple) else (value,):
                words += [option] if each is True else [option, str(each)]
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


def is_left_out(value: Any) -> bool:
    """Return whether an option is not given.

    Args:
        value: Of the option.
    """
    return value is None or value is False or value == ()
