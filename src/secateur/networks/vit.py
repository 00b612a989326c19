"""Vision transformer: self-attention over image patches.

Paper:  Dosovitskiy et al. 2021, arXiv:2010.11929; the sizes are those of Markovic, Friston & Kiebel 2023,
        arXiv:2309.12095, Section 4.2: patch 4, width 256, depth 6, 8 heads, MLP ratio 2.
Shapes: n images in a batch, c channels, t patches, a heads, e = width / a, k classes.
        images (n, c, h, w) -> patches (n, t, width) -> with class token (n, t + 1, width), `depth` blocks of
        attention (n, a, t + 1, t + 1) and MLP -> class token (n, width) -> logits (n, k)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from secateur.networks.patches import PatchEmbedding

__all__ = ["VisionTransformer"]


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Query, key and value are layers of their own and the number of heads follows from their rows, so a whole
    head can be cut out: its rows there and its columns of `projection`.

    Args:
        width: Numbers per token.
        num_heads: Number of heads; divides `width`.
        dropout: Probability that an output is zeroed in training.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise InvalidArgumentError(f"expected num_heads to divide width {width}, got {num_heads}")
        self.head_width = width // num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        """Return the attention output of each token."""
        query, key, value = (
            layer(tokens).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        # Written out and not fused: the fused kernels have no second derivatives, which curvature needs.
        weights = (query @ key.transpose(-2, -1) * self.head_width**-0.5).softmax(-1)
        return self.dropout(self.projection((weights @ value).transpose(1, 2).flatten(2)))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention and an MLP, each with a residual connection.

    Args:
        width: Numbers per token.
        num_heads: Number of heads.
        mlp_ratio: Hidden units of the MLP over `width`.
        dropout: Probability that an output of attention or MLP, or a hidden unit, is zeroed in training.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, mlp_ratio * width)
        self.activation = nn.GELU()
        self.contract = nn.Linear(mlp_ratio * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        """Return the tokens after the block."""
        tokens = tokens + self.attention(self.norm1(tokens))
        hidden = self.dropout(self.activation(self.expand(self.norm2(tokens))))
        return tokens + self.dropout(self.contract(hidden))


class VisionTransformer(nn.Module):
    """Embed patches, add a class token and positions, transform, and read the class token.

    Args:
        image_shape: Channels, height and width of one image; the patch divides the latter two.
        num_classes: Number of logits.
        patch_size: Height and width of a patch.
        width: Numbers per token.
        depth: Number of blocks.
        num_heads: Heads of each block.
        mlp_ratio: Hidden units of a block's MLP over `width`.
        dropout: Probability of dropout in training: on the embedding and in every block.

    Raises:
        InvalidArgumentError: If the patch does not divide the image, or the heads the width.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        patch_size: int = 4,
        width: int = 256,
        depth: int = 6,
        num_heads: int = 8,
        mlp_ratio: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(image_shape, patch_size, width)
        num_tokens = self.embedding.num_patches + 1
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, num_tokens, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, num_heads, mlp_ratio, dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Return logits."""
        patches = self.embedding(images)
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], 1) + self.position
        return self.output(self.norm(self.blocks(self.dropout(tokens))[:, 0]))
