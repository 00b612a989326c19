"""The networks of the published comparison, as plain `torch.nn.Module`s that know nothing of Secateur.

One family per file. `registry` holds the one table of names: a new network is one entry there.
"""

from secateur.networks.lenet import LeNet
from secateur.networks.mlp import MLP
from secateur.networks.mlp_mixer import MLPMixer
from secateur.networks.registry import build, image_size, names, title
from secateur.networks.resnet import ResNet
from secateur.networks.vit import VisionTransformer

__all__ = [
    "MLP",
    "LeNet",
    "MLPMixer",
    "ResNet",
    "VisionTransformer",
    "build",
    "image_size",
    "names",
    "title",
]
