"""A posterior for a network that is already trained: one curvature pass, no further training.

Laplace's approximation with the generalised Gauss-Newton matrix (GGN) at the trained weights, of which

    P_k = P0_k + sum_i sum_c ( d / d w_k  [B_i^T f(x_i; w)]_c )^2,     B_i B_i^T = d^2 loss_i / d f^2

is the diagonal. The likelihood gives the root B_i of the Hessian of the loss in the outputs
(`secateur.likelihoods`). The exact diagonal of plain batches is taken here, one vector-Jacobian product per
output, vectorised over data and outputs. All else is the work of `secateur.curvature`: factors of each layer,
sampled targets, batches as Transformers' networks take them.

Without a prior precision, one per module is found by maximising the Laplace evidence under the Kronecker
factors (`secateur.curvature.evidence_priors`), also where the posterior is diagonal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from glob import escape
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.curvature import Curvature, CurvaturePass, estimate, evidence_priors
from secateur.curvature.batches import learned_likelihood
from secateur.distributed import facts_of, require_same, sum_in_place, together
from secateur.errors import InvalidArgumentError
from secateur.inference.arguments import check_positive
from secateur.likelihoods import ALIASES, Likelihood, resolve
from secateur.modules import chosen, evaluation_mode, held_masks, require_whole, unwrapped
from secateur.posterior import Posterior

__all__ = ["laplace"]

NUMBERS_AT_ONCE = 1 << 27  # a gigabyte with the squares, in float32
STRUCTURES = ("diagonal", "row", "kronecker")
OUTPUTS = ("exact", "sampled")


@together()
def laplace(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    likelihood: str | Likelihood = "categorical",
    loss_fn: str | None = None,
    structure: str = "diagonal",
    outputs: str = "exact",
    prior_precision: float | None = None,
    num_data: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    chunk_size: int | None = None,
    seed: int = 0,
) -> Posterior:
    """Return the Laplace posterior of a trained network.

    The model is put in evaluation mode for the pass, and each module returns to its own mode. The curvature
    depends on the inputs, and on which tokens have a label. Other targets are read only where the likelihood
    learns its noise, in an earlier pass. In a process group each rank gives its own part of the data, and all
    return the posterior given all data.

    Args:
        model: Trained network.
        loader: Batches `(inputs, targets)` of the training data, dicts as Transformers' networks take them,
            or pairs `(inputs, kwargs)`; see `secateur.curvature.estimate`.
        likelihood: Distribution of the targets given the outputs, a name or a value of
            `secateur.likelihoods`.
        loss_fn: Earlier name of the same choice: "cross-entropy", or "squared-error" for regression with unit
            noise variance.
        structure: "diagonal" has independent weights, "row" weights that are joint within an output unit, and
            "kronecker" weights that are joint within a layer.
        outputs: "exact" makes one backward pass for each output, "sampled" one for each batch, at targets
            drawn from the network. Outputs with positions, as of language models, need "sampled".
        prior_precision: Prior inverse variance of each weight; per module by evidence when None.
        num_data: Size of the training data where the loader has only a part of it.
        include: Name patterns (`fnmatch`) of the parameters that get a posterior; all when None.
        exclude: Name patterns of parameters that stay points.
        chunk_size: Data whose gradients are held at once by the exact diagonal, `outputs * weights` numbers
            for each; when None, as many (up to 32) as fit in about a gigabyte.
        seed: Seed of the sampled targets.

    Raises:
        InvalidArgumentError: If an option is unknown, the likelihood does not fit the outputs, nothing is
            chosen, the loader is empty, or exact outputs are asked for that are not (batch, outputs).
    """
    if loss_fn is not None and loss_fn not in ALIASES:
        raise InvalidArgumentError(f"loss_fn: expected one of {', '.join(ALIASES)}, got {loss_fn!r}")
    for argument, value, valid in (("structure", structure, STRUCTURES), ("outputs", outputs, OUTPUTS)):
        if value not in valid:
            raise InvalidArgumentError(f"{argument}: expected one of {', '.join(valid)}, got {value!r}")
    likelihood, model = resolve(likelihood if loss_fn is None else loss_fn), unwrapped(model)
    require_whole(dict(model.named_parameters()))
    given = {"prior_precision": prior_precision, "chunk_size": chunk_size, "num_data": num_data}
    check_positive(**{name: value for name, value in given.items() if value is not None})
    batches = iter(loader)
    first = next(batches, None)
    if first is None:
        raise InvalidArgumentError("loader: expected at least one batch, got none")
    loader = loader if iter(loader) is not batches else chain([first], batches)
    exact = structure == "diagonal" and outputs == "exact" and _is_plain(first)
    same = {"structure": structure, "outputs": outputs, "num_data": num_data, "kind of batch": exact}
    require_same(
        facts_of(model) | same | {"prior_precision": prior_precision, "likelihood": str(likelihood)},
        advice="load the same model on all ranks, and give only the data in parts",
    )
    if exact:
        return _exact_diagonal(
            model, loader, likelihood, prior_precision, num_data, include, exclude, chunk_size
        )
    by_evidence = structure == "diagonal" and prior_precision is None
    curvature = estimate(
        model,
        loader,
        likelihood=likelihood,
        structure="kronecker" if by_evidence else structure,
        outputs=outputs,
        diagonal=structure == "diagonal",
        include=include,
        exclude=exclude,
        num_data=num_data,
        seed=seed,
    )
    if not by_evidence:
        return curvature.posterior(model, prior_precision=prior_precision)
    prior = _priors(curvature, model)
    return curvature.only_diagonal().posterior(model, prior_precision=prior)


def _is_plain(batch: Any) -> bool:
    """Return whether a batch is a pair of a tensor of inputs and targets."""
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    return pair and isinstance(batch[0], Tensor) and not isinstance(batch[1], Mapping)


def _exact_diagonal(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    likelihood: Likelihood,
    prior_precision: float | None,
    num_data: int | None,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    chunk_size: int | None,
) -> Posterior:
    """Return the diagonal posterior, all outputs of many data at once."""
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
    num_seen = 0
    with evaluation_mode(model), sdpa_kernel(SDPBackend.MATH):  # the one attention that vmap vectorises
        likelihood = learned_likelihood(likelihood, model, loader, device)
        factors = _factor_pass(model, likelihood, studied) if prior_precision is None else None
        for inputs, _ in loader:
            if num_seen == 0:
                with torch.no_grad():
                    outputs = model(inputs[:1].to(device))
                likelihood.check(outputs)
                if chunk_size is None:
                    chunk_size = _chunk_size(outputs.numel(), studied)
            assert chunk_size is not None
            num_seen += len(inputs)
            if factors is not None:
                factors.add(inputs)
            for part in inputs.split(chunk_size):
                each = vmap(squares)(part.to(device))
                for name, value in each.items():
                    curvature[name] += value.sum(0)
    seen = torch.tensor(num_seen, device=device)
    sum_in_place([seen, *curvature.values()])
    num_seen = int(seen)
    if num_data is not None:
        curvature = {name: value * (num_data / num_seen) for name, value in curvature.items()}
    if prior_precision is not None:
        value = next(iter(studied.values())).new_tensor(prior_precision)
        prior = dict.fromkeys(studied, value)
    else:
        total = num_seen if num_data is None else num_data
        prior = _evidence_prior(model, studied, curvature, factors, total)
    return Posterior(
        mean={name: weight.clone() for name, weight in studied.items()},
        precision={name: curvature[name] + prior[name] for name in studied},
        prior_precision=prior,
    )


def _chunk_size(num_outputs: int, studied: dict[str, Tensor]) -> int:
    numbers = num_outputs * sum(weight.numel() for weight in studied.values())
    return min(32, max(1, NUMBERS_AT_ONCE // numbers))


def _factor_pass(
    model: nn.Module, likelihood: Likelihood, studied: Mapping[str, Tensor]
) -> CurvaturePass | None:
    """Return a pass that gathers the factors of the studied layers; None where all of them are frozen."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = [escape(name) for name in studied if name in trained]
    if not names:
        return None
    return CurvaturePass(model, likelihood=likelihood, outputs="exact", include=names)


def _evidence_prior(
    model: nn.Module,
    studied: Mapping[str, Tensor],
    curvature: Mapping[str, Tensor],
    factors: CurvaturePass | None,
    num_data: int,
) -> dict[str, Tensor]:
    """Return one prior precision per module: by the factors where there are any, else by the diagonal."""
    found = Curvature({}, {}, num_data, num_data, None) if factors is None else factors.result(num_data)
    known = found.parameters()
    frozen = {name: value / num_data for name, value in curvature.items() if name not in known}
    priors = _priors(replace(found, diagonal=found.diagonal | frozen), model)
    return {name: weight.new_tensor(priors[name]) for name, weight in studied.items()}


def _priors(curvature: Curvature, model: nn.Module) -> dict[str, float]:
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name].detach() for name in curvature.parameters()}
    keep = {name: mask for name, mask in held_masks(model).items() if name in weights}
    return evidence_priors(curvature, weights, keep)
