"""Criteria of a diagonal curvature: optimal brain damage, and the signal-to-noise ratio of a posterior.

The diagonal is that of the Gauss-Newton matrix: by one backward pass for each output of a classifier of few
classes, and by one target sampled for each datum otherwise. LeCun, Denker & Solla 1989; Graves 2011.
"""

import torch
from torch import Tensor

from secateur.curvature import Curvature, estimate, evidence_priors
from secateur.curvature.batches import tensor_outputs
from secateur.modules import call

from .task import Task

__all__ = ["optimal_brain_damage", "signal_to_noise"]

FEW_OUTPUTS = 16


def optimal_brain_damage(task: Task, *, outputs: str | None = None) -> dict[str, Tensor]:
    """Return masks without the smallest d w^2 of all layers together, d the exact diagonal.

    Args:
        task: The network, the data, and how much shall go.
        outputs: As for `secateur.curvature.estimate`; "exact" where there are few when None.
    """
    found = _curvature(task, structure="diagonal", outputs=outputs).diagonals()
    return task.select({
        layer.name: layer.as_matrix(found[layer.name]) * layer.matrix().square() for layer in task.layers
    })


def signal_to_noise(task: Task, *, outputs: str | None = None) -> dict[str, Tensor]:
    """Return masks without the smallest |mean| / std of the diagonal Laplace posterior.

    The prior precision of each layer is found by evidence, as `secateur.inference.laplace` does.

    Args:
        task: The network, the data, and how much shall go.
        outputs: As for `secateur.curvature.estimate`; "exact" where there are few when None.
    """
    curvature = _curvature(task, structure="kronecker", outputs=outputs)
    weights = {layer.name: layer.weight.detach() for layer in task.layers}
    priors = evidence_priors(curvature, weights, {})
    posterior = curvature.only_diagonal().posterior(task.model, prior_precision=priors)
    ratios = {name: posterior.mean[name].abs() / posterior.std[name] for name in weights}
    return task.select({layer.name: layer.as_matrix(ratios[layer.name]) for layer in task.layers})


def _curvature(task: Task, *, structure: str, outputs: str | None) -> Curvature:
    return estimate(
        task.model,
        task.batches,
        likelihood=task.likelihood,
        structure=structure,
        outputs=outputs or _affordable(task),
        diagonal=True,
        include=task.name_patterns(),
        num_data=task.num_data,
        seed=task.seed,
    )


@torch.no_grad()
def _affordable(task: Task) -> str:
    """Return which gradients are taken: sampled ones are noisy where a network is sure of its answers."""
    outputs = tensor_outputs(call(task.model, next(task.read()).example))
    return "exact" if outputs.dim() == 2 and outputs.shape[1] <= FEW_OUTPUTS else "sampled"
