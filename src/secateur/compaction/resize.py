"""Fit the modules of a freshly built network to the shapes of a smaller network's weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from secateur.errors import InvalidArgumentError

__all__ = ["changed_widths", "resize_like"]


def changed_widths(model: nn.Module, original: nn.Module) -> dict[str, int]:
    """Return the whole numbers that a smaller network's modules hold otherwise than the original's.

    Together with the shapes of the weights they say what `compact` did; JSON can hold them.

    Args:
        model: The smaller network.
        original: A network of the same class and of the original's sizes.
    """
    modules = dict(original.named_modules())
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) is int and path in modules and vars(modules[path]).get(name, value) != value
    }


@torch.no_grad()
def resize_like(model: nn.Module, shapes: Mapping[str, Sequence[int]], widths: Mapping[str, int]) -> None:
    """Give a network's parameters and buffers the shapes of another's, in place; values follow by loading.

    Tied parameters stay tied. A bias that `shapes` has and the layer has not is added.

    Args:
        model: A freshly built network.
        shapes: Shape of each entry of the other's `state_dict`.
        widths: What `changed_widths` returned for it: what layers and attention hold of their sizes.

    Raises:
        InvalidArgumentError: If a name is not one of the network's, or a shape has another number of axes;
            the network is then unchanged.
    """
    modules = dict(model.named_modules())
    before = model.state_dict(keep_vars=True)
    for name, shape in shapes.items():
        owner, _, leaf = name.rpartition(".")
        addable = leaf == "bias" and owner in modules and "bias" in modules[owner]._parameters
        if name not in before and not addable:
            raise InvalidArgumentError(f"shapes: expected names of {type(model).__name__}'s, got {name}")
        if name in before and before[name].dim() != len(shape):
            raise InvalidArgumentError(
                f"shapes: expected {before[name].dim()} axes for {name}, got {list(shape)}"
            )
    for name in widths:
        owner, _, leaf = name.rpartition(".")
        if owner not in modules or type(vars(modules[owner]).get(leaf)) is not int:
            raise InvalidArgumentError(f"widths: expected numbers that modules hold, got {name}")
    renewed: dict[int, Any] = {}
    for name, shape in shapes.items():
        owner, _, leaf = name.rpartition(".")
        old = before.get(name)
        if old is None:
            like = next(modules[owner].parameters(recurse=False))
            modules[owner].register_parameter(leaf, nn.Parameter(like.new_zeros(tuple(shape))))
        elif tuple(old.shape) != tuple(shape):
            if id(old) not in renewed:
                value = old.new_zeros(tuple(shape))
                parameter = isinstance(old, nn.Parameter)
                renewed[id(old)] = (
                    nn.Parameter(value, requires_grad=old.requires_grad) if parameter else value
                )
            setattr(modules[owner], leaf, renewed[id(old)])
    for name, value in widths.items():
        owner, _, leaf = name.rpartition(".")
        setattr(modules[owner], leaf, value)
