"""Data sets as tensors: inputs with their targets, how they were standardised, and checks before training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from secateur.errors import DataError
from secateur.likelihoods import Likelihood

__all__ = ["Dataset", "Split", "Standardisation", "validate"]


@dataclass(frozen=True)
class Split:
    """Inputs of a network and their targets.

    Attributes:
        images: Standardised inputs: images, shape (n, c, h, w), or rows of a table, shape (n, features).
        labels: Class numbers from 0 (int64), shape (n,). For other likelihoods numbers of any kind, shape
            (n,) or (n, values).

    Raises:
        DataError: If the shapes do not fit each other or the numbers are of another kind.
    """

    images: Float[Tensor, "n ..."]
    labels: Shaped[Tensor, "n ..."]

    def __post_init__(self) -> None:
        if self.images.ndim < 2:
            raise DataError(
                "expected images of shape (n, c, h, w) or rows of shape (n, features), got "
                f"{tuple(self.images.shape)}"
            )
        if self.labels.shape[:1] != self.images.shape[:1]:
            raise DataError(
                f"expected one label for each of {len(self.images)} images, got {tuple(self.labels.shape)}"
            )
        whole = self.labels.dtype == torch.int64
        if not self.images.is_floating_point() or not (whole or self.labels.is_floating_point()):
            raise DataError(
                "expected images as floating-point numbers and labels as such numbers or int64,"
                f" got {self.images.dtype} and {self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of one image, or the number of features of one row."""
        return tuple(self.images.shape[1:])


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each channel of images, or of each feature of a table.

    Attributes:
        mean: What is subtracted.
        std: What the difference is then divided by; positive.

    Raises:
        DataError: If the two are not of one length, or a number is out of range.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        values = torch.tensor([*self.mean, *self.std], dtype=torch.float64)
        if len(self.mean) != len(self.std) or not values.isfinite().all() or not all(x > 0 for x in self.std):
            raise DataError(
                "expected a finite mean and a positive standard deviation for each feature, got "
                f"{len(self.mean)} and {len(self.std)} numbers"
            )

    @classmethod
    def of(cls, inputs: Float[Tensor, "n ..."]) -> "Standardisation":
        """Measure mean and standard deviation along the second axis.

        A feature that never changes gets a standard deviation of 1, so that it becomes 0.

        Args:
            inputs: Images, or rows of a table.
        """
        features = inputs.double().movedim(1, -1).reshape(-1, inputs.shape[1])
        mean, std = features.mean(0), features.std(0, correction=0)
        std = torch.where(std > 1e-12 * features.abs().amax(0), std, 1.0)
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def apply(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Standardise inputs; computed in double precision and returned in single.

        Args:
            inputs: Images, or rows of a table, in their own units.
        """
        shape = (-1, *(1,) * (inputs.ndim - 2))
        mean, std = (
            torch.tensor(values, dtype=torch.float64, device=inputs.device).view(shape)
            for values in (self.mean, self.std)
        )
        return ((inputs.double() - mean) / std).float()


@dataclass(frozen=True)
class Dataset:
    """Training and test data.

    Attributes:
        name: Its name in results; marked where it is not the official data set.
        train: Data to learn from.
        test: Data to evaluate on.
        num_classes: Number of classes, which run from 0 to `num_classes` - 1; None for targets that are no
            classes.
        class_names: What the classes are called, by label.
        pixel_mean: Per channel, what was subtracted from pixels between 0 (black) and 1 (white).
        pixel_std: Per channel, what the difference was then divided by. Both are what a user of the network
            needs to prepare an image; empty where nobody knows.
        inputs: How own data were standardised; a run standardises new inputs likewise. None for inputs that
            the user of a network standardises.
        likelihood: Distribution of the targets, in their own unit; None for classes.
        feature_names: What the features of a table are called.
        remarks: What was guessed or changed when the data were read, in words.
        source: Where own data were read from, as JSON values (`secateur.data.own.OwnData`).
    """

    name: str
    train: Split
    test: Split
    num_classes: int | None
    class_names: tuple[str, ...]
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    inputs: Standardisation | None = None
    likelihood: Likelihood | None = None
    feature_names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    source: Mapping[str, Any] | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of one image, or the number of features of one row."""
        return self.train.image_shape


def validate(
    split: Split,
    *,
    num_classes: int | None,
    image_shape: tuple[int, ...] | None = None,
    name: str = "data set",
) -> None:
    """Check inputs and labels before training or evaluation.

    Args:
        split: The data.
        num_classes: Labels must lie in 0 ... `num_classes` - 1; None takes labels that are no classes.
        image_shape: Shape that each input must have; None takes any.
        name: What the message calls the data.

    Raises:
        DataError: If there are no data, an image has another shape, a pixel is nan or infinite, or a label
            is out of range. The message says which, what was expected and what was got.
    """
    if not len(split):
        raise DataError(f"{name}: expected at least one image, got an empty data set")
    got_shape = tuple(split.images.shape[1:])
    if image_shape is not None and got_shape != tuple(image_shape):
        kind = "images" if len(image_shape) == 3 else "rows"
        raise DataError(f"{name}: expected {kind} of shape {tuple(image_shape)}, got {got_shape}")
    if not split.images.sum().isfinite():  # one pass without a copy; only bad data are looked at closer
        _refuse_bad_pixels(split, name)
    if num_classes is None:
        return
    if split.labels.dtype != torch.int64 or split.labels.ndim != 1:
        raise DataError(
            f"{name}: expected a class number (int64) for each input, got {split.labels.dtype} of shape "
            f"{tuple(split.labels.shape)}; say which likelihood the targets have"
        )
    outside = (split.labels < 0) | (split.labels >= num_classes)
    if outside.any():
        first = int(outside.nonzero()[0])
        raise DataError(
            f"{name}: expected labels in 0 ... {num_classes - 1}, got {int(split.labels[first])}"
            f" for image {first}"
        )


def _refuse_bad_pixels(split: Split, name: str) -> None:
    """Say which images hold nan or infinity; return if there are none and only their sum overflowed."""
    finite = split.images.isfinite().flatten(1).all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        num_bad = int((~finite).sum())
        number, each = ("pixels", "image") if split.images.ndim == 4 else ("numbers", "row")
        raise DataError(
            f"{name}: expected finite {number}, got nan or infinity in {num_bad} of {len(split)} {each}s,"
            f" first in {each} {first}"
        )
