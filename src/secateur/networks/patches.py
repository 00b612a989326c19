"""Patch embedding: the first layer of ViT and MLP-Mixer.

Shapes: images (n, c, h, w) -> (n, t, width) with t = (h / patch) (w / patch), row by row.
"""

from jaxtyping import Float
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError

__all__ = ["PatchEmbedding"]


class PatchEmbedding(nn.Module):
    """Map square image patches to vectors by one linear layer, as a strided convolution.

    Args:
        image_shape: Channels, height and width of one image.
        patch_size: Height and width of a patch.
        width: Numbers per patch.

    Raises:
        InvalidArgumentError: If the patch does not divide height and width.
    """

    def __init__(self, image_shape: tuple[int, int, int], patch_size: int, width: int) -> None:
        super().__init__()
        num_channels, height, image_width = image_shape
        if height % patch_size or image_width % patch_size:
            raise InvalidArgumentError(
                f"expected height and width to be multiples of the patch size {patch_size},"
                f" got {height} x {image_width}"
            )
        self.num_patches = (height // patch_size) * (image_width // patch_size)
        self.projection = nn.Conv2d(num_channels, width, patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n t width"]:
        """Return one vector per patch."""
        return self.projection(images).flatten(2).transpose(1, 2)
