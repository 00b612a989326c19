"""A posterior for a network that is already trained: one curvature pass, no further training.

Laplace's approximation with the diagonal of the generalised Gauss-Newton matrix (GGN),

    P_k = P0_k + sum_i sum_c ( d / d w_k  [B_i^T f(x_i; w)]_c )^2,     B_i B_i^T = d^2 loss_i / d f^2

at the trained weights. The likelihood gives the root B_i of the Hessian of the loss in the outputs
(`secateur.likelihoods`). The sum over outputs c is exact, one vector-Jacobian product per output,
vectorised over data and outputs.

Without a prior precision, one per layer is found by maximising the Laplace evidence (MacKay 1992,
doi:10.1162/neco.1992.4.3.415):  P0 <- gamma / sum w^2,  gamma = sum_k 1 - P0 / P_k.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.errors import InvalidArgumentError
from secateur.inference.arguments import check_positive
from secateur.likelihoods import ALIASES, Likelihood, resolve
from secateur.modules import chosen, evaluation_mode
from secateur.posterior import Posterior

__all__ = ["laplace"]

NUMBERS_AT_ONCE = 1 << 27  # a gigabyte with the squares, in float32
MAX_PRECISION = 1e30  # of weights that are all zero, where the evidence has no maximum; finite in float32


def laplace(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    likelihood: str | Likelihood = "categorical",
    loss_fn: str | None = None,
    prior_precision: float | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    chunk_size: int | None = None,
) -> Posterior:
    """Return the diagonal Laplace posterior of a trained network.

    The model is put in evaluation mode for the pass, and each module returns to its own mode. The curvature
    depends on the inputs alone. Targets are read only where the likelihood learns its noise, in an earlier
    pass.

    Args:
        model: Trained network; its outputs have the shape (batch, outputs).
        loader: Batches `(inputs, targets)` of the training data.
        likelihood: Distribution of the targets given the outputs, a name or a value of
            `secateur.likelihoods`.
        loss_fn: Earlier name of the same choice: "cross-entropy", or "squared-error" for regression with unit
            noise variance.
        prior_precision: Prior inverse variance of each weight; per layer by evidence when None.
        include: Name patterns (`fnmatch`) of the parameters that get a posterior; all when None.
        exclude: Name patterns of parameters that stay points.
        chunk_size: Data whose gradients are held at once, `outputs * weights` numbers for each; when None,
            as many (up to 32) as fit in about a gigabyte.

    Raises:
        InvalidArgumentError: If the likelihood is unknown or does not fit the outputs, nothing is chosen, the
            loader is empty, or the outputs are not (batch, outputs).
    """
    if loss_fn is not None and loss_fn not in ALIASES:
        raise InvalidArgumentError(f"loss_fn: expected one of {', '.join(ALIASES)}, got {loss_fn!r}")
    likelihood = resolve(likelihood if loss_fn is None else loss_fn)
    if prior_precision is not None:
        check_positive(prior_precision=prior_precision)
    if chunk_size is not None:
        check_positive(chunk_size=chunk_size)
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
        if values.dim() != 1:
            got = ", ".join(["batch", *map(str, values.shape)])
            raise InvalidArgumentError(f"model: expected outputs of shape (batch, outputs), got ({got})")
        (rows,) = vmap(pull_back)(likelihood.root(values).mT)
        return {name: row.square().sum(0) for name, row in rows.items()}

    curvature = {name: torch.zeros_like(weight) for name, weight in studied.items()}
    device = next(iter(weights.values())).device
    num_data = 0
    with evaluation_mode(model), sdpa_kernel(SDPBackend.MATH):  # the one attention that vmap vectorises
        if likelihood.learned:
            likelihood = _learned(likelihood, model, loader, device)
        for inputs, _ in loader:
            if num_data == 0:
                with torch.no_grad():
                    outputs = model(inputs[:1].to(device))
                likelihood.check(outputs)
                if chunk_size is None:
                    chunk_size = _chunk_size(outputs.numel(), studied)
            assert chunk_size is not None
            num_data += len(inputs)
            for part in inputs.split(chunk_size):
                each = vmap(squares)(part.to(device))
                for name, value in each.items():
                    curvature[name] += value.sum(0)
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


@torch.no_grad()
def _learned(
    likelihood: Likelihood, model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Likelihood:
    """Return a likelihood that has learned its noise from the residuals of all data."""
    for inputs, targets in loader:
        likelihood = likelihood.updated(model(inputs.to(device)), targets.to(device))
    return likelihood


def _chunk_size(num_outputs: int, studied: dict[str, Tensor]) -> int:
    numbers = num_outputs * sum(weight.numel() for weight in studied.values())
    return min(32, max(1, NUMBERS_AT_ONCE // numbers))


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
        prior |= dict.fromkeys(names, precision.clamp_max(MAX_PRECISION).to(weights[names[0]].dtype))
    return prior
