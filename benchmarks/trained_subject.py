"""What a trained network is pruned on, judged by, and tested on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """A trained network and its data.

    Attributes:
        model: The network, in evaluation mode.
        loader: What to prune it on.
        held_out: What it has not been trained on and no weight is moved by; None where there is none.
        num_data: Size of the data that it was trained on.
        weights: Names of the weights that may go.
        scores: Returns test scores of a network.
    """

    model: nn.Module
    loader: Iterable[Any]
    held_out: Iterable[Any] | None
    num_data: int | None
    weights: tuple[str, ...]
    scores: Callable[[nn.Module], dict[str, float]]
