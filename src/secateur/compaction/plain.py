"""A copy of a network with plain parameters: no masks held, no parametrisations."""

import copy

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune

from secateur.modules.masks import release

__all__ = ["plain_copy"]


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network without masks or parametrisations; removed entries are zeros there.

    Args:
        model: Any module, masked (also by `torch.nn.utils.prune`) or not. It is not changed, and the copy
            shares no storage with it.

    Returns:
        The copy, in the same mode (training or evaluation), on the same devices.
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            # torch.nn.utils.prune keeps a product there that is no leaf, which deepcopy refuses.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    duplicate = copy.deepcopy(model, memo)
    if isinstance(duplicate, fx.GraphModule):  # which has a class of its own, whose name deepcopy forgets
        type(duplicate).__name__ = type(model).__name__
    release(duplicate)
    for module in duplicate.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
        if parametrize.is_parametrized(module):  # by a class of its own, which deepcopy shares with the model
            shared = type(module)
            own = {
                name: value for name, value in vars(shared).items() if name not in {"__dict__", "__weakref__"}
            }
            module.__class__ = type(shared.__name__, shared.__bases__, own)
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return duplicate
