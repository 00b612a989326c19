"""Criteria of a diagonal curvature: optimal brain damage, and the signal-to-noise ratio of a posterior.

Targets are sampled from the network once for each datum, unless `outputs="exact"` makes one backward pass for
each output. LeCun, Denker & Solla 1989; Graves 2011.
"""

from torch import Tensor

from secateur.curvature import estimate
from secateur.inference.laplace import laplace

from .task import Task

__all__ = ["optimal_brain_damage", "signal_to_noise"]


def optimal_brain_damage(task: Task, *, outputs: str = "sampled") -> dict[str, Tensor]:
    """Return masks without the smallest d w^2 of all layers together, d the exact diagonal.

    Args:
        task: The network, the data, and how much shall go.
        outputs: As for `secateur.curvature.estimate`.
    """
    found = estimate(
        task.model,
        task.batches,
        likelihood=task.likelihood,
        structure="diagonal",
        outputs=outputs,
        include=task.name_patterns(),
        num_data=task.num_data,
        seed=task.seed,
    ).diagonals()
    return task.select({
        layer.name: layer.as_matrix(found[layer.name]) * layer.matrix().square() for layer in task.layers
    })


def signal_to_noise(task: Task, *, outputs: str = "sampled") -> dict[str, Tensor]:
    """Return masks without the smallest |mean| / std of the diagonal Laplace posterior.

    Args:
        task: The network, the data, and how much shall go.
        outputs: As for `secateur.inference.laplace`.
    """
    posterior = laplace(
        task.model,
        task.batches,
        likelihood=task.likelihood,
        structure="diagonal",
        outputs=outputs,
        include=task.name_patterns(),
        num_data=task.num_data,
        seed=task.seed,
    )
    mean, std = posterior.mean, posterior.std
    return task.select({
        layer.name: layer.as_matrix(mean[layer.name].abs() / std[layer.name]) for layer in task.layers
    })
