"""Residual networks in the form made for CIFAR: 6 b + 2 layers, and shortcuts without weights.

Paper:  He, Zhang, Ren & Sun 2016, arXiv:1512.03385, Section 4.2. Where the width doubles, the shortcut takes
        every other pixel and fills the new channels with zeros ("option A"), half of them on either side.
Shapes: n images in a batch, c channels, k classes.
        images (n, c, h, w) -> (n, 16, h, w), b blocks -> (n, 32, h/2, w/2), b blocks
        -> (n, 64, h/4, w/4), b blocks -> mean over pixels (n, 64) -> logits (n, k)

Batch normalisation and sampled weights: in training each batch is normalised by its own moments, under the
weights drawn for that batch, so the running moments are an average over batches *and* draws, and suit
neither the posterior mean nor any draw. `secateur.fit` therefore gives each network that it judges moments of
its own, from training images: the posterior mean after every epoch and reduction (those are stored), and
every draw of an averaged prediction, for which a run stores `training.batch_norm.NUM_CALIBRATION` images. In
a loop of your own, call `modules.reestimate(model, images)` before you evaluate. Scales and
shifts get a posterior like any weight and are never pruned.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, relu

__all__ = ["ResNet"]


class ResidualBlock(nn.Module):
    """Two convolutions of 3 x 3, added to their input.

    Args:
        num_inputs: Channels that come in.
        num_outputs: Channels that go out.
        stride: Step of the first convolution; 2 halves height and width.
    """

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.stride = stride
        self.num_new = num_outputs - num_inputs

    def forward(self, inputs: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """Return the block's output; d channels, i x j pixels."""
        shortcut = inputs[:, :, :: self.stride, :: self.stride]
        if self.num_new:
            before = self.num_new // 2
            shortcut = pad(shortcut, (0, 0, 0, 0, before, self.num_new - before))
        hidden = relu(self.bn1(self.conv1(inputs)))
        return relu(self.bn2(self.conv2(hidden)) + shortcut)


class ResNet(nn.Module):
    """Three stages of residual blocks; `num_blocks` 3 is ResNet-20.

    Args:
        image_shape: Channels, height and width of one image.
        num_classes: Number of logits.
        num_blocks: Blocks per stage.
        width: Channels of the first stage; doubled in each of the next two.
        dropout: Probability that one of the averaged features is zeroed in training.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        num_blocks: int = 3,
        width: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, num_blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, num_blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, num_blocks, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Return logits."""
        x = relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.dropout(x.mean((2, 3))))


def _stage(num_inputs: int, num_outputs: int, num_blocks: int, *, stride: int) -> nn.Sequential:
    first = ResidualBlock(num_inputs, num_outputs, stride)
    return nn.Sequential(first, *(ResidualBlock(num_outputs, num_outputs, 1) for _ in range(num_blocks - 1)))
