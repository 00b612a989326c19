"""Masks from and to `torch.nn.utils.prune`, which renames `weight` to `weight_orig` beside a mask."""

from torch import Tensor, nn
from torch.nn.utils import prune

from secateur.errors import InvalidArgumentError
from secateur.modules.masks import held_masks, hold, release

__all__ = ["from_torch_prune", "to_torch_prune"]


def to_torch_prune(model: nn.Module) -> None:
    """Give a model's held masks to `torch.nn.utils.prune`, in place of holding them.

    Args:
        model: Any module that holds masks.

    Raises:
        InvalidArgumentError: If an attention layer's output projection is masked, which that layer reads
            without the call in which `torch.nn.utils.prune` would mask it; the model is then unchanged.
    """
    masks = held_masks(model)
    owners = [
        (module, parameter, masks[name])
        for prefix, module in model.named_modules()
        for parameter in list(module._parameters)
        if (name := f"{prefix}.{parameter}" if prefix else parameter) in masks
    ]
    uncalled = {module.out_proj for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    for module, parameter, _ in owners:
        if module in uncalled:
            raise InvalidArgumentError(
                f"model: expected masks that torch.nn.utils.prune can apply, got one of {parameter!r} of an "
                "attention layer's output projection, which is never called; keep the held mask"
            )
    release(model)
    for module, parameter, mask in owners:
        prune.custom_from_mask(module, parameter, mask)


def from_torch_prune(model: nn.Module) -> dict[str, Tensor]:
    """Hold the masks that `torch.nn.utils.prune` has put on a model; its parameters get their names back.

    Args:
        model: Any module; without such masks it is not changed.

    Returns:
        The masks found, True where an entry stays, keyed by parameter name.
    """
    found = {}
    for prefix, module in model.named_modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
                found[f"{prefix}.{name}" if prefix else name] = module.get_buffer(f"{name}_mask") != 0
                prune.remove(module, name)
    hold(model, found)
    return found
