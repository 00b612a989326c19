"""Arrays of inputs and targets: NumPy's `.npz` files and `.safetensors` files."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from secateur.data.examples import Examples, OwnExamples, as_array
from secateur.errors import DataError
from secateur.runs.files import open_ordinary

__all__ = ["SUFFIXES", "as_inputs", "named_examples", "read_arrays"]

SUFFIXES = (".npz", ".safetensors")
NAMES = (("inputs", "targets"), ("x", "y"), ("data", "target"), ("images", "labels"))
PARTS = ("{}", "{}_train", "train_{}")
TEST_PARTS = ("{}_test", "test_{}")


def read_arrays(path: Path) -> OwnExamples:
    """Read inputs and targets from a file of arrays, with their own test data if it has some.

    Args:
        path: `.npz` or `.safetensors`. The arrays are called inputs and targets, or x and y; with `_train`
            and `_test` where there are both.

    Raises:
        DataError: If it cannot be read, or has no such arrays. Objects, which need pickle, are refused.
    """
    try:
        with open_ordinary(path) as file:
            if path.suffix.lower() == ".npz":
                with np.load(file, allow_pickle=False) as arrays:
                    found: dict[str, Any] = {name: arrays[name] for name in arrays.files}
            else:
                found = {name: as_array(tensor) for name, tensor in load_file(path).items()}
    except (OSError, ValueError, TypeError, MemoryError, EOFError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error
    except (zipfile.BadZipFile, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return named_examples(found, str(path))


def named_examples(arrays: Mapping[str, Any], name: str) -> OwnExamples:
    """Return examples from arrays by their names.

    Args:
        arrays: Arrays or tensors.
        name: What messages call the data.

    Raises:
        DataError: If there is no pair of inputs and targets.
    """
    plain = {key.lower(): value for key, value in arrays.items()}

    def pair(parts: tuple[str, ...]) -> Examples | None:
        for part in parts:
            for inputs, targets in NAMES:
                if (key := part.format(inputs)) in plain and (other := part.format(targets)) in plain:
                    try:
                        return Examples(as_inputs(plain[key]), as_array(plain[other]))
                    except DataError as error:
                        raise DataError(f"{name}: {error}") from error
        return None

    train = pair(PARTS)
    if train is None:
        raise DataError(
            f"{name}: expected arrays inputs and targets, or x and y (perhaps x_train, y_train, x_test, "
            f"y_test), got {', '.join(sorted(arrays)) or 'none'}"
        )
    return OwnExamples(train, pair(TEST_PARTS))


def as_inputs(values: Any) -> np.ndarray:
    """Return inputs; a single feature may come without its axis, grey images in bytes without their channel.

    Args:
        values: Arrays, tensors, data frames or lists.

    Raises:
        DataError: If they form no array.
    """
    array = as_array(values)
    if array.ndim == 1:
        return array[:, None]
    return array[:, None] if array.ndim == 3 and array.dtype == np.uint8 else array


def _unreadable(path: Path, error: BaseException) -> DataError:
    said = (str(error).strip().splitlines() or [""])[0]
    return DataError(f"{path}: expected a file of arrays that can be read without pickle, got: {said}")
