"""Masks that keep names: removed entries are exact zeros in the parameters, and they stay zero.

A held parameter keeps its name, and `state_dict` its keys: nothing is renamed, no buffer is added, and the
forward pass does nothing new. What keeps the zeros:

- a hook of the parameter fills removed entries of its gradient with 0 whenever autograd has accumulated it;
- a hook of every `torch.optim.Optimizer`, registered at the first `hold`, zeroes removed entries after each
  step, whatever momentum or decay did to them. Optimisers whose class sets `holds_masks = True` do so
  themselves and are passed over;
- a hook of the module zeroes removed entries after other weights are loaded into it.

Masks go with `copy.deepcopy`, with a pickle of the whole model, and with `.to()`. A `state_dict` has only the
zeros, and `hold_zeros` holds them again. An average of weights that was set up before `hold` is a network of
its own: hold it too. Where parameters are replaced, as by `fully_shard`, the new ones are held by the next
call of `held_masks` or `hold`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from secateur.modules.holding import HELD, Mask, ModuleMasks
from secateur.modules.shards import placed_like, whole
from secateur.modules.zeros import exact_zeros, require_values

__all__ = ["held_masks", "hold", "hold_zeros", "mask_of", "masked", "masks_of", "release", "version"]


@torch.no_grad()
def hold(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Remove entries of a model's parameters, in place, and keep them zero from now on.

    What is already held stays held. A tied parameter is held under all its names.

    Args:
        model: Any module with its weights in memory.
        masks: True (or not zero) where an entry stays, keyed by parameter name. A mask that removes nothing
            changes nothing.

    Raises:
        InvalidArgumentError: If a name is not a parameter's, a shape differs, a mask has nan, or a parameter
            has no values (a model on `meta`) or integers; the model is then unchanged.
    """
    checked = _checked(model, masks)
    _hold_replaced(model)
    held = set()
    for parameter, kept in checked:
        before = HELD.get(parameter)
        if before is not None:
            kept &= before.on(parameter)
        if not whole(kept.all()):
            held.add(id(parameter))
            if before is None or not torch.equal(kept, before.on(parameter)):
                HELD.attach(parameter, Mask(kept))
    for module in model.modules() if held else ():
        for name, own in module._parameters.items():
            if own is not None and id(own) in held:
                ModuleMasks.made_for(module).hold(name, own)


def held_masks(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks that a model holds, True where an entry stays, keyed by parameter name.

    Args:
        model: Any module. Tied parameters appear under every name.
    """
    _hold_replaced(model)
    masks = ((name, mask_of(each)) for name, each in model.named_parameters(remove_duplicate=False))
    return {name: mask for name, mask in masks if mask is not None}


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks a model holds, and those that the exact zeros of its other weights make.

    Zeros count in weights of two or more dimensions, but for the padding row of an embedding. In a bias
    beside such a weight they count if that weight has zeros too, or if the bias has other values as well: a
    bias of zeros alone beside a dense weight is the start of training. Layers without such a weight, as
    normalisation layers, have no masks of this kind.

    Args:
        model: Any module, for one a network that was saved with its zeros and loaded.

    Returns:
        True where an entry stays, keyed by parameter name; only parameters with a removed entry.

    Raises:
        InvalidArgumentError: If the model's weights are not in memory.
    """
    held = held_masks(model)
    return held | {name: ~zero for name, zero in exact_zeros(model).items() if name not in held}


def hold_zeros(model: nn.Module) -> dict[str, Tensor]:
    """Keep a model's exact zeros zero from now on, as for a pruned network that was saved and loaded.

    Args:
        model: Any module.

    Returns:
        The masks now held; see `masks_of`.

    Raises:
        InvalidArgumentError: If the model's weights are not in memory.
    """
    masks = masks_of(model)
    hold(model, masks)
    return masks


def release(model: nn.Module) -> dict[str, Tensor]:
    """Hold nothing any longer: removed entries are zero still, but training may move them.

    Args:
        model: Any module.

    Returns:
        The masks that were held, True where an entry stays.
    """
    masks = held_masks(model)
    for parameter in model.parameters():
        HELD.detach(parameter)
    for module in model.modules():
        ModuleMasks.remove_from(module)
    return masks


def mask_of(parameter: Tensor) -> Tensor | None:
    """Return the mask of a held parameter, True where an entry stays, or None if it is not held.

    Args:
        parameter: Of any model.
    """
    mask = HELD.get(parameter)
    return None if mask is None else mask.on(parameter).clone()


def version() -> int:
    """Return a number that changes whenever a mask of any parameter of the process changes."""
    return HELD.version


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Zero entries of a model's parameters inside the context; their values are back on exit.

    Args:
        model: Any module with its weights in memory.
        masks: True (or not zero) where an entry stays, keyed by parameter name.

    Raises:
        InvalidArgumentError: As for `hold`.
    """
    with torch.no_grad():
        checked = [(parameter, ~kept) for parameter, kept in _checked(model, masks)]
        before = [(parameter, removed, parameter[removed]) for parameter, removed in checked]
        for parameter, removed, _ in before:
            parameter.masked_fill_(removed, 0)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, removed, values in before:
                parameter.masked_scatter_(removed, values)


def _checked(model: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
    """Return each parameter with a new tensor, True where an entry stays; raise if a mask does not fit."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for name, mask in masks.items():
        parameter = parameters.get(name)
        if parameter is None:
            raise InvalidArgumentError(f"masks: expected names of the model's parameters, got {name!r}")
        require_values(name, parameter)
        if not (parameter.is_floating_point() or parameter.is_complex()):
            raise InvalidArgumentError(
                f"masks: expected names of floating-point parameters, got {name!r} of {parameter.dtype}"
            )
        if parameter.shape != mask.shape:
            raise InvalidArgumentError(
                f"masks[{name!r}]: expected shape {tuple(parameter.shape)}, got {tuple(mask.shape)}"
            )
        if mask.is_floating_point() and mask.isnan().any():
            raise InvalidArgumentError(f"masks[{name!r}]: expected True where an entry stays, got nan")
        kept = placed_like(parameter, mask.to(torch.bool, copy=True))
        if id(parameter) in found:  # tied
            kept &= found[id(parameter)][1]
        found[id(parameter)] = (parameter, kept)
    return list(found.values())


def _hold_replaced(model: nn.Module) -> None:
    """Hold parameters that took the place of held ones in their module."""
    for module in model.modules():
        own = ModuleMasks.of(module)
        if own is not None:
            own.hold_replaced(module)
