"""LeNet with three convolutions of 5x5, in the published comparison's form.

Paper:  LeCun, Bottou, Bengio & Haffner 1998, doi:10.1109/5.726791, Section II.B; the widths for colour
        images are those of Markovic, Friston & Kiebel 2023, arXiv:2309.12095, Section 4.2.
Shapes: n images in a batch, c channels, k classes, (a, b, d) = (6, 16, 120) or (18, 48, 360) in colour.
        images (n, c, 32, 32) -> (n, a, 28, 28) -> pool (n, a, 14, 14) -> (n, b, 10, 10) -> pool (n, b, 5, 5)
        -> (n, d, 1, 1) -> flat (n, d) -> dense (n, 84 or 256) -> logits (n, k)
"""

from jaxtyping import Float
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from secateur.networks.activations import activation_module

__all__ = ["LeNet"]


class LeNet(nn.Module):
    """Convolve, average-pool, convolve, average-pool, convolve, then two dense layers.

    Args:
        image_shape: Channels, height and width of one image; 32 x 32.
        num_classes: Number of logits.
        conv_channels: Output channels of the three convolutions. None takes the published (6, 16, 120),
            or three times as many for images of three channels.
        dense_width: Units in the hidden dense layer. None takes 84, or 256 for images of three channels.
        activation: Name of the activation function; the paper's is `"tanh"`.
        dropout: Probability that a unit of the hidden dense layer is zeroed in training. The convolutions
            have none: neighbouring pixels share what dropout would hide.

    Raises:
        InvalidArgumentError: If the images are not 32 x 32.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 32, 32),
        num_classes: int = 10,
        *,
        conv_channels: tuple[int, int, int] | None = None,
        dense_width: int | None = None,
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        num_channels, *size = image_shape
        if size != [32, 32]:
            raise InvalidArgumentError(f"expected images of 32 x 32 for LeNet, got {size[0]} x {size[1]}")
        colour = num_channels == 3
        first, second, third = conv_channels or ((18, 48, 360) if colour else (6, 16, 120))
        dense_width = dense_width or (256 if colour else 84)
        self.conv1 = nn.Conv2d(num_channels, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.conv3 = nn.Conv2d(second, third, 5)
        self.dense = nn.Linear(third, dense_width)
        self.output = nn.Linear(dense_width, num_classes)
        self.activation = activation_module(activation)
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Float[Tensor, "n c 32 32"]) -> Float[Tensor, "n k"]:
        """Return logits."""
        x = self.pool(self.activation(self.conv1(images)))
        x = self.pool(self.activation(self.conv2(x)))
        x = self.activation(self.conv3(x)).flatten(1)
        return self.output(self.dropout(self.activation(self.dense(x))))
