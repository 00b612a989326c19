"""Data sets as tensors, and checks of images and labels before training."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from secateur.errors import DataError

__all__ = ["Dataset", "Split", "validate"]


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: Standardised pixels, shape (n, c, h, w).
        labels: Class numbers from 0, shape (n,).

    Raises:
        DataError: If the shapes do not fit each other or the numbers are of another kind.
    """

    images: Float[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]

    def __post_init__(self) -> None:
        if self.images.ndim != 4:
            raise DataError(f"expected images of shape (n, c, h, w), got {tuple(self.images.shape)}")
        if self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"expected one label for each of {len(self.images)} images, got {tuple(self.labels.shape)}"
            )
        if not self.images.is_floating_point() or self.labels.dtype != torch.int64:
            raise DataError(
                "expected images as floating-point numbers and labels as int64,"
                f" got {self.images.dtype} and {self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class Dataset:
    """Training and test images with their labels.

    Attributes:
        name: Its name in results; marked where it is not the official data set.
        train: Data to learn from.
        test: Data to evaluate on.
        num_classes: Number of classes; labels run from 0 to `num_classes` - 1.
        class_names: What the classes are called, by label.
        pixel_mean: Per channel, what was subtracted from pixels between 0 (black) and 1 (white).
        pixel_std: Per channel, what the difference was then divided by. Both are what a user of the network
            needs to prepare an image; empty where nobody knows.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.train.image_shape


def validate(
    split: Split,
    *,
    num_classes: int | None,
    image_shape: tuple[int, int, int] | None = None,
    name: str = "data set",
) -> None:
    """Check images and labels before training or evaluation.

    Args:
        split: The data.
        num_classes: Labels must lie in 0 ... `num_classes` - 1; None takes labels that are no classes.
        image_shape: Channels, height and width that each image must have; None takes any.
        name: What the message calls the data.

    Raises:
        DataError: If there are no data, an image has another shape, a pixel is nan or infinite, or a label
            is out of range. The message says which, what was expected and what was got.
    """
    if not len(split):
        raise DataError(f"{name}: expected at least one image, got an empty data set")
    got_shape = tuple(split.images.shape[1:])
    if image_shape is not None and got_shape != tuple(image_shape):
        raise DataError(f"{name}: expected images of shape {tuple(image_shape)}, got {got_shape}")
    if not split.images.sum().isfinite():  # one pass without a copy; only bad data are looked at closer
        _refuse_bad_pixels(split, name)
    if num_classes is None:
        return
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
        raise DataError(
            f"{name}: expected finite pixels, got nan or infinity in {num_bad} of {len(split)} images,"
            f" first in image {first}"
        )
