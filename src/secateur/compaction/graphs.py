"""Graphs that run without a network's code: for any batch size, and with its attributes written out."""

import operator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from secateur.compaction.tracing import Trace, UntraceableError, record
from secateur.modules.inputs import map_tensors

__all__ = ["trace", "traced_module", "with_one_more", "write_out_attributes"]


def trace(root: nn.Module, example: Any) -> Trace:
    """Return the graph of `root`, leaving whole what cannot be traced.

    Args:
        root: The network, in the mode to be traced; modules and parameters are not changed.
        example: Arguments of a call, as for `secateur.modules.inputs.call_arguments`.

    Returns:
        The graph, and each module that stayed whole with the reason.

    Raises:
        UntraceableError: If the outermost `forward` itself cannot be traced.
    """
    opaque: dict[str, str] = {}
    traced = record(root, example, opaque)
    one_more = with_one_more(example)
    if one_more is not None:
        # What fails here is a network of one batch size; what was traced holds for that.
        with suppress(UntraceableError, RuntimeError, ValueError):
            _follow_batch(traced, record(root, one_more, dict(opaque)))
    return traced


def traced_module(network: nn.Module, example: Any) -> fx.GraphModule:
    """Return a network as a graph that runs without its code.

    Args:
        network: The network; the graph shares its parameters.
        example: Arguments of a call.

    Raises:
        UntraceableError: If the network's code does more than a graph can express.
    """
    traced = trace(network, example)
    if traced.only_analysis is not None:
        raise UntraceableError(traced.only_analysis)
    write_out_attributes(network, traced.graph)
    return fx.GraphModule(network, traced.graph, class_name=type(network).__name__)


def write_out_attributes(root: nn.Module, graph: fx.Graph) -> None:
    """Replace, in a graph, each number that a module holds by the number itself.

    Args:
        root: Owner of the modules.
        graph: Changed in place.
    """
    for node in list(graph.nodes):
        if node.op == "get_attr":
            owner, _, leaf = str(node.target).rpartition(".")
            value = getattr(root.get_submodule(owner), leaf)
            if isinstance(value, Tensor):
                continue
            for user in list(node.users):
                user.args = _without(user.args, node, value)
                user.kwargs = _without(user.kwargs, node, value)
            graph.erase_node(node)


def _without(arguments: Any, node: fx.Node, value: Any) -> Any:
    return map_arg(arguments, lambda source: value if source is node else source)


def with_one_more(example: Any) -> Any:
    """Return the example with the first row of each tensor repeated; None where there is no batch."""
    sizes = {
        len(x) if x.dim() else 0
        for x in pytree.tree_leaves(map_tensors(lambda x: x, example))
        if isinstance(x, Tensor)
    }
    if len(sizes - {0}) != 1:
        return None
    return map_tensors(lambda x: torch.cat([x, x[:1]]) if x.dim() else x, example)


def _follow_batch(traced: Trace, longer: Trace) -> None:
    """Let numbers that grow with the batch (from `len(x)` or `int(x.shape[0])`) follow it in the graph."""
    graph = traced.graph
    pairs = list(zip(graph.nodes, longer.graph.nodes, strict=True))
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    tensors = [n for n, value in enumerate(traced.inputs) if isinstance(value, Tensor) and value.dim()]
    if not tensors:
        raise UntraceableError("takes its batch in a nest of tensors")
    batched = tensors[0]
    placeholder, batch = placeholders[batched], len(traced.inputs[batched])
    sizes: dict[int, fx.Node] = {}

    def size(multiple: int) -> fx.Node:
        if multiple not in sizes:
            after = sizes.get(1, placeholders[-1])
            with graph.inserting_after(after):
                if multiple == 1:
                    sizes[1] = graph.call_method("size", (placeholder, 0))
                else:
                    sizes[multiple] = graph.call_function(operator.mul, (size(1), multiple))
        return sizes[multiple]

    def followed(short: Any, long: Any) -> Any:
        if isinstance(short, (tuple, list)):
            return type(short)(followed(a, b) for a, b in zip(short, long, strict=True))
        if isinstance(short, slice):
            return slice(*(followed(getattr(short, k), getattr(long, k)) for k in ("start", "stop", "step")))
        if isinstance(short, bool) or not isinstance(short, int) or short == long:
            return short
        multiple = short // batch
        if (short, long) != (multiple * batch, multiple * (batch + 1)):
            raise UntraceableError(
                f"has a number that is {short} for {batch} examples and {long} for one more"
            )
        size(1)
        return size(multiple)

    for node, other in pairs:
        if node.op != other.op or getattr(node.target, "__name__", node.target) != getattr(
            other.target, "__name__", other.target
        ):
            raise UntraceableError("takes another path for another batch size")
        node.args = followed(node.args, other.args)
        node.kwargs = {name: followed(value, other.kwargs[name]) for name, value in node.kwargs.items()}
