"""Second moments of the inputs of layers, gathered by forward hooks; no activation outlives its batch.

Layers that are called with the same tensor, one right after the other, as the query, key and value of an
attention, make a group and have their moments gathered once. Groups are in the order of execution.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from secateur.modules import call

from .layers import Layer
from .task import Task

__all__ = ["Call", "Group", "damped", "execution_groups", "gather", "input_moments", "whole_calls"]

# A forward pass of a batch, and which of its tokens are no padding.
Call = tuple[Callable[[], Any], Tensor | None]


@dataclass
class Group:
    """Layers that are called with one tensor.

    Attributes:
        layers: In the order of execution.
        num_calls: Calls of the first of them in a forward pass.
    """

    layers: list[Layer] = field(default_factory=list)
    num_calls: int = 0


class _GroupDone(Exception):  # noqa: N818 (a signal, not an error)
    """The layers of a group have been called, so the rest of the forward pass is needless."""


def whole_calls(task: Task) -> Iterable[Call]:
    """Yield one forward pass of the whole network for each batch.

    Args:
        task: The network and the data.
    """
    for batch in task.read():
        yield partial(call, task.model, batch.example), batch.attended


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the first argument of a module's call."""
    value = args[0] if args else next(iter(kwargs.values()))
    assert isinstance(value, Tensor)
    return value


@torch.no_grad()
def execution_groups(task: Task) -> list[Group]:
    """Return the layers in the order of their first call, those with one input together.

    Args:
        task: The network and the data, of which the first batch is run.

    Raises:
        InvalidArgumentError: If a layer's module is never called.
    """
    groups: list[Group] = []
    seen: set[str] = set()
    last: Tensor | None = None

    def note(layer: Layer, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal last
        inputs = first_argument(args, kwargs)
        if layer.name not in seen:
            seen.add(layer.name)
            if not (inputs is last and groups and layer.shares_input_with(groups[-1].layers[-1])):
                groups.append(Group())
            groups[-1].layers.append(layer)
        for group in groups:
            group.num_calls += group.layers[0] is layer
        last = inputs

    handles = [
        layer.module.register_forward_pre_hook(partial(note, layer), with_kwargs=True)
        for layer in task.layers
    ]
    try:
        forward, _ = next(iter(whole_calls(task)))
        forward()
    finally:
        for handle in handles:
            handle.remove()
    for layer in task.layers:
        if layer.name not in seen:
            raise InvalidArgumentError(
                f"weights: expected layers that the network calls, got {layer.name!r}; leave it out"
            )
    return groups


def input_moments(task: Task, *, diagonal: bool = False) -> dict[str, Tensor]:
    """Return the sum of a a^T over data and positions for each layer, in one pass over the data.

    Args:
        task: The network and the data.
        diagonal: Only the diagonal.

    Returns:
        Sums by layer; layers of a group have the same tensor.
    """
    groups = execution_groups(task)
    heads = [group.layers[0] for group in groups]
    stop_after = heads[-1] if all(group.num_calls == 1 for group in groups) else None
    sums = gather(heads, whole_calls(task), diagonal=diagonal, stop_after=stop_after)
    return {layer.name: sums[group.layers[0].name] for group in groups for layer in group.layers}


@torch.no_grad()
def gather(
    layers: Sequence[Layer], calls: Iterable[Call], *, diagonal: bool = False, stop_after: Layer | None = None
) -> dict[str, Tensor]:
    """Return sums of a a^T of some layers over forward passes.

    Args:
        layers: Which.
        calls: The forward passes.
        diagonal: Only the diagonal.
        stop_after: Layer whose first call ends a pass; None for whole passes.
    """
    sums: dict[str, Tensor] = {}
    attended: Tensor | None = None

    def add(layer: Layer, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = layer.input_rows(first_argument(args, kwargs), attended)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if layer.name not in sums:
            width = rows.shape[1]
            sums[layer.name] = rows.new_zeros(width if diagonal else (width, width))
        if diagonal:
            sums[layer.name] += rows.square().sum(0)
        else:
            sums[layer.name].addmm_(rows.T, rows)
        if layer is stop_after:
            raise _GroupDone

    handles = [
        layer.module.register_forward_pre_hook(partial(add, layer), with_kwargs=True) for layer in layers
    ]
    try:
        for forward, tokens in calls:
            attended = tokens
            try:
                forward()
            except _GroupDone:
                continue
    finally:
        for handle in handles:
            handle.remove()
    return sums


def damped(moments: Tensor, damping: float) -> Tensor:
    """Return moments with a share of their mean diagonal added to the diagonal, in double precision.

    Args:
        moments: Sum of a a^T. Inputs that are always zero get the mean of the others on the diagonal.
        damping: The share.
    """
    result = moments.to(torch.float64, copy=True)
    diagonal = result.diagonal()
    live = diagonal > 0
    diagonal[~live] = diagonal[live].mean() if live.any() else 1
    diagonal += damping * diagonal.mean()
    return result
