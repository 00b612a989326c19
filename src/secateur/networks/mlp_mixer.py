"""MLP-Mixer: perceptrons across the patches and across the channels in turn, and nothing else.

Paper:  Tolstikhin et al. 2021, arXiv:2105.01601; the sizes are those of Markovic, Friston & Kiebel 2023,
        arXiv:2309.12095, Section 4.2: patch 4, width 256, token width 512, 6 blocks.
Shapes: n images in a batch, c channels, t patches, k classes.
        images (n, c, h, w) -> patches (n, t, width), `depth` blocks of mixing over t and over width
        -> mean over patches (n, width) -> logits (n, k)
"""

from jaxtyping import Float
from torch import Tensor, nn

from secateur.networks.patches import PatchEmbedding

__all__ = ["MLPMixer"]


class MixingMLP(nn.Module):
    """Two linear layers on the last axis with an activation between them.

    Args:
        width: Size of the last axis.
        hidden_width: Number of hidden units.
        dropout: Probability that a hidden unit or an output is zeroed in training.
    """

    def __init__(self, width: int, hidden_width: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden_width)
        self.activation = nn.GELU()
        self.contract = nn.Linear(hidden_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """Return the mixed values."""
        return self.dropout(self.contract(self.dropout(self.activation(self.expand(inputs)))))


class MixerBlock(nn.Module):
    """Mix over patches, then over channels, each added to what came in.

    Args:
        num_patches: Number of patches.
        width: Numbers per patch.
        token_width: Hidden units of the perceptron over patches.
        channel_width: Hidden units of the perceptron over channels.
        dropout: Probability of dropout in training.
    """

    def __init__(
        self, num_patches: int, width: int, token_width: int, channel_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.mix_tokens = MixingMLP(num_patches, token_width, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mix_channels = MixingMLP(width, channel_width, dropout)

    def forward(self, patches: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        """Return the patches after mixing."""
        patches = patches + self.mix_tokens(self.norm1(patches).transpose(1, 2)).transpose(1, 2)
        return patches + self.mix_channels(self.norm2(patches))


class MLPMixer(nn.Module):
    """Embed patches, mix them `depth` times, average, classify.

    Args:
        image_shape: Channels, height and width of one image; the patch divides the latter two.
        num_classes: Number of logits.
        patch_size: Height and width of a patch.
        width: Numbers per patch.
        token_width: Hidden units of the perceptrons over patches.
        channel_width: Hidden units of the perceptrons over channels; the paper's code has as many as over
            patches.
        depth: Number of blocks.
        dropout: Probability of dropout in training, in every block.

    Raises:
        InvalidArgumentError: If the patch does not divide the image.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        patch_size: int = 4,
        width: int = 256,
        token_width: int = 512,
        channel_width: int = 512,
        depth: int = 6,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(image_shape, patch_size, width)
        num_patches = self.embedding.num_patches
        self.blocks = nn.Sequential(
            *(MixerBlock(num_patches, width, token_width, channel_width, dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Return logits."""
        return self.output(self.norm(self.blocks(self.embedding(images))).mean(1))
