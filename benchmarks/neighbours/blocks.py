"""Layers in the order of execution, each with the inputs that the layers already pruned give it.

A network that is a chain of blocks, as transformers are, is walked block by block: the inputs of the current
block are held for all data, so that the whole walk costs a few forward passes. Any other network, and layers
before or after the chain, are run from the start for each group of layers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.curvature.batches import tensor_outputs

from .layers import Layer
from .moments import Call, Group, execution_groups, gather, whole_calls
from .task import Task

__all__ = ["chain_of_blocks", "visit_in_order"]


class _Caught(Exception):  # noqa: N818 (a signal, not an error)
    """The first block's arguments are known, so the rest of the forward pass is needless."""


@dataclass
class _BlockCall:
    """What a block is called with: the hidden state, other arguments, and which tokens are no padding."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attended: Tensor | None

    def run(self, block: nn.Module) -> Tensor:
        return tensor_outputs(block(self.hidden, *self.args, **self.kwargs))


def visit_in_order(task: Task, visit: Callable[[Layer, Tensor], None]) -> None:
    """Visit the layers in the order of execution with the sum of a a^T of their inputs at that moment.

    Args:
        task: The network and the data.
        visit: Called with a layer and its sum, which is the visitor's own; may change the weight.
    """
    groups = execution_groups(task)
    blocks = chain_of_blocks(task)
    home = {id(module): block for block in blocks for module in block.modules()}
    inside = [group for group in groups if id(group.layers[0].module) in home]
    first = groups.index(inside[0]) if inside else len(groups)

    def visit_group(group: Group, calls: Iterator[Call]) -> None:
        head = group.layers[0]
        stop_after = head if group.num_calls == 1 else None
        sums = gather([head], calls, stop_after=stop_after)[head.name]
        for layer in group.layers:
            visit(layer, sums.clone())

    for group in groups[:first]:
        visit_group(group, iter(whole_calls(task)))
    if inside:
        _walk(task, blocks, inside, home, visit_group)
    for group in groups[first:]:
        if group not in inside:
            visit_group(group, iter(whole_calls(task)))


@torch.no_grad()
def _walk(
    task: Task,
    blocks: list[nn.Module],
    groups: list[Group],
    home: dict[int, nn.Module],
    visit_group: Callable[[Group, Iterator[Call]], None],
) -> None:
    calls = _inputs_of(blocks[0], task)
    last = max(blocks.index(home[id(group.layers[0].module)]) for group in groups)
    for number, block in enumerate(blocks[: last + 1]):
        for group in groups:
            if home[id(group.layers[0].module)] is block:
                visit_group(group, ((partial(each.run, block), each.attended) for each in calls))
        if number < last:
            for each in calls:
                each.hidden = each.run(block)


def _inputs_of(block: nn.Module, task: Task) -> list[_BlockCall]:
    """Return what the first block is called with for each batch."""
    calls: list[_BlockCall] = []
    attended: Tensor | None = None

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        others = (args[1:], kwargs)
        # Masks and rotations are the same for batches of the same shape: hold them once.
        if calls and _equal(others, (calls[-1].args, calls[-1].kwargs)):
            others = (calls[-1].args, calls[-1].kwargs)
        calls.append(_BlockCall(args[0], *others, attended))
        raise _Caught

    handle = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for forward, tokens in whole_calls(task):
            attended = tokens
            try:
                forward()
            except _Caught:
                continue
    finally:
        handle.remove()
    return calls


def _equal(left: Any, right: Any) -> bool:
    left_leaves, left_form = pytree.tree_flatten(left)
    right_leaves, right_form = pytree.tree_flatten(right)
    return left_form == right_form and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b
        for a, b in zip(left_leaves, right_leaves, strict=True)
    )


@torch.no_grad()
def chain_of_blocks(task: Task) -> list[nn.Module]:
    """Return the blocks of a network of which each is called once, with what the one before returned.

    Args:
        task: The network and the data, of which the first batch is run.

    Returns:
        The `ModuleList` of this kind with the most blocks; nothing if there is none.
    """
    lists = [module for module in task.model.modules() if isinstance(module, nn.ModuleList)]
    blocks = {id(block): block for each in lists for block in each}
    seen: dict[int, list[tuple[Any, Any]]] = {key: [] for key in blocks}

    def note(block: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        seen[id(block)].append((args[0] if args else None, result))

    handles = [block.register_forward_hook(note) for block in blocks.values()]
    try:
        forward, _ = next(iter(whole_calls(task)))
        forward()
    finally:
        for handle in handles:
            handle.remove()

    def is_chain(each: nn.ModuleList) -> bool:
        calls = [seen[id(block)] for block in each]
        if len(calls) < 2 or any(len(own) != 1 or own[0][0] is None for own in calls):
            return False
        return all(_first(before[0][1]) is after[0][0] for before, after in pairwise(calls))

    return list(max(filter(is_chain, lists), key=len, default=[]))


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple | list) and result else result
