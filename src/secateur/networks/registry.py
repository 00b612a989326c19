"""Build networks by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.errors import InvalidArgumentError, unknown_name
from secateur.networks.lenet import LeNet
from secateur.networks.mlp import MLP
from secateur.networks.mlp_mixer import MLPMixer
from secateur.networks.resnet import ResNet
from secateur.networks.vit import VisionTransformer

__all__ = ["build", "image_size", "names", "title"]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One name: who builds it, with which options, for which images, and how reports write it."""

    network: Callable[..., nn.Module]
    title: str = ""
    """As the literature writes it; empty where the name will do."""
    image_size: int | None = None
    """Height and width that the images must have; None where any will do."""
    takes_rows: bool = False
    """Whether it takes rows of a table as well as images."""
    options: Mapping[str, Any] = field(default_factory=dict)


_TABLE: dict[str, _Entry] = {
    "mlp": _Entry(network=MLP, title="MLP", takes_rows=True),
    "lenet": _Entry(network=LeNet, title="LeNet", image_size=32),
    "lenet-relu": _Entry(network=LeNet, title="LeNet (ReLU)", image_size=32, options={"activation": "relu"}),
    "vit": _Entry(network=VisionTransformer, title="ViT", image_size=32),
    "vit-small": _Entry(
        network=VisionTransformer,
        title="small ViT",
        image_size=32,
        options={"patch_size": 8, "width": 64, "depth": 4, "num_heads": 4},
    ),
    "mlp-mixer": _Entry(network=MLPMixer, title="MLP-Mixer", image_size=32),
    "mlp-mixer-small": _Entry(
        network=MLPMixer,
        title="small MLP-Mixer",
        image_size=32,
        options={"patch_size": 8, "width": 64, "token_width": 64, "channel_width": 128, "depth": 4},
    ),
    "resnet20": _Entry(network=ResNet, title="ResNet-20", image_size=32),
    "mlp-50": _Entry(
        network=MLP,
        title="MLP of 50 units",
        takes_rows=True,
        options={"width": 50, "depth": 1, "activation": "relu"},
    ),
}


def _entry(name: str) -> _Entry:
    if name not in _TABLE:
        raise unknown_name("network", name, _TABLE, own="package.module:function")
    return _TABLE[name]


def names() -> tuple[str, ...]:
    """Return the names that `build` knows."""
    return tuple(_TABLE)


def title(name: str) -> str:
    """Return a network's name as its literature writes it; the name itself where there is no entry.

    >>> title("lenet-relu"), title("mine")
    ('LeNet (ReLU)', 'mine')
    """
    return (name in _TABLE and _TABLE[name].title) or name


def image_size(name: str) -> int | None:
    """Return the height and width that the network's images must have; None where any will do.

    Raises:
        UsageError: If there is no such network.

    >>> image_size("lenet"), image_size("mlp")
    (32, None)
    """
    return _entry(name).image_size


def build(
    name: str,
    *,
    image_shape: tuple[int, ...],
    num_classes: int,
    dropout: float = 0.0,
    seed: int | None = None,
    **options: Any,
) -> nn.Module:
    """Build a freshly initialised network on the CPU.

    Args:
        name: One of `names()`.
        image_shape: Channels, height and width of one image, or the number of features of a row.
        num_classes: Number of logits.
        dropout: Probability of dropout in training; the paper's Flat-MAP uses 0.2.
        seed: Seed of the initial weights; the global random state stays as it was. None draws from it.
        options: Passed to the network's class, over what the table says.

    Raises:
        InvalidArgumentError: If `dropout` is no probability below 1, or the images do not suit the network.
        UsageError: If there is no such network.

    >>> network = build("lenet", image_shape=(1, 32, 32), num_classes=10, seed=0)
    >>> sum(parameter.numel() for parameter in network.parameters())
    61706
    """
    entry = _entry(name)
    if not 0 <= dropout < 1:
        raise InvalidArgumentError(f"expected dropout in [0, 1), got {dropout}")
    if len(image_shape) != 3 and not entry.takes_rows:
        tables = ", ".join(each for each in _TABLE if _TABLE[each].takes_rows)
        raise InvalidArgumentError(
            f"expected images for {name}, got inputs of shape {tuple(image_shape)}; rows of a table go into "
            f"{tables}"
        )
    settings = {**entry.options, **options}
    # On the CPU whatever the default device is: the same seed must give the same weights everywhere.
    with torch.device("cpu"), torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach CUDA's too
        return entry.network(image_shape, num_classes, dropout=dropout, **settings)
