"""Multilayer perceptron of the published comparison: 784-500-500-500-500-10 with swish.

Paper:  Markovic, Friston & Kiebel 2023, arXiv:2309.12095, Section 4.2; swish is Ramachandran, Zoph & Le
        2017, arXiv:1710.05941.
Shapes: n images or rows of a table in a batch, c channels, h height, w width, k classes.
        images (n, c, h, w) or rows (n, c h w) -> flat (n, c h w) -> hidden (n, width), `depth` times
        -> logits (n, k)
"""

import math
from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from secateur.networks.activations import activation_module

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected layers of one width; dropout, where asked for, after each activation.

    Args:
        image_shape: Channels, height and width of one image, or the number of features of a row; any.
        num_classes: Number of logits.
        width: Units in each hidden layer.
        depth: Number of hidden layers.
        activation: Name of the activation function.
        dropout: Probability that a hidden unit is zeroed in training.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...] = (1, 28, 28),
        num_classes: int = 10,
        *,
        width: int = 500,
        depth: int = 4,
        activation: str = "swish",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        num_inputs = math.prod(image_shape)
        for number in range(1, depth + 1):
            blocks[f"linear{number}"] = nn.Linear(num_inputs, width)
            blocks[f"activation{number}"] = activation_module(activation)
            if dropout:
                blocks[f"dropout{number}"] = nn.Dropout(dropout)
            num_inputs = width
        self.hidden = nn.Sequential(blocks)
        self.output = nn.Linear(num_inputs, num_classes)

    def forward(self, images: Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """Return logits."""
        return self.output(self.hidden(images.flatten(1)))
