"""Find and load data sets by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from secateur.data import cifar, digits, fashion_mnist
from secateur.data.dataset import Dataset, validate
from secateur.data.files import Source
from secateur.data.images import RawImages, prepare
from secateur.errors import unknown_name

__all__ = ["load", "locate", "names", "registered_name"]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One name: who finds it and who reads it."""

    locate: Callable[..., Source]
    read: Callable[..., RawImages]


_TABLE: dict[str, _Entry] = {
    "digits": _Entry(locate=digits.locate, read=digits.read),
    "fashion-mnist": _Entry(locate=fashion_mnist.locate, read=fashion_mnist.read),
    "cifar10": _Entry(locate=partial(cifar.locate, cifar.CIFAR10), read=partial(cifar.read, cifar.CIFAR10)),
    "cifar100": _Entry(
        locate=partial(cifar.locate, cifar.CIFAR100), read=partial(cifar.read, cifar.CIFAR100)
    ),
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
        raise unknown_name("data set", name, _TABLE)
    return _TABLE[name].locate(data_dir, base_url=base_url)


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    image_size: int | None = None,
    progress: bool = False,
    like: Dataset | None = None,
    base_url: str | None = None,
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

    Raises:
        DataError: If a file is missing, truncated or altered, cannot be downloaded, or is not like `like`.
        UsageError: If there is no such data set.

    >>> data = load("digits", image_size=32)
    >>> data.image_shape, len(data.train), len(data.test)
    ((1, 32, 32), 1437, 360)
    """
    source = locate(name, data_dir, base_url=base_url)
    data = prepare(_TABLE[name].read(source, progress=progress), image_size=image_size, like=like)
    for part, split in (("train", data.train), ("test", data.test)):
        validate(split, num_classes=data.num_classes, image_shape=data.image_shape, name=f"{name} ({part})")
    return data
