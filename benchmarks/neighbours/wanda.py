"""Wanda: the smallest |w_ij| * ||x_j|| of each row go, with ||x_j|| the norm of an input over the data.

Inputs are those of the dense network, from one forward pass. Sun et al. 2023, arXiv:2306.11695.
"""

from torch import Tensor

from .moments import input_moments
from .selection import keep_n_of_m, keep_per_row
from .task import Task

__all__ = ["wanda"]


def wanda(task: Task) -> dict[str, Tensor]:
    """Return masks without the smallest weights times inputs of each row.

    Args:
        task: The network, the data, and how much shall go.
    """
    squares = input_moments(task, diagonal=True)
    masks = {}
    for layer in task.layers:
        score = layer.matrix().abs() * squares[layer.name].sqrt()
        if task.pattern is not None:
            masks[layer.name] = keep_n_of_m(score, task.pattern)
        else:
            masks[layer.name] = keep_per_row(score, task.share_per_row(score))
    return masks
