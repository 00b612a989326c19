"""Removed entries read off a network's weights: where exact zeros stand in its matrices and biases."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.errors import InvalidArgumentError
from secateur.modules.shards import whole

__all__ = ["exact_zeros", "require_values"]


def require_values(name: str, parameter: Tensor) -> None:
    """Raise if a parameter has no values, as on the `meta` device or before a lazy module's first call.

    Args:
        name: Its name, for the message.
        parameter: Of any model.

    Raises:
        InvalidArgumentError: If it has none.
    """
    if is_lazy(parameter) or parameter.is_meta:
        raise InvalidArgumentError(
            f"model: expected weights in memory, got {name!r} without values; load or initialise them"
        )


@torch.no_grad()
def exact_zeros(model: nn.Module) -> dict[str, Tensor]:
    """Return where the weights of a network are exactly zero, as after pruning, keyed by parameter name.

    Weights of two or more dimensions are read but for an embedding's padding row. A bias beside them is read
    if they have zeros, or if the bias has other values than zero: all zeros beside a dense weight are the
    start of training.

    Args:
        model: Any module with its weights in memory; tied parameters appear under every name.

    Returns:
        True where an entry is zero; only parameters that have one. Whole, also of parameters in shards.

    Raises:
        InvalidArgumentError: If the weights are not in memory.
    """
    for name, parameter in model.named_parameters():
        require_values(name, parameter)
    padding: dict[int, list[int]] = {}
    for module in model.modules():
        row = getattr(module, "padding_idx", None)
        if isinstance(row, int):
            for parameter in module.parameters(recurse=False):
                padding.setdefault(id(parameter), []).append(row)
    found: dict[int, Tensor] = {}
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.is_floating_point() or p.is_complex()]
        matrices = [parameter for parameter in own if parameter.dim() > 1]
        for parameter in matrices:
            zero = whole(parameter) == 0
            zero[padding.get(id(parameter), [])] = False
            found[id(parameter)] = zero
        for bias in own:
            if matrices and bias.dim() == 1:
                zero = whole(bias) == 0
                if not zero.all() or any(found[id(matrix)].any() for matrix in matrices):
                    found[id(bias)] = zero
    named = model.named_parameters(remove_duplicate=False)
    return {name: found[id(each)] for name, each in named if id(each) in found and found[id(each)].any()}
