"""Hold removed entries out of a model, through `torch.nn.utils.prune`.

A masked parameter `weight` becomes `weight_orig` with a buffer `weight_mask`; the module multiplies them
before each forward pass, so removed entries get no gradient and no optimiser brings them back. The masks
are part of the model's `state_dict`, and `torch.nn.utils.prune.remove` makes them permanent.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from secateur.errors import InvalidArgumentError
from secateur.posterior import Posterior
from secateur.pruning.ranking import Report, reduce

__all__ = ["apply_masks", "masks_of", "output_layer", "prune"]


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks a model already carries, True where an entry stays, keyed by parameter name.

    Args:
        model: Any module; names are those its parameters had before masking.
    """
    masks = {}
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            parameter = name.removesuffix("_mask")
            if name.endswith("_mask") and f"{parameter}_orig" in module._parameters:
                masks[f"{prefix}.{parameter}" if prefix else parameter] = buffer > 0
    return masks


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask a model in place; what is already out stays out.

    Args:
        model: Any module.
        masks: True (or 1) where an entry stays, keyed by parameter name; masks without a removed entry
            leave their parameter as it is.

    Raises:
        InvalidArgumentError: If a name is not a parameter of the model, or a shape differs; the model is
            then unchanged.
    """
    placed = []
    for qualified, mask in masks.items():
        prefix, _, name = qualified.rpartition(".")
        module, parameter = _find(model, prefix, name)
        if parameter is None:
            raise InvalidArgumentError(f"masks: expected names of the model's parameters, got {qualified!r}")
        if parameter.shape != mask.shape:
            raise InvalidArgumentError(
                f"masks[{qualified!r}]: expected shape {tuple(parameter.shape)}, got {tuple(mask.shape)}"
            )
        placed.append((module, name, parameter, mask.to(parameter)))
    for module, name, parameter, mask in placed:
        if f"{name}_orig" in module._parameters:
            total = getattr(module, f"{name}_mask").mul_(mask)
            setattr(module, name, parameter * total)
        elif not mask.all():
            total = mask
            torch_prune.custom_from_mask(module, name, mask)
        else:
            continue
        # in place, also for optimisers that keep the parameter: a removed weight is zero, not hidden
        parameter.mul_(total)


def _find(model: nn.Module, prefix: str, name: str) -> tuple[nn.Module, nn.Parameter | None]:
    try:
        module = model.get_submodule(prefix)
    except AttributeError:
        return model, None
    return module, module._parameters.get(f"{name}_orig", module._parameters.get(name))


def output_layer(model: nn.Module) -> str | None:
    """Return the qualified name of the last module that has a weight of two or more dimensions, if any.

    Args:
        model: Modules registered in the order of the forward pass, as is usual.
    """
    last = None
    for name, module in model.named_modules():
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            last = name
    return last


def prune(
    model: nn.Module,
    posterior: Posterior,
    *,
    sparsity: float | None = None,
    granularity: str = "weight",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> Report:
    """Remove from a model, in place, what the evidence does not pay for.

    The masks hold through later training. The output layer stays unless `include` names it or the model
    has no other.

    Args:
        model: The network the posterior belongs to, perhaps already masked.
        posterior: Posterior of its weights.
        sparsity: Exact fraction of all the posterior's entries to be out afterwards; when None, the
            evidence decides.
        granularity: "weight", "neuron" or "channel".
        include: Name patterns (`fnmatch`) of parameters that may go.
        exclude: Name patterns of parameters that stay.

    Returns:
        What was decided: `.sparsity`, `.masks`, `.delta_f` and a row per layer.

    Raises:
        InvalidArgumentError: If posterior and model do not fit or the target cannot be met; the model is
            then unchanged.
    """
    known = _with_masks(posterior, masks_of(model))
    last = output_layer(model)
    others = [name for name, mean in known.mean.items() if name.rpartition(".")[0] != last and mean.dim() > 1]
    if include is None and others:
        exclude = [*(exclude or ()), f"{last}.*"]
    report = reduce(known, sparsity=sparsity, granularity=granularity, include=include, exclude=exclude)
    apply_masks(model, report.masks)
    return report


def _with_masks(posterior: Posterior, masks: Mapping[str, Tensor]) -> Posterior:
    """Return the posterior under the names parameters had before masking, with the model's masks counted."""
    plain = {f"{name}_orig": name for name in masks}

    def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {plain.get(name, name): tensor for name, tensor in tensors.items()}

    keep = renamed(posterior.keep)
    mean = renamed(posterior.mean)
    for name, mask in masks.items():
        if name in mean:
            here = mask.to(mean[name].device)
            keep[name] = keep[name] & here if name in keep else here
    return Posterior(mean, renamed(posterior.precision), renamed(posterior.prior_precision), keep)
