"""LLM Surgeon: optimal brain surgeon under a Kronecker-factored curvature, in many small shots.

Each shot takes the curvature G (x) A anew and damps both factors by a share of their mean diagonal. An
entry's cost is w_ij^2 / (2 [G^-1]_ii [A^-1]_jj). One threshold over all layers takes out the share that the
shot has on a line from zero to the target. All that goes in a layer is compensated jointly: conjugate
gradients find the kept entries that minimise tr[(W - W0)^T G (W - W0) A]. Biases have a column of the layer's
matrix, never go, and move with the rest. van der Ouderaa et al. 2024, arXiv:2312.17244.
"""

import math
from glob import escape

import torch
from torch import Tensor

from secateur.curvature import LayerCurvature, estimate
from secateur.errors import InvalidArgumentError

from .selection import keep_globally
from .task import Task

__all__ = ["compensate", "llm_surgeon"]

SHARE_OF_A_SHOT = 0.5 / 40
TOLERANCE = 1e-4


def llm_surgeon(
    task: Task, *, shots: int | None = None, damping: float = 0.01, max_steps: int = 100
) -> dict[str, Tensor]:
    """Prune all layers together in shots with a fresh curvature for each, with compensation in each layer.

    Args:
        task: The network, the data, and how much shall go.
        shots: Number of shots; 40 up to a sparsity of a half and in proportion when None.
        damping: Share of the mean diagonal that is added to the diagonal of both factors.
        max_steps: Steps of conjugate gradients at most.

    Raises:
        InvalidArgumentError: If a pattern is asked for, or a layer is too large to have both factors.
    """
    if task.sparsity is None:
        raise InvalidArgumentError("pattern: expected a sparsity for llm-surgeon, got a pattern")
    shots = shots or max(math.ceil(task.sparsity / SHARE_OF_A_SHOT - 1e-9), 1)
    parameters = dict(task.model.named_parameters())
    biases = [layer.name.removesuffix("weight") + "bias" for layer in task.layers]
    studied = [layer.name for layer in task.layers] + [name for name in biases if name in parameters]
    kept = {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in studied}
    total = sum(layer.weight.numel() for layer in task.layers)
    for shot in range(1, shots + 1):
        curvature = estimate(
            task.model,
            task.batches,
            likelihood=task.likelihood,
            include=[escape(name) for name in studied],
            num_data=task.num_data,
            seed=task.seed + shot,
        )
        for layer in task.layers:
            if layer.name in curvature.diagonal:
                raise InvalidArgumentError(
                    f"weights: expected layers with Kronecker factors, got {layer.name!r}; leave it out"
                )
        values = {name: parameters[name].detach() for name in studied}
        factors = {name: _factors(name, own, damping) for name, own in curvature.layers.items()}
        scores = {
            name: _scores(layer, values, kept, *factors[name]) for name, layer in curvature.layers.items()
        }
        stays = keep_globally(scores, round(task.sparsity * total * shot / shots))
        for name, own in curvature.layers.items():
            moved = compensate(own.matrix.pack(values), *factors[name], stays[name], max_steps=max_steps)
            kept |= own.matrix.unpack(stays[name])
            with torch.no_grad():
                for parameter, value in own.matrix.unpack(moved).items():
                    parameters[parameter].copy_(value)
    return {layer.name: layer.as_matrix(kept[layer.name]) for layer in task.layers}


def _factors(name: str, layer: LayerCurvature, damping: float) -> tuple[Tensor, Tensor]:
    """Return G and A with their diagonals damped."""
    if layer.G is None or layer.A is None:
        raise InvalidArgumentError(f"weights: expected layers small enough for factors, got {name!r}")
    factors = layer.G.clone(), layer.A.clone()
    for factor in factors:
        # A layer whose gradients vanish still needs an inverse.
        factor.diagonal().add_(damping * factor.diagonal().mean() + torch.finfo(factor.dtype).tiny)
    return factors


def _scores(
    layer: LayerCurvature, values: dict[str, Tensor], kept: dict[str, Tensor], G: Tensor, A: Tensor
) -> Tensor:
    """Return the cost of each entry of a layer: minus one where it is out, infinity for biases."""
    inverse_G, inverse_A = (
        torch.cholesky_inverse(torch.linalg.cholesky(factor.double())).diagonal().to(factor.dtype)
        for factor in (G, A)
    )
    cost = layer.matrix.pack(values).square() / (2 * torch.outer(inverse_G, inverse_A))
    cost.masked_fill_(~layer.matrix.pack(kept), -1)
    stored = layer.matrix.unpack(cost)
    stored = {
        name: torch.full_like(each, torch.inf) if each.dim() < 2 else each for name, each in stored.items()
    }
    return layer.matrix.pack(stored)


def compensate(matrix: Tensor, G: Tensor, A: Tensor, kept: Tensor, *, max_steps: int = 100) -> Tensor:
    """Return the matrix with zeros outside the mask that is the nearest in the metric G (x) A.

    Args:
        matrix: Weights W0, shape (rows, columns).
        G: Factor of the rows.
        A: Factor of the columns.
        kept: Mask of the entries that stay.
        max_steps: Steps of conjugate gradients at most.
    """
    stays = kept.to(matrix.dtype)
    scale = torch.outer(G.diagonal(), A.diagonal())
    moved = torch.zeros_like(matrix)
    residual = stays * (G @ (matrix * (1 - stays)) @ A)
    limit = TOLERANCE * residual.norm()
    conditioned = residual / scale
    direction = conditioned.clone()
    product = (residual * conditioned).sum()
    for _ in range(max_steps):
        if residual.norm() <= limit:
            break
        image = stays * (G @ direction @ A)
        step = product / (direction * image).sum()
        moved += step * direction
        residual -= step * image
        conditioned = residual / scale
        before, product = product, (residual * conditioned).sum()
        direction = conditioned + product / before * direction
    return stays * (matrix + moved)
