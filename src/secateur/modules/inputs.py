"""Example inputs and batches of any network: a tensor, a tuple, a dict, or a pair of both.

An example is what a network is called with:

    Tensor                    model(x)
    (a, b)                    model(a, b)
    {"x": a, "mask": b}       model(x=a, mask=b), also a Transformers `BatchEncoding`
    (inputs, {"mask": b})     model(*inputs, mask=b), where `inputs` is a tensor or a tuple

Anything else is one positional argument.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import InvalidArgumentError

__all__ = ["batch_size", "call", "call_arguments", "map_tensors", "to_device"]


def call_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that an example stands for.

    Args:
        example: Tensor, tuple of positional arguments, dict of keyword arguments, or a pair
            `(inputs, kwargs)` whose second is a dict.
    """
    if isinstance(example, Mapping):
        return (), dict(example)
    if not isinstance(example, tuple):
        return (example,), {}
    if len(example) == 2 and isinstance(example[1], Mapping):
        inputs, named = example
        return (inputs if isinstance(inputs, tuple) else (inputs,)), dict(named)
    return tuple(example), {}


def call(model: nn.Module, example: Any) -> Any:
    """Return what a model gives for an example.

    Args:
        model: Network to call.
        example: As for `call_arguments`.
    """
    positional, named = call_arguments(example)
    return model(*positional, **named)


def batch_size(example: Any) -> int:
    """Return the number of data in a batch: the length of its first tensor that has one.

    Args:
        example: As for `call_arguments`.

    Raises:
        InvalidArgumentError: If no tensor in it has a dimension.
    """
    for leaf in pytree.tree_leaves(call_arguments(example)):
        if isinstance(leaf, Tensor) and leaf.dim():
            return len(leaf)
    raise InvalidArgumentError(
        f"example: expected a tensor, tuple or dict with a batch of data, got {type(example).__name__}"
    )


def to_device(example: Any, device: torch.device | str) -> Any:
    """Return an example with its tensors on a device.

    Args:
        example: As for `call_arguments`.
        device: Where the tensors shall be.
    """
    return map_tensors(lambda tensor: tensor.to(device), example)


def map_tensors(function: Callable[[Tensor], Any], nest: Any) -> Any:
    """Return a nest of tuples, lists and dicts with a function applied to every tensor.

    Args:
        function: From tensor to anything.
        nest: Any nest; mappings come back as dicts, and what is not a tensor stays.
    """

    def mapped(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        if isinstance(leaf, Mapping):  # a mapping that pytree does not know, such as a BatchEncoding
            return {key: map_tensors(function, value) for key, value in leaf.items()}
        return leaf

    return pytree.tree_map(mapped, nest)
