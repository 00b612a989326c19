"""Own data as they were read: inputs and targets as arrays, before anything is guessed or standardised."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.errors import DataError

__all__ = ["Examples", "OwnExamples", "as_array"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and their targets.

    Attributes:
        inputs: Numbers, shape (n, features) or (n, channels, height, width).
        targets: Numbers, truth values or words, shape (n,) or (n, values).

    Raises:
        DataError: If they are of another kind, or not as many.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        if self.inputs.dtype.kind not in "fiub" or self.inputs.ndim < 2:
            raise DataError(
                "inputs: expected numbers of shape (n, features) or (n, channels, height, width), got "
                f"{self.inputs.dtype} of shape {self.inputs.shape}"
            )
        if self.targets.dtype.kind not in "fiubUO" or self.targets.ndim not in {1, 2}:
            raise DataError(
                "targets: expected numbers or words of shape (n,) or (n, values), got "
                f"{self.targets.dtype} of shape {self.targets.shape}"
            )
        if len(self.inputs) != len(self.targets) or not len(self.inputs):
            raise DataError(
                f"expected one target for each input, got {len(self.inputs)} inputs and "
                f"{len(self.targets)} targets"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, chosen: Any) -> "Examples":
        """Return some of them.

        Args:
            chosen: Their numbers.
        """
        return Examples(self.inputs[chosen], self.targets[chosen])


@dataclass(frozen=True, eq=False)
class OwnExamples:
    """Everything that was read from one place.

    Attributes:
        train: Examples to learn from, and where there are no others to judge by.
        test: Examples to judge by, where they came apart.
        feature_names: What the features of a table are called.
        class_names: What the classes are called, where the targets are class numbers from 0.
        remarks: What was changed on the way, in words.
    """

    train: Examples
    test: Examples | None = None
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def as_array(values: Any) -> np.ndarray:
    """Return tensors, data frames, lists or arrays as an array on the CPU.

    Args:
        values: Numbers or words.

    Raises:
        DataError: If they form no array.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point():
            values = values.double()  # NumPy has no bfloat16
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"expected an array of numbers or words, got {type(values).__name__}") from error
