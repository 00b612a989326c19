"""What a function of the user's returned as data: arrays, a mapping of them, or batches."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from secateur.data.arrays import as_inputs, named_examples
from secateur.data.dataset import Dataset
from secateur.data.examples import Examples, OwnExamples, as_array
from secateur.errors import DataError

__all__ = ["examples_from"]

BATCH = 1000


def examples_from(value: Any, name: str) -> OwnExamples | Dataset:
    """Return own data from what a function returned.

    Args:
        value: A pair (inputs, targets); four arrays, the last two to judge by; a mapping with such names; a
            torch data set or loader of pairs; or a `secateur.data.Dataset`, which is returned as it is.
        name: What messages call the data.

    Raises:
        DataError: If it is none of these.
    """
    if isinstance(value, Dataset | OwnExamples):
        return value
    if isinstance(value, Mapping):
        return named_examples(value, name)
    if isinstance(value, TorchDataset):
        value = DataLoader(value, batch_size=BATCH)
    try:
        if isinstance(value, tuple | list) and len(value) in {2, 4}:
            parts = [
                Examples(as_inputs(x), as_array(y)) for x, y in zip(value[::2], value[1::2], strict=True)
            ]
            return OwnExamples(parts[0], parts[1] if len(parts) > 1 else None)
        if isinstance(value, Iterable) and not isinstance(value, str | bytes):
            pairs = [tuple(map(as_array, batch)) for batch in value]
            if pairs and all(len(pair) == 2 for pair in pairs):
                inputs, targets = (np.concatenate(each) for each in zip(*pairs, strict=True))
                return OwnExamples(Examples(as_inputs(inputs), targets))
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: expected batches that can be joined, got: {error}") from error
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    raise DataError(
        f"{name}: expected (inputs, targets), a mapping of arrays, or a loader of such pairs, got "
        f"{type(value).__name__}"
    )
