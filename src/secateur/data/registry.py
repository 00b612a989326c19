"""Find and load data sets by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from secateur.data import cifar, digits, fashion_mnist, sklearn_tables
from secateur.data.dataset import Dataset, validate
from secateur.data.examples import OwnExamples
from secateur.data.files import Source
from secateur.data.images import RawImages, prepare
from secateur.data.own import prepare_own
from secateur.errors import unknown_name

__all__ = ["image_size", "load", "locate", "names", "out_of_distribution", "registered_name", "title"]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One name: who finds it, who reads it, how reports write it, and what it is set against there."""

    locate: Callable[..., Source]
    read: Callable[..., RawImages] | None = None
    """Reads images; None for a table."""
    table: Callable[[], OwnExamples] | None = None
    """Reads a table; None for images."""
    title: str = ""
    """As the literature writes it; empty where the name will do."""
    image_size: int | None = None
    """Height and width of its images, before they are fitted to a network."""
    out_of_distribution: str | None = None
    """Another data set, whose images a network of this one should be unsure of."""


_TABLE: dict[str, _Entry] = {
    "digits": _Entry(locate=digits.locate, read=digits.read, title="digits", image_size=8),
    "fashion-mnist": _Entry(
        locate=fashion_mnist.locate,
        read=fashion_mnist.read,
        title="Fashion-MNIST",
        image_size=28,
        out_of_distribution="digits",
    ),
    "cifar10": _Entry(
        locate=partial(cifar.locate, cifar.CIFAR10),
        read=partial(cifar.read, cifar.CIFAR10),
        title="CIFAR-10",
        image_size=32,
        out_of_distribution="fashion-mnist",
    ),
    "cifar100": _Entry(
        locate=partial(cifar.locate, cifar.CIFAR100),
        read=partial(cifar.read, cifar.CIFAR100),
        title="CIFAR-100",
        image_size=32,
        out_of_distribution="fashion-mnist",
    ),
    **{
        name: _Entry(locate=sklearn_tables.locate, table=table)
        for name, table in sklearn_tables.TABLES.items()
    },
}


def names() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    return tuple(_TABLE)


def registered_name(recorded: str) -> str:
    """Return the name that loads a data set, given its name in results.

    They differ where files are not those of the authors' archive, as far as anyone can tell.

    >>> registered_name("cifar10 (local files)")
    'cifar10'
    """
    return recorded.partition(" (")[0]


def title(recorded: str) -> str:
    """Return a data set's name as its literature writes it, given its name in results.

    >>> title("cifar10 (local files)"), title("mine")
    ('CIFAR-10 (local files)', 'mine')
    """
    name = registered_name(recorded)
    known = _TABLE[name].title if name in _TABLE else ""
    return (known or name) + recorded.removeprefix(name)


def out_of_distribution(name: str) -> str | None:
    """Return the data set whose images are out of the distribution of this one; None where none is named.

    Args:
        name: As the command line calls it.

    >>> out_of_distribution("fashion-mnist")
    'digits'
    """
    return _TABLE[name].out_of_distribution if name in _TABLE else None


def image_size(name: str) -> int | None:
    """Return height and width of a data set's own images; None where its entry does not say.

    Args:
        name: As the command line calls it.
    """
    return _TABLE[name].image_size if name in _TABLE else None


def locate(name: str, data_dir: Path | None = None, *, base_url: str | None = None) -> Source:
    """Find a data set, or the place to download it from; nothing is downloaded.

    Args:
        name: One of `names()`.
        data_dir: A folder to look into first; None takes $SECATEUR_DATA.
        base_url: A mirror to download from instead of the authors' server.

    Raises:
        DataError: If `data_dir` does not exist, or holds only some of the files.
        UsageError: If there is no such data set.

    >>> print(locate("digits"))
    embedded in scikit-learn
    """
    if name not in _TABLE:
        raise unknown_name("data set", name, _TABLE, own="a .csv, .npz, ... file or a folder of images")
    return _TABLE[name].locate(data_dir, base_url=base_url)


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    image_size: int | None = None,
    progress: bool = False,
    like: Dataset | None = None,
    base_url: str | None = None,
    likelihood: str | None = None,
) -> Dataset:
    """Load a data set, downloaded first if it is not on this machine.

    Args:
        name: One of `names()`.
        data_dir: A folder to look into first; None takes $SECATEUR_DATA.
        image_size: Height and width wanted: smaller images are enlarged or framed in black. None leaves
            them as they are.
        progress: Whether a download shows a bar.
        like: Another data set, whose pixel mean and std to standardise with, so that a network trained on
            that one sees these images as it would see them in use. None takes this one's own.
        base_url: A mirror to download from instead of the authors' server.
        likelihood: Name of the likelihood of a table's targets; None guesses it. Images have classes.

    Raises:
        DataError: If a file is missing, truncated or altered, cannot be downloaded, or is not like `like`.
        UsageError: If there is no such data set.

    >>> data = load("digits", image_size=32)
    >>> data.image_shape, len(data.train), len(data.test)
    ((1, 32, 32), 1437, 360)
    """
    source, entry = locate(name, data_dir, base_url=base_url), _TABLE[name]
    if entry.table is not None:
        return prepare_own(entry.table(), name, likelihood=likelihood)
    assert entry.read is not None
    data = prepare(entry.read(source, progress=progress), image_size=image_size, like=like)
    for part, split in (("train", data.train), ("test", data.test)):
        validate(split, num_classes=data.num_classes, image_shape=data.image_shape, name=f"{name} ({part})")
    return data
