"""Augment images by random crops and horizontal flips. Off by default.

Paper:  He, Zhang, Ren & Sun 2016, arXiv:1512.03385, Section 4.2, for CIFAR: a frame of 4 pixels, a crop of
        the original size, flipped left to right with probability one half.
Shapes: n images, c channels, h height, w width.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["NO_HORIZONTAL_FLIP", "crop_and_flip"]

NO_HORIZONTAL_FLIP = frozenset({"digits"})  # data sets whose flipped images mean something else


def crop_and_flip(
    images: Float[Tensor, "n c h w"], *, padding: int = 4, generator: torch.Generator | None = None
) -> Float[Tensor, "n c h w"]:
    """Shift each image by up to `padding` pixels and flip it with probability one half.

    Nothing waits for the device: with a generator of the images' own, all of it is queued there.

    Args:
        images: A batch of standardised images; what is shifted in is 0, the mean colour.
        padding: Largest shift, in pixels.
        generator: Source of randomness, of the CPU or of the images' device. None takes PyTorch's own.
    """
    num, channels, height, width = images.shape
    device = generator.device if generator is not None else torch.device("cpu")

    def draw(high: int) -> Tensor:
        number = torch.randint(high, (num, 1), generator=generator, device=device)
        return number.to(images.device, non_blocking=True)

    top, left, mirrored = draw(2 * padding + 1), draw(2 * padding + 1), draw(2)
    rows = top + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(num, -1)
    columns = left + torch.where(mirrored.bool(), columns.flip(1), columns)
    framed = torch.nn.functional.pad(images, (padding, padding, padding, padding))
    image = torch.arange(num, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    drawn = framed[image, channel, rows.view(num, 1, height, 1), columns.view(num, 1, 1, width)]
    return torch.empty_like(images).copy_(drawn)  # in their memory format, which indexing does not keep
