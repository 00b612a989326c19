"""A posterior for a network that is already trained: one curvature pass, no further training.

Laplace's approximation with the diagonal of the generalised Gauss-Newton matrix (GGN),

    P_k = P0_k + sum_i sum_c ( d / d w_k  [B_i^T f(x_i; w)]_c )^2,     B_i B_i^T = d^2 loss_i / d f^2

at the trained weights. For cross-entropy B_i = (diag(p) - p p^T) diag(p)^-1/2; for squared error (noise
variance 1) it is the identity. The sum over outputs c is exact, one vector-Jacobian product per output,
vectorised over data.

Without a prior precision, one per layer is found by maximising the Laplace evidence (MacKay 1992,
doi:10.1162/neco.1992.4.3.415):  P0 <- gamma / sum w^2,  gamma = sum_k 1 - P0 / P_k.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from secateur.errors import InvalidArgumentError
from secateur.inference.base import chosen
from secateur.posterior import Posterior

__all__ = ["LOSSES", "laplace"]

LOSSES = ("cross-entropy", "squared-error")


def laplace(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    loss_fn: str = "cross-entropy",
    prior_precision: float | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    chunk_size: int = 32,
) -> Posterior:
    """Return the diagonal Laplace posterior of a trained network.

    The model is put in evaluation mode for the pass and left as it was. Each batch's inputs are read; its
    labels are not, since the GGN of these losses does not depend on them.

    Args:
        model: Trained network; its outputs are logits (or means), shape (batch, outputs).
        loader: Batches `(inputs, labels)` of the training data, once through.
        loss_fn: "cross-entropy", or "squared-error" for regression with unit noise variance.
        prior_precision: Prior inverse variance of each weight; per layer by evidence when None.
        include: Name patterns (`fnmatch`) of the parameters that get a posterior; all when None.
        exclude: Name patterns of parameters that stay points.
        chunk_size: Data whose gradients are held at once; lower it to save memory.

    Raises:
        InvalidArgumentError: If the loss is unknown, nothing is chosen, or the loader is empty.
    """
    if loss_fn not in LOSSES:
        raise InvalidArgumentError(f"loss_fn: expected one of {', '.join(LOSSES)}, got {loss_fn!r}")
    if prior_precision is not None and not prior_precision > 0:
        raise InvalidArgumentError(f"prior_precision: expected a positive number, got {prior_precision}")
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    studied = {name: weight for name, weight in weights.items() if chosen(name, include, exclude)}
    if not studied:
        raise InvalidArgumentError(
            f"include, exclude: expected at least one parameter, got include={include}, exclude={exclude}"
        )
    rest = {name: weight for name, weight in weights.items() if name not in studied}
    rest |= {name: buffer.detach() for name, buffer in model.named_buffers()}

    def squares(example: Tensor) -> dict[str, Tensor]:
        def outputs(chosen_weights: dict[str, Tensor]) -> Tensor:
            return functional_call(model, {**rest, **chosen_weights}, (example[None],))[0]

        values, pull_back = vjp(outputs, studied)[:2]
        (rows,) = vmap(pull_back)(_loss_root(values, loss_fn))
        return {name: row.square().sum(0) for name, row in rows.items()}

    curvature = {name: torch.zeros_like(weight) for name, weight in studied.items()}
    num_data = 0
    was_training = model.training
    model.eval()
    try:
        for inputs, _ in loader:
            num_data += len(inputs)
            for part in inputs.split(chunk_size):
                each = vmap(squares)(part.to(next(iter(weights.values())).device))
                for name, value in each.items():
                    curvature[name] += value.sum(0)
    finally:
        model.train(was_training)
    if num_data == 0:
        raise InvalidArgumentError("loader: expected at least one batch, got none")
    if prior_precision is not None:
        value = next(iter(studied.values())).new_tensor(prior_precision)
        prior = dict.fromkeys(studied, value)
    else:
        prior = _evidence_prior(studied, curvature)
    return Posterior(
        mean={name: weight.clone() for name, weight in studied.items()},
        precision={name: curvature[name] + prior[name] for name in studied},
        prior_precision=prior,
    )


def _loss_root(outputs: Tensor, loss_fn: str) -> Tensor:
    """Return B^T, one row per output, with B B^T the loss's Hessian in the outputs."""
    if loss_fn == "squared-error":
        return torch.eye(len(outputs), dtype=outputs.dtype, device=outputs.device)
    probabilities = outputs.softmax(-1)
    identity = torch.eye(len(outputs), dtype=outputs.dtype, device=outputs.device)
    return probabilities.sqrt()[:, None] * (identity - probabilities[None, :])


def _evidence_prior(
    weights: dict[str, Tensor], curvature: dict[str, Tensor], *, num_iterations: int = 100
) -> dict[str, Tensor]:
    """Return one prior precision per layer that maximises the Laplace evidence of its weights."""
    layers: dict[str, list[str]] = {}
    for name in weights:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    prior: dict[str, Tensor] = {}
    for names in layers.values():
        weight = torch.cat([weights[name].flatten() for name in names]).double()
        curve = torch.cat([curvature[name].flatten() for name in names]).double()
        power = weight.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
        precision = len(weight) / power
        for _ in range(num_iterations):
            precision = (curve / (curve + precision)).sum().clamp_min(1e-6) / power
        prior |= dict.fromkeys(names, precision.to(weights[names[0]].dtype))
    return prior
