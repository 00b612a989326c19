"""Sizes that stand in a network's code, and what they are once units are gone.

A size that the code reads off a tensor follows by itself, one that it reads off an attribute of a module
(`self.num_heads`) follows once the attribute is changed, and one that is written out (`x.view(n, 4, 8)`)
stays: then either the units stay too, or the code is written anew, as a graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from secateur.compaction.decide import Decision
from secateur.compaction.flow import Analysis, Flow, argument, operator_name

__all__ = ["correct_sizes", "fit_code", "new_shape"]

_SIZED = frozenset({"reshape", "view", "unflatten", "expand", "broadcast_to"})
_CUTS = frozenset({"chunk", "split", "tensor_split"})


@dataclass(frozen=True)
class _Size:
    """One size in the code.

    Attributes:
        written: The number, or the node that gives it.
        wanted: What it has to be.
        slots: Slots of the axis that it is the size of; None where that axis stays.
        module: Whose code it is in.
    """

    written: Any
    wanted: int
    slots: Tensor | None
    module: str

    @property
    def attribute(self) -> str | None:
        """The attribute that holds the number, by qualified name."""
        node = self.written
        return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def new_shape(flow: Flow, decision: Decision) -> list[int]:
    """Return the shape of a tensor once units are gone."""
    return [
        size if ids is None else int(decision.keeps(ids).sum())
        for size, ids in zip(flow.value.shape, flow.axes, strict=True)
    ]


def fit_code(analysis: Analysis, decision: Decision) -> dict[str, int] | None:
    """Return what has to be written into modules' attributes for their own code to suit a decision.

    Args:
        analysis: What is known of the network. Slots whose number is written out in the code are frozen.
        decision: Which slots stay.

    Returns:
        New values by qualified name; None if slots were frozen, so that another decision is needed.
    """
    attributes: dict[str, int] = {}
    askers: dict[str, list[Tensor]] = {}
    values = _values(analysis, decision, attributes)
    for size in _sizes(analysis, decision, values):
        if size.attribute is not None and values[size.written] not in {-1, size.wanted}:
            attributes.setdefault(size.attribute, size.wanted)
            askers.setdefault(size.attribute, []).extend([] if size.slots is None else [size.slots])
    values = _values(analysis, decision, attributes)
    fits = True
    for size in _sizes(analysis, decision, values):
        if values.get(size.written, size.written) not in {-1, size.wanted}:
            fits = False
            # What does not fit although nothing goes from its own axis was made so by a changed attribute.
            stuck = askers.get(size.attribute or "", [])
            if size.slots is None and not stuck:
                stuck = [slots for group in askers.values() for slots in group]
            analysis.slots.cause = f"a size written out in the code of {size.module}"
            analysis.slots.freeze_all([size.slots, *stuck])
    return attributes if fits else None


def _values(analysis: Analysis, decision: Decision, attributes: dict[str, int]) -> dict[fx.Node, int]:
    """Return the numbers that the code computes from sizes."""
    values: dict[fx.Node, int] = {}
    for node in analysis.graph.nodes:
        number = analysis.flows.get(node)
        if not isinstance(number, int) or isinstance(number, bool):
            continue
        source = node.args[0] if node.args else None
        flow = analysis.flows.get(source) if isinstance(source, fx.Node) else None
        if node.op == "get_attr":
            number = attributes.get(str(node.target), number)
        elif operator_name(analysis.root, node) == "size" and isinstance(flow, Flow):
            number = new_shape(flow, decision)[argument(node, 1, "dim")]
        elif node.op == "call_function" and all(source in values for source in node.all_input_nodes):
            function: Any = node.target
            number = function(*map_arg(node.args, lambda n: values[n]))
        values[node] = number
    return values


def _sizes(analysis: Analysis, decision: Decision, values: dict[fx.Node, int]) -> Iterator[_Size]:
    """Yield every size in the code that is one of a tensor's."""
    for node in analysis.graph.nodes:
        name = operator_name(analysis.root, node)
        flow = analysis.flows.get(node)
        where = node.meta.get("module") or type(analysis.root).__name__
        if name in _SIZED and isinstance(flow, Flow):
            first, sizes = _written(node, name, len(flow.axes))
            wanted = new_shape(flow, decision)[first:]
            yield from map(_Size, sizes, wanted, flow.axes[first:], repeat(where))
        elif name in _CUTS and isinstance(flow, tuple):
            dim = argument(node, 2, "dim", 0)
            wanted = [new_shape(part, decision)[dim] for part in flow]
            axes = [part.axes[dim] for part in flow]
            yield from map(_Size, _cut(node, name, wanted, values), wanted, axes, repeat(where))
        elif name == "pad" and isinstance(flow, Flow):
            widths, wanted = list(argument(node, 1, "pad")), _padding(analysis, node, flow, decision)
            for number, (width, right) in enumerate(zip(widths, wanted, strict=True)):
                if flow.axes[-1 - number // 2] is not None:
                    yield _Size(width, right, flow.axes[-1 - number // 2], where)


def _written(node: fx.Node, name: str, dims: int) -> tuple[int, list[Any]]:
    """Return the first axis that a node's code names the size of, and the sizes."""
    if name == "unflatten":
        dim: Any = argument(node, 1, "dim")
        sizes: Any = argument(node, 2, "sizes")
        return dim % (dims - len(sizes) + 1), list(sizes)
    sizes = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (list, tuple)) else node.args[1:]
    return 0, list(sizes) if len(sizes) == dims else []


def _cut(node: fx.Node, name: str, wanted: list[int], values: dict[fx.Node, int]) -> list[Any]:
    """Return how long the parts of a tensor are by the code."""
    by: Any = argument(node, 1, "split_size" if name == "split" else "chunks")
    if isinstance(by, (list, tuple)):
        return list(by)
    if name == "split":
        length = values.get(by, by)
        rest = sum(wanted) - length * (len(wanted) - 1)
        return [by] * (len(wanted) - 1) + [by if not 0 < rest < length else rest]
    cut = getattr(torch.empty(sum(wanted), device="meta"), name)(by)
    return [len(part) for part in cut] if len(cut) == len(wanted) else [0] * len(wanted)


def _padding(analysis: Analysis, node: fx.Node, flow: Flow, decision: Decision) -> list[Any]:
    """Return how much is padded before and after each axis, the last axis first."""
    widths = list(map_arg(argument(node, 1, "pad"), lambda n: analysis.flows[n]))
    for number in range(len(widths) // 2):
        ids = flow.axes[-1 - number]
        before, after = widths[2 * number], widths[2 * number + 1]
        if ids is not None and (before or after):
            widths[2 * number] = int(decision.keeps(ids[:before]).sum())
            widths[2 * number + 1] = int(decision.keeps(ids[len(ids) - after :]).sum())
    return widths


def correct_sizes(analysis: Analysis, decision: Decision, graph: fx.Graph) -> None:
    """Write each size into a graph as it has to be.

    Args:
        analysis: What is known of the graph.
        decision: Which slots stay.
        graph: Changed in place; its node order is that of the analysed one.
    """
    values = _values(analysis, decision, {})
    for node, before in zip(list(graph.nodes), list(analysis.graph.nodes), strict=True):
        name = operator_name(analysis.root, before)
        flow = analysis.flows.get(before)
        if name in _SIZED and isinstance(flow, Flow):
            first, old = _written(before, name, len(flow.axes))
            new = [
                now if values.get(size, size) in {-1, right} else right
                for now, size, right in zip(
                    _written(node, name, len(flow.axes))[1],
                    old,
                    new_shape(flow, decision)[first:],
                    strict=False,
                )
            ]
            if new and name == "unflatten":
                node.args = (node.args[0], first, tuple(new))
            elif new:
                node.args = (node.args[0], tuple(new))
        elif name in _CUTS and isinstance(flow, tuple):
            dim = argument(node, 2, "dim", 0)
            lengths = [new_shape(part, decision)[dim] for part in flow]
            if lengths != [part.value.shape[dim] for part in flow]:
                node.target = "split" if node.op == "call_method" else torch.split
                node.args, node.kwargs = (node.args[0], lengths, dim), {}
        elif name == "pad" and isinstance(flow, Flow):
            widths = _padding(analysis, before, flow, decision)
            node.args = (node.args[0], widths, *node.args[2:])
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "pad"}
