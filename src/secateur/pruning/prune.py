"""Prune a network once, by a posterior that is at hand."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from secateur.modules import held_masks, hold, matching, prunable_exclude
from secateur.posterior import Posterior
from secateur.pruning.ranking import candidates, reduce
from secateur.pruning.result import PruneResult

__all__ = ["hold_removal", "prune", "with_masks"]


def prune(
    model: nn.Module,
    posterior: Posterior,
    *,
    sparsity: float | None = None,
    max_fraction: float = 1.0,
    granularity: str = "weight",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> PruneResult:
    """Prune a model in place by the evidence of a posterior, and hold the zeros through later training.

    Removed entries are exact zeros under the parameters' own names. Kept weights of a structured posterior
    move to their mean given the removal. Embeddings and the output layer stay unless `include` names them or
    the model has no other.

    Args:
        model: The network the posterior belongs to, perhaps already held.
        posterior: Posterior of its weights.
        sparsity: Exact fraction of all the posterior's entries to be out afterwards; when None, the
            evidence decides.
        max_fraction: Largest fraction of what is still in to remove now, best evidence first; only without
            `sparsity`. Below 1, in several calls with training between them, it spares accuracy: weights
            are not independent. `GradualPruner` does that.
        granularity: "weight", "neuron" or "channel".
        include: Name patterns (`fnmatch`) of parameters that may go.
        exclude: Name patterns of parameters that stay.

    Returns:
        What was removed; printing it gives a table.

    Raises:
        InvalidArgumentError: If posterior and model do not fit, a pattern matches nothing, or the target
            cannot be met; the model is then unchanged.
    """
    known = with_masks(posterior, held_masks(model))
    matching(known.mean, include, exclude)  # the caller's own patterns, before ours join them
    exclude = prunable_exclude(model, known.mean, include, exclude)
    if granularity != "weight":
        _check_rows(model, candidates(known, include=include, exclude=exclude))
    result = reduce(
        known,
        sparsity=sparsity,
        max_fraction=max_fraction,
        granularity=granularity,
        include=include,
        exclude=exclude,
    )
    hold_removal(model, known, result.masks)
    return result


def with_masks(posterior: Posterior, masks: Mapping[str, Tensor]) -> Posterior:
    """Return a posterior in which the entries that a model holds at zero count as out.

    Args:
        posterior: Posterior of the model's weights.
        masks: True where an entry stays, by parameter name; other names are ignored.
    """
    held = {
        name: mask.to(posterior.mean[name].device) & posterior.present(name)
        for name, mask in masks.items()
        if name in posterior.mean
    }
    return posterior.given(held) if held else posterior


def hold_removal(model: nn.Module, posterior: Posterior, masks: Mapping[str, Tensor]) -> None:
    """Hold a removal in a model, and move the kept weights of a structured posterior to their new means.

    Args:
        model: Network to change in place.
        posterior: Posterior before the removal.
        masks: True where an entry stays, by parameter name.

    Raises:
        InvalidArgumentError: If masks and model do not fit; the model is then unchanged.
    """
    moved = {} if posterior.is_diagonal else posterior.given(dict(masks)).point()
    hold(model, masks)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mean in moved.items():
        parameters[name].data.copy_(mean)


def _check_rows(model: nn.Module, layers: Iterable[str]) -> None:
    """Raise if a layer's rows are not its output units."""
    modules = dict(model.named_modules())
    for name in layers:
        if isinstance(modules.get(name), nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            raise InvalidArgumentError(
                "granularity: expected layers whose first axis is the output, got the transposed "
                f"convolution {name}; exclude it, or use 'weight'"
            )
