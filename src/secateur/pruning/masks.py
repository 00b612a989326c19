"""Hold removed entries out of a model, through `torch.nn.utils.prune`.

A masked parameter `weight` becomes `weight_orig` with a buffer `weight_mask`; the module multiplies them
before each forward pass, so removed entries get no gradient and no optimiser brings them back. The masks
are part of the model's `state_dict`, and `torch.nn.utils.prune.remove` makes them permanent.
"""

from collections.abc import Iterable, Mapping, Sequence
from glob import escape

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from secateur.errors import InvalidArgumentError
from secateur.inference.arguments import check_patterns
from secateur.posterior import Posterior
from secateur.pruning.decision import Report
from secateur.pruning.ranking import candidates, reduce

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
            leave their parameter as it is. Tied weights are masked wherever they are used.

    Raises:
        InvalidArgumentError: If a name is not a parameter of the model, or a shape differs; the model is
            then unchanged.
    """
    owners = _owners(model)
    by_name = dict(model.named_parameters(remove_duplicate=False))
    placed = []
    for qualified, mask in masks.items():
        parameter = by_name.get(f"{qualified}_orig", by_name.get(qualified))
        if parameter is None:
            raise InvalidArgumentError(f"masks: expected names of the model's parameters, got {qualified!r}")
        if parameter.shape != mask.shape:
            raise InvalidArgumentError(
                f"masks[{qualified!r}]: expected shape {tuple(parameter.shape)}, got {tuple(mask.shape)}"
            )
        placed.append((parameter, (mask != 0).to(parameter)))
    for parameter, mask in placed:
        for module, name in owners[parameter]:  # several where weights are tied
            if f"{name}_mask" in module._buffers:
                mask *= getattr(module, f"{name}_mask")
        if mask.all():
            continue
        # in place, also for optimisers that keep the parameter: a removed weight is zero, not hidden
        parameter.mul_(mask)
        for module, name in owners[parameter]:
            if f"{name}_mask" in module._buffers:
                getattr(module, f"{name}_mask").copy_(mask)
                setattr(module, name, parameter * mask)
            else:
                torch_prune.custom_from_mask(module, name, mask)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            _keep_projection_masked(module)


def _owners(model: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Return every module that holds each parameter, with the parameter's name before masking."""
    owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            plain = name.removesuffix("_orig")
            if parameter is not None:
                masked = f"{plain}_mask" in module._buffers
                owners.setdefault(parameter, []).append((module, plain if masked else name))
    return owners


def _keep_projection_masked(module: nn.MultiheadAttention) -> None:
    """Let an attention layer bring its output projection up to date before each forward pass.

    It reads `out_proj.weight` without calling `out_proj`, so the hooks that mask it there never run.
    """
    masked = any(name.endswith("_mask") for name in module.out_proj._buffers)
    if masked and _refresh_projection not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_refresh_projection)


def _refresh_projection(module: nn.MultiheadAttention, _inputs: object) -> None:
    for hook in module.out_proj._forward_pre_hooks.values():
        if isinstance(hook, torch_prune.BasePruningMethod):
            hook(module.out_proj, ())


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


def output_parameters(model: nn.Module) -> list[str]:
    """Return the names of the output layer's parameters before masking, tied ones under every name.

    Args:
        model: As for `output_layer`.
    """
    last = output_layer(model)
    if last is None:
        return []
    own = set(model.get_submodule(last).parameters(recurse=False))
    masked = {f"{name}_orig": name for name in masks_of(model)}
    return [
        masked.get(name, name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter in own
    ]


def prune(
    model: nn.Module,
    posterior: Posterior,
    *,
    sparsity: float | None = None,
    max_fraction: float = 1.0,
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
        max_fraction: Largest fraction of what is still in to remove now, best evidence first; only without
            `sparsity`. Below 1, in several calls with training between them, it spares accuracy: weights
            are not independent.
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
    check_patterns(include, exclude)
    output = output_parameters(model)
    if include is None and any(mean.dim() > 1 for name, mean in known.mean.items() if name not in output):
        exclude = [*(exclude or ()), *map(escape, output)]
    if granularity != "weight":
        _check_rows(model, candidates(known, include=include, exclude=exclude))
    report = reduce(
        known,
        sparsity=sparsity,
        max_fraction=max_fraction,
        granularity=granularity,
        include=include,
        exclude=exclude,
    )
    apply_masks(model, report.masks)
    return report


def _check_rows(model: nn.Module, layers: Iterable[str]) -> None:
    """Raise if a layer's rows are not its output units."""
    modules = dict(model.named_modules())
    for name in layers:
        if isinstance(modules.get(name), nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            raise InvalidArgumentError(
                "granularity: expected layers whose first axis is the output, got the transposed "
                f"convolution {name}; exclude it, or use 'weight'"
            )


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
