"""Magnitude: the smallest |w| go, of the whole network or the same share of each layer."""

from torch import Tensor

from .selection import keep_globally, keep_n_of_m
from .task import Task

__all__ = ["magnitude", "magnitude_per_layer"]


def magnitude(task: Task) -> dict[str, Tensor]:
    """Return masks without the smallest weights of all layers together.

    Args:
        task: The network and how much shall go.
    """
    return task.select({layer.name: layer.matrix().abs() for layer in task.layers})


def magnitude_per_layer(task: Task) -> dict[str, Tensor]:
    """Return masks without the smallest weights of each layer, the same share of each.

    Args:
        task: The network and how much shall go.
    """
    masks = {}
    for layer in task.layers:
        score = layer.matrix().abs()
        if task.pattern is not None:
            masks[layer.name] = keep_n_of_m(score, task.pattern)
        else:
            masks |= keep_globally({layer.name: score}, task.share(score.numel()))
    return masks
