"""Convert the raw bytes of a data set to standardised images of the size a network reads.

Shapes: n images, c channels, h height, w width; pixels are bytes, 0 is black and 255 white.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from secateur.data.dataset import Dataset, Split
from secateur.errors import DataError

__all__ = ["RawImages", "fit_to", "prepare"]


@dataclass(frozen=True, kw_only=True)
class RawImages:
    """A data set as its files hold it."""

    name: str
    train_images: UInt8[Tensor, "n c h w"]
    train_labels: Int64[Tensor, " n"]
    test_images: UInt8[Tensor, "m c h w"]
    test_labels: Int64[Tensor, " m"]
    class_names: tuple[str, ...]


def fit_to(images: UInt8[Tensor, "n c h w"], size: int) -> UInt8[Tensor, "n c size size"]:
    """Resize square images by whole factors, cropping or zero padding.

    A whole multiple is reached by repeating pixels (8 x 8 to 32 x 32), anything else by a black frame
    (28 x 28 to 32 x 32, as LeCun et al. 1998 give LeNet its digits).

    Args:
        images: Raw pixels, before they are standardised.
        size: Height and width wanted.

    Raises:
        DataError: If the images are larger than `size`.
    """
    height, width = images.shape[2:]
    if height > size or width > size:
        raise DataError(f"expected images of at most {size} x {size}, got {height} x {width}")
    if height == width and size % height == 0:
        factor = size // height
        return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3) if factor > 1 else images
    top, left = (size - height) // 2, (size - width) // 2
    frame = (left, size - width - left, top, size - height - top)
    return torch.nn.functional.pad(images, frame)


def prepare(raw: RawImages, *, image_size: int | None = None, like: Dataset | None = None) -> Dataset:
    """Resize and standardise a data set: mean 0 and std 1 for each channel of the training images.

    Args:
        raw: What the files hold.
        image_size: Height and width wanted; None leaves them as they are.
        like: Another data set, whose mean and std to standardise with instead of this one's.

    Raises:
        DataError: If the images are larger than `image_size`, or `like` has other channels or does not know
            its moments.
    """
    train, test = raw.train_images, raw.test_images
    if image_size is not None:
        train, test = fit_to(train, image_size), fit_to(test, image_size)
    mean, std = _channel_moments(train) if like is None else _moments_of(like, num_channels=train.shape[1])
    return Dataset(
        name=raw.name,
        train=Split(_standardise(train, mean, std), raw.train_labels),
        test=Split(_standardise(test, mean, std), raw.test_labels),
        num_classes=len(raw.class_names),
        class_names=raw.class_names,
        pixel_mean=tuple((mean / 255).tolist()),
        pixel_std=tuple((std / 255).tolist()),
    )


def _moments_of(like: Dataset, *, num_channels: int) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    if len(like.pixel_mean) != num_channels or len(like.pixel_std) != num_channels:
        raise DataError(
            f"expected a data set with pixel mean and std of {num_channels} channel(s) to standardise like,"
            f" got {like.name} with {len(like.pixel_mean)}"
        )
    mean, std = torch.tensor([like.pixel_mean, like.pixel_std], dtype=torch.float64) * 255
    return mean, std


def _channel_moments(images: UInt8[Tensor, "n c h w"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Return mean and std per channel, exact in float64: a byte has only 256 values to count."""
    values = torch.arange(256, dtype=torch.float64)
    share = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)]).double()
    share = share / share.sum(1, keepdim=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]).square()).sum(1)
    return mean, torch.where(variance > 0, variance, 1.0).sqrt()


def _standardise(
    images: UInt8[Tensor, "n c h w"], mean: Float[Tensor, " c"], std: Float[Tensor, " c"]
) -> Float[Tensor, "n c h w"]:
    shape = (-1, 1, 1)
    return images.float().sub_(mean.float().view(shape)).div_(std.float().view(shape))
