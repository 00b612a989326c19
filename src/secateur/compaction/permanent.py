"""A copy of a masked network with its masks written into the weights.

`torch.nn.utils.prune` keeps `weight_orig` and `weight_mask` and multiplies them before each call. The copy
has plain parameters under their plain names, zeros where the mask was zero, and no hooks of that kind.
"""

import copy

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune

__all__ = ["permanent"]


def permanent(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model` with masks and parametrisations made permanent.

    Args:
        model: Any module, masked or not. It is not changed, and the copy shares no storage with it.

    Returns:
        The copy, in the same mode (training or evaluation), on the same devices.
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            # The product weight_orig * weight_mask is no leaf, which deepcopy refuses.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    duplicate = copy.deepcopy(model, memo)
    if isinstance(duplicate, fx.GraphModule):  # which has a class of its own, whose name deepcopy forgets
        type(duplicate).__name__ = type(model).__name__
    for module in duplicate.modules():
        hooks = [
            hook for hook in module._forward_pre_hooks.values() if isinstance(hook, prune.BasePruningMethod)
        ]
        for name in [hook._tensor_name for hook in hooks]:
            prune.remove(module, name)
        for key, hook in list(module._forward_pre_hooks.items()):
            if getattr(hook, "__module__", None) == "secateur.pruning.masks":  # kept a mask up to date
                del module._forward_pre_hooks[key]
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return duplicate
