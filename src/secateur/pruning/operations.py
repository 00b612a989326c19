"""How many multiply-adds each weight of a network takes part in."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.modules import call

__all__ = ["dense_part", "operations_of_weights"]


def operations_of_weights(model: nn.Module, example: Any) -> dict[str, float]:
    """Count the multiply-adds of one call that an entry of each weight matrix takes part in, by name.

    PyTorch's own counter counts them, layer by layer. Only ratios of these numbers mean something: they are
    of all examples of the call together.

    Args:
        model: Network in evaluation mode, held or not.
        example: Arguments of a call.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        call(model, example)
    counted = counter.get_flop_counts()
    root = type(model).__name__
    owners = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, float] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.dim() < 2:
            continue
        flops = sum(counted.get(f"{root}.{name}" if name else root, {}).values())
        owner = owners[id(weight)]
        found[owner] = found.get(owner, 0.0) + flops / 2 / weight.numel()
    return found


def dense_part(mask: Tensor) -> Tensor:
    """Return where a matrix is left once its empty rows and columns are taken out.

    Scattered zeros save no operations, whole rows and columns do.

    Args:
        mask: True where an entry is in, shape (rows, columns, ...).
    """
    if mask.dim() < 2:
        return mask
    inside = mask.flatten(2).any(2) if mask.dim() > 2 else mask
    used = inside.any(1, keepdim=True) & inside.any(0, keepdim=True)
    return used.view(*used.shape, *[1] * (mask.dim() - 2)).expand_as(mask)
