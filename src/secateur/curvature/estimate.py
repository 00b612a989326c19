"""Curvature of a trained network in one pass over data.

The curvature is the generalised Gauss-Newton matrix, which for these likelihoods is the Fisher matrix: the
mean over data of J^T H J with J the derivative of the outputs in the weights and H the Hessian of the loss in
the outputs. Two ways to get it by backward passes:

    sampled   one pass a batch: the gradient g of the loss at targets drawn from the network's own predictive
              distribution has E[g g^T] = J^T H J. Targets of the data would do only for a network that fits
              nothing: the better the fit, the closer their gradients are to zero.
    exact     one pass for each column of a root B of H = B B^T: as many as there are outputs.

Sizes of the factors, and the rescaling of convolutions: `Curvature`. Literature: Martens & Grosse 2015,
arXiv:1503.05671; Grosse & Martens 2016, arXiv:1602.01407; Eschenhagen et al. 2023, arXiv:2311.00636.
"""

from collections.abc import Iterable, Sequence, Sized
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature.batches import in_step, learned_likelihood
from secateur.curvature.curvature_pass import CurvaturePass
from secateur.curvature.value import Curvature
from secateur.distributed import facts_of, rank, require_same, together
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Likelihood, resolve
from secateur.modules.modes import evaluation_mode
from secateur.modules.names import unwrapped

__all__ = ["estimate"]


@together()
def estimate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    likelihood: str | Likelihood = "categorical",
    structure: str = "kronecker",
    outputs: str = "sampled",
    diagonal: bool = False,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    num_data: int | None = None,
    max_batches: int | None = None,
    tolerance: float | None = None,
    largest_factor: int = 8192,
    seed: int = 0,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Curvature:
    """Estimate the curvature of a trained network's loss: Kronecker factors and diagonals of every layer.

    Linear maps (Transformers' `Conv1D` and `nn.MultiheadAttention` too) and convolutions get factors;
    embeddings, scales, shifts and all other parameters an exact diagonal. Weights that are tied, and layers
    that are called twice, have the gradients of all their uses added before anything is squared; A and G of a
    matrix sum over the positions of all linear uses, and lookups in a tied matrix enter its row sums.

    The model is in evaluation mode during the pass. Neither its weights, gradients nor modes change. In a
    process group each rank gives its own part of the data, and all return the curvature of all data.

    Args:
        model: Trained network.
        loader: Batches `(inputs, targets)`, dicts as Transformers' networks take them, `(inputs, kwargs)`, or
            inputs alone. `labels` in a dict are targets; tokens with a False `attention_mask` are left out.
        likelihood: Distribution of the targets; a name or a value of `secateur.likelihoods`.
        structure: "kronecker" gathers A, G and row sums, "row" A and row sums, "diagonal" the exact diagonal.
        outputs: "sampled" draws targets from the network, "exact" makes one backward pass per output.
        diagonal: Also gather the exact diagonal of layers that get factors.
        include: Name patterns (`fnmatch`) of parameters; all that take a gradient when None.
        exclude: Name patterns of parameters to leave out.
        num_data: Size of the data that the loss sums over; the data seen when None.
        max_batches: Batches to read at most.
        tolerance: Stop when no layer's factors have changed by more than this share (of their norm) since
            half of the batches; 0.05 is a good value.
        largest_factor: Rows or columns above which a layer gets no factor on that side. Without A it has the
            exact diagonal.
        seed: Seed of the sampled targets.
        generator: Source of the sampled targets instead of a seed, on the model's device.
        progress: Show a progress bar.

    Returns:
        Means over data.

    Raises:
        InvalidArgumentError: If an option is unknown, nothing is chosen, a chosen parameter is frozen, the
            loader is empty, weights or data are not finite, or outputs do not fit the likelihood.
    """
    if max_batches is not None and max_batches < 1:
        raise InvalidArgumentError(f"max_batches: expected at least 1, got {max_batches}")
    if tolerance is not None and not tolerance > 0:
        raise InvalidArgumentError(f"tolerance: expected a positive number, got {tolerance}")
    likelihood, model = resolve(likelihood), unwrapped(model)
    device = next(model.parameters(), torch.empty(0)).device
    options = {"structure": structure, "outputs": outputs, "num_data": num_data, "seed": seed}
    require_same(
        facts_of(model) | options | {"max_batches": max_batches, "likelihood": str(likelihood)},
        advice="load the same model on all ranks, and give only the data in parts",
    )
    with evaluation_mode(model):
        likelihood = learned_likelihood(likelihood, model, loader, device)
    current = CurvaturePass(
        model,
        likelihood=likelihood,
        structure=structure,
        outputs=outputs,
        diagonal=diagonal,
        include=include,
        exclude=exclude,
        largest_factor=largest_factor,
        seed=seed,
        generator=generator,
    )
    batches = islice(_shown(loader, max_batches) if progress and not rank() else loader, max_batches)
    check_at = 2
    before: dict[str, Tensor] = {}
    for number, batch in enumerate(in_step(batches, device, model), 1):
        current.add(batch)
        if tolerance is not None and number == check_at:
            now = current.diagonals()
            if before and _change(before, now) < tolerance:
                break
            before, check_at = now, 2 * check_at
    return current.result(num_data, ends=True)


def _change(before: dict[str, Tensor], now: dict[str, Tensor]) -> float:
    changes = [
        ((now[name] - old).norm() / now[name].norm().clamp_min(torch.finfo(old.dtype).tiny)).item()
        for name, old in before.items()
    ]
    return max(changes, default=0.0)


def _shown(loader: Iterable[Any], max_batches: int | None) -> Iterable[Any]:
    from rich.progress import track

    total = len(loader) if isinstance(loader, Sized) else None
    if max_batches is not None:
        total = max_batches if total is None else min(total, max_batches)
    return track(loader, description="curvature", total=total, transient=True)
