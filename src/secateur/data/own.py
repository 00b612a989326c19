"""Own data: read from files, folders or arrays, split, standardised, and their likelihood guessed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.data import arrays, tables
from secateur.data.dataset import Dataset, Split, Standardisation, validate
from secateur.data.examples import Examples, OwnExamples, as_array
from secateur.data.image_folder import folder_checksum, read_image_folder
from secateur.data.targets import encode, guess_likelihood
from secateur.errors import DataError, InvalidArgumentError, UsageError
from secateur.runs.files import file_checksum

__all__ = ["OwnData", "from_arrays", "is_own_data", "prepare_own", "read_own"]

SUFFIXES = (*tables.SUFFIXES, *arrays.SUFFIXES)
TEST_FRACTION = 0.2
FEWEST = 10  # rows to learn from and to judge by


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """Where own data are, and what is to be learned from them.

    Attributes:
        path: A `.csv`, `.tsv` or `.parquet` table, a file of arrays (`.npz`, `.safetensors`), or a folder of
            images with a subfolder for each class.
        target: Columns of a table to predict.
        ignore: Columns of a table to leave out.
        test: Another such file to judge by; None splits off `test_fraction` of the data.
        test_fraction: Share of the data to judge by.
        likelihood: Name of the targets' likelihood; None guesses it.
        image_size: Height and width to resize images to.
        sha256: Of the files, where they must be the same as before.
    """

    path: str
    target: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    test: str | None = None
    test_fraction: float = TEST_FRACTION
    likelihood: str | None = None
    image_size: int | None = None
    sha256: str | None = None


def is_own_data(text: str) -> bool:
    """Return whether a text names a file or folder that `read_own` reads; it need not exist.

    Args:
        text: As typed.

    >>> is_own_data("cars.csv"), is_own_data("fashion-mnist")
    (True, False)
    """
    return Path(text).suffix.lower() in SUFFIXES or Path(text).is_dir()


def read_own(own: OwnData) -> Dataset:
    """Read own data, split and standardise them.

    Args:
        own: Where they are.

    Raises:
        DataError: If they cannot be read, do not fit each other, or are not those of the checksum.
        UsageError: If a table has no target.
    """
    path, test = Path(own.path), None if own.test is None else Path(own.test)
    suffix = path.suffix.lower()
    for each in (path, *(() if test is None else (test,))):
        if not each.exists():
            raise DataError(f"{each}: expected a file or a folder of images, got none of that name")
    if suffix not in tables.SUFFIXES and (own.target or own.ignore):
        raise UsageError(f"--target, --ignore: expected a table with columns, got {own.path}")
    sha256 = _checksum(path, test)
    if own.sha256 is not None and own.sha256 != sha256:
        raise DataError(
            f"{path}: expected the data that the run was trained on, got others (SHA-256 differs)"
        )
    if suffix in tables.SUFFIXES:
        if test is not None and test.suffix.lower() not in tables.SUFFIXES:
            raise DataError(f"{test}: expected a table, as the training data are")
        found = tables.read_tables(path, own.target, test=test, ignore=own.ignore)
    else:
        found = _read(path, own.image_size)
        if test is not None:
            other = _read(test, own.image_size)
            if other.class_names != found.class_names:
                raise DataError(f"{test}: expected the classes of {path}, got others")
            found = OwnExamples(
                found.train, other.test or other.train, found.feature_names, found.class_names
            )
    known = replace(
        own, path=str(path.absolute()), test=None if test is None else str(test.absolute()), sha256=sha256
    )
    return prepare_own(
        found, own.path, likelihood=own.likelihood, test_fraction=own.test_fraction, source=asdict(known)
    )


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    test_inputs: Any = None,
    test_targets: Any = None,
    likelihood: str | None = None,
    feature_names: Sequence[str] = (),
    test_fraction: float = TEST_FRACTION,
    split_seed: int = 0,
    name: str = "own data",
) -> Dataset:
    """Return own arrays as a data set: split, standardised, in the targets' unit.

    Args:
        inputs: Rows of a table, shape (n, features), or images, shape (n, channels, height, width).
        targets: A target for each: numbers, truth values or words, shape (n,) or (n, values).
        test_inputs: Inputs to judge by; None splits off `test_fraction` of the data.
        test_targets: Their targets.
        likelihood: "categorical", "bernoulli", "gaussian" or "poisson"; None guesses it.
        feature_names: What the features are called.
        test_fraction: Share of the data to judge by.
        split_seed: Seed of which they are.
        name: What results call the data.

    Raises:
        DataError: If the arrays do not fit each other or the likelihood.
        InvalidArgumentError: If the share is none.

    Example:
        >>> import torch
        >>> data = from_arrays(torch.randn(100, 3), torch.randn(100))
        >>> len(data.train), len(data.test), data.likelihood.name
        (80, 20, 'gaussian')
    """
    try:
        train = Examples(arrays.as_inputs(inputs), as_array(targets))
        test = None
        if test_inputs is not None:
            test = Examples(arrays.as_inputs(test_inputs), as_array(test_targets))
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    found = OwnExamples(train, test, tuple(feature_names))
    return prepare_own(found, name, likelihood=likelihood, test_fraction=test_fraction, split_seed=split_seed)


def prepare_own(
    found: OwnExamples,
    name: str,
    *,
    likelihood: str | None = None,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = 0,
    source: Mapping[str, Any] | None = None,
) -> Dataset:
    """Split and standardise own data, and guess their likelihood where none is given.

    Args:
        found: What was read.
        name: What results and messages call the data.
        likelihood: Name of the likelihood; None guesses it.
        test_fraction: Share of the data to judge by, where none came apart.
        split_seed: Seed of which they are.
        source: Where they were read from.

    Raises:
        DataError: If they are too few, do not fit each other, or do not fit the likelihood.
        InvalidArgumentError: If the share is none.
    """
    if not 0 < test_fraction < 1:
        raise InvalidArgumentError(f"test_fraction: expected a share between 0 and 1, got {test_fraction}")
    remarks = list(found.remarks)
    if likelihood is None:
        likelihood, why = guess_likelihood(found.train.targets)
        remarks.insert(0, f"likelihood {likelihood}: {why}")
    train, test = found.train, found.test
    if test is None:
        if len(train) < FEWEST:
            raise DataError(f"{name}: expected at least {FEWEST} rows, got {len(train)}")
        train, test = _split(train, test_fraction, split_seed, stratify=likelihood == "categorical")
        remarks.append(f"{len(test)} of {len(test) + len(train)} rows are kept to judge by")
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        raise DataError(
            f"{name}: expected test inputs like the training inputs, got shapes {train.inputs.shape[1:]} and "
            f"{test.inputs.shape[1:]}"
        )
    encoded, judged = encode(train.targets, test.targets, likelihood, name)
    inputs, test_inputs = (torch.from_numpy(part.inputs.astype(np.float64)) for part in (train, test))
    if not inputs.isfinite().all():
        validate(Split(inputs, encoded.labels), num_classes=None, name=name)
    standardisation = Standardisation.of(inputs)
    classes = encoded.class_names
    if found.class_names and len(found.class_names) == len(classes):
        classes = found.class_names
    data = Dataset(
        name=name,
        train=Split(standardisation.apply(inputs), encoded.labels),
        test=Split(standardisation.apply(test_inputs), judged),
        num_classes=len(classes) or None,
        class_names=classes,
        inputs=standardisation,
        likelihood=encoded.likelihood,
        feature_names=found.feature_names,
        remarks=tuple(remarks),
        source=source,
    )
    for part, split in (("train", data.train), ("test", data.test)):
        validate(split, num_classes=data.num_classes, image_shape=data.image_shape, name=f"{name} ({part})")
    return data


def _read(path: Path, image_size: int | None) -> OwnExamples:
    if path.is_dir():
        return read_image_folder(path, image_size=image_size)
    if path.suffix.lower() in arrays.SUFFIXES:
        return arrays.read_arrays(path)
    raise UsageError(
        f"expected a .csv, .tsv, .parquet, .npz or .safetensors file, or a folder of images, got {path}"
    )


def _split(data: Examples, fraction: float, seed: int, *, stratify: bool) -> tuple[Examples, Examples]:
    """Split off test data; of classes so that each has its share, where each has two examples."""
    from sklearn.model_selection import train_test_split

    classes = data.targets if data.targets.ndim == 1 else data.targets.argmax(1)
    counts = np.unique(classes.astype(str) if classes.dtype.kind == "O" else classes, return_counts=True)[1]
    num_test = max(1, round(fraction * len(data)))
    even = stratify and counts.min() >= 2 and len(counts) <= min(num_test, len(data) - num_test)
    train, test = train_test_split(
        np.arange(len(data)), test_size=num_test, random_state=seed, stratify=classes if even else None
    )
    return data.part(train), data.part(test)


def _checksum(path: Path, test: Path | None) -> str:
    total = hashlib.sha256()
    for each in (path, *(() if test is None else (test,))):
        try:
            total.update((folder_checksum(each) if each.is_dir() else file_checksum(each)).encode())
        except OSError as error:
            raise DataError(f"{each}: expected a file that can be read, got: {error}") from error
    return total.hexdigest()
