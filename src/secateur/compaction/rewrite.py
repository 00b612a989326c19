"""Build the smaller graph: slice parameters, fold constants into biases, correct sizes in the code."""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from secateur.compaction.decide import Decision
from secateur.compaction.flow import Analysis, Flow, LayerSlots, Sink, argument, operator_name

__all__ = ["drop_constant_operands", "rewrite"]

_SIZED = frozenset({"reshape", "view", "unflatten", "expand", "broadcast_to"})
_CUTS = frozenset({"chunk", "split", "tensor_split"})


def rewrite(
    analysis: Analysis, decision: Decision, root: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...]
) -> None:
    """Shrink `root` and `graph` in place.

    Args:
        analysis: What is known of `graph`; its node order is that of `graph`.
        decision: Which slots stay.
        root: Owner of the modules, in the network's own precision.
        graph: The graph to change.
        inputs: Arguments of an example call for `root`.
    """
    sinks = {sink.module: sink for sink in analysis.sinks}
    for name, slots in analysis.layers.items():
        small = _shrunk(root.get_submodule(name), slots, sinks.get(name), decision)
        owner, _, leaf = name.rpartition(".")
        setattr(root.get_submodule(owner), leaf, small)
    for name, axes in analysis.tensors.items():
        _slice_tensor(root, name, [None if ids is None else decision.keeps(ids) for ids in axes])
    _correct_sizes(analysis, decision, root, graph, inputs)


def _take(tensor: Tensor, keep: Tensor | None, axis: int) -> Tensor:
    if keep is None or bool(keep.all()):
        return tensor
    return tensor.index_select(axis, keep.nonzero().flatten().to(tensor.device))


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().to(like).clone(), requires_grad=like.requires_grad)


def _shrunk(layer: nn.Module, slots: LayerSlots, sink: Sink | None, decision: Decision) -> nn.Module:
    """Return the layer with only the kept inputs and outputs."""
    kept_in = None if slots.inputs is None else decision.keeps(slots.inputs)
    kept_out = None if slots.outputs is None else decision.keeps(slots.outputs)
    small = copy.deepcopy(layer)
    if isinstance(small, nn.Embedding):
        small.weight = _parameter(_take(small.weight, kept_out, 1), small.weight)
        small.embedding_dim = small.weight.shape[1]
        return small
    if isinstance(small, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        for name in ("weight", "bias"):
            old = getattr(small, name)
            if old is not None:
                setattr(small, name, _parameter(_take(old, kept_out, 0), old))
        for name in ("running_mean", "running_var"):
            old = getattr(small, name)
            if old is not None:
                setattr(small, name, _take(old, kept_out, 0).clone())
        if kept_out is not None:
            small.num_features = int(kept_out.sum())
        return small
    assert isinstance(small, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    weight, bias = (
        small.weight.detach().double(),
        None if small.bias is None else small.bias.detach().double(),
    )
    depthwise = not isinstance(small, nn.Linear) and small.groups > 1
    if sink is not None:
        weight, extra = _absorbed(weight, sink, decision)
        if extra.any():
            bias = extra if bias is None else bias + extra
    small_weight = _take(weight, kept_out, 0)
    small.weight = _parameter(small_weight if depthwise else _take(small_weight, kept_in, 1), small.weight)
    small.bias = None if bias is None else _parameter(_take(bias, kept_out, 0), small.weight)
    if isinstance(small, nn.Linear):
        small.out_features, small.in_features = small.weight.shape
    else:
        small.out_channels = small.weight.shape[0]
        small.groups = small.out_channels if depthwise else 1
        small.in_channels = small.weight.shape[1] * small.groups
    return small


def _absorbed(weight: Tensor, sink: Sink, decision: Decision) -> tuple[Tensor, Tensor]:
    """Return the weight with stand-ins strengthened, and what constants add to the bias."""
    weight = weight.clone()
    extra = weight.new_zeros(weight.shape[0])
    per_input = weight.flatten(2).sum(2) if weight.dim() > 2 else weight.clone()
    slots = decision.roots[sink.inputs].tolist()
    position = {slot: index for index, slot in enumerate(slots)}
    for index in (~decision.needed[sink.inputs]).nonzero().flatten().tolist():
        stand_in = decision.stand_ins.get(slots[index])
        if stand_in is not None:
            ratio = sink.constant[index] / sink.constant[position[stand_in]]
            weight[:, position[stand_in]] += ratio.to(weight) * weight[:, index]
        elif sink.foldable[index]:
            extra += per_input[:, index] * sink.constant[index].to(weight)
        weight[:, index] = 0
    return weight, extra


def _slice_tensor(root: nn.Module, name: str, keeps: list[Tensor | None]) -> None:
    if all(keep is None or bool(keep.all()) for keep in keeps):
        return
    owner_name, _, leaf = name.rpartition(".")
    owner = root.get_submodule(owner_name)
    old = getattr(owner, leaf)
    value = old.detach()
    for axis, keep in enumerate(keeps):
        value = _take(value, keep, axis)
    setattr(owner, leaf, _parameter(value, old) if isinstance(old, nn.Parameter) else value.clone())


def _new_shape(flow: Flow, decision: Decision) -> list[int]:
    return [
        size if ids is None else int(decision.keeps(ids).sum())
        for size, ids in zip(flow.value.shape, flow.axes, strict=True)
    ]


def _correct_sizes(
    analysis: Analysis, decision: Decision, root: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...]
) -> None:
    """Run the graph node by node, replacing each size that no longer holds by what it is now."""
    before = dict(zip(graph.nodes, analysis.graph.nodes, strict=True))
    values: dict[fx.Node, Any] = {}
    remaining = iter(inputs)
    with torch.no_grad():
        for node in graph.nodes:
            name = operator_name(root, node)
            flow = analysis.flows.get(before[node])
            if name in _SIZED and isinstance(flow, Flow):
                _correct_shape(node, name, _new_shape(flow, decision), values)
            elif name in _CUTS and isinstance(flow, tuple):
                _correct_cuts(node, [_new_shape(part, decision) for part in flow], flow)
            elif name == "pad" and isinstance(flow, Flow):
                _correct_padding(node, flow, decision)
            args, kwargs = (map_arg(item, lambda n: values[n]) for item in (node.args, node.kwargs))
            target: Any = node.target
            if node.op == "placeholder":
                values[node] = next(remaining, *node.args)
            elif node.op == "get_attr":
                owner, _, leaf = target.rpartition(".")
                values[node] = getattr(root.get_submodule(owner), leaf)
            elif node.op == "call_module":
                values[node] = root.get_submodule(target)(*args, **kwargs)
            elif node.op == "call_method":
                values[node] = getattr(args[0], target)(*args[1:], **kwargs)
            elif node.op == "call_function":
                values[node] = target(*args, **kwargs)


def _correct_shape(node: fx.Node, name: str, wanted: list[int], values: dict[fx.Node, Any]) -> None:
    def corrected(sizes: Any, wanted: list[int]) -> list[Any]:
        found = [values[size] if isinstance(size, fx.Node) else size for size in sizes]
        return [
            size if value in {-1, right} else right
            for size, value, right in zip(sizes, found, wanted, strict=True)
        ]

    if name == "unflatten":
        dim, sizes = node.args[1], node.args[2]
        assert isinstance(dim, int)
        assert isinstance(sizes, (list, tuple))
        dim %= len(wanted) - len(sizes) + 1
        node.args = (node.args[0], dim, tuple(corrected(sizes, wanted[dim : dim + len(sizes)])))
    elif len(node.args) == 2 and isinstance(node.args[1], (list, tuple)):
        node.args = (node.args[0], tuple(corrected(node.args[1], wanted)))
    elif len(node.args) == len(wanted) + 1:
        node.args = (node.args[0], *corrected(node.args[1:], wanted))


def _correct_cuts(node: fx.Node, wanted: list[list[int]], flow: tuple[Flow, ...]) -> None:
    dim = argument(node, 2, "dim", 0)
    sizes = [shape[dim] for shape in wanted]
    if sizes != [part.value.shape[dim] for part in flow]:
        if node.op == "call_method":
            node.target = "split"
        else:
            node.target = torch.split
        node.args, node.kwargs = (node.args[0], sizes, dim), {}


def _correct_padding(node: fx.Node, flow: Flow, decision: Decision) -> None:
    widths = list(argument(node, 1, "pad"))
    for number in range(len(widths) // 2):
        ids = flow.axes[-1 - number]
        before, after = widths[2 * number], widths[2 * number + 1]
        if ids is not None and (before or after):
            widths[2 * number] = int(decision.keeps(ids[:before]).sum())
            widths[2 * number + 1] = int(decision.keeps(ids[len(ids) - after :]).sum())
    if len(node.args) > 1:
        node.args = (node.args[0], widths, *node.args[2:])
    else:
        node.kwargs = {**node.kwargs, "pad": widths}


def drop_constant_operands(analysis: Analysis, root: nn.Module, graph: fx.Graph) -> bool:
    """Replace what is constant in a sum by a buffer, or by nothing if it is zero.

    So a residual branch whose masks leave it constant disappears.

    Args:
        analysis: What is known of `graph`.
        root: Owner of the modules, in the network's own precision; it gets the buffers.
        graph: Changed in place.

    Returns:
        Whether anything was replaced.
    """
    before = dict(zip(graph.nodes, analysis.graph.nodes, strict=True))
    changed = False
    batched = {node for node in graph.nodes if node.op == "placeholder"}
    for node in graph.nodes:
        if not batched.isdisjoint(node.all_input_nodes):
            batched.add(node)
    for node in list(graph.nodes):
        if operator_name(root, node) not in {"add", "sub"} or len(node.args) != 2 or node.kwargs:
            continue
        known = [analysis.flows.get(before[arg]) if isinstance(arg, fx.Node) else None for arg in node.args]
        whole = analysis.flows[before[node]]
        for position in (1, 0):
            constant, other = known[position], known[1 - position]
            operand = node.args[position]
            if not isinstance(constant, Flow) or not isinstance(other, Flow) or constant.varying.any():
                continue
            keep = node.args[1 - position]
            if other.value.shape != whole.value.shape or keep not in batched:
                continue
            if not isinstance(operand, fx.Node) or operand.op == "get_attr":
                continue
            value = _collapsed(constant.value)
            if value.dim() == whole.value.dim() and value.shape[0] != 1:
                continue
            if not value.any() and (position == 1 or operator_name(root, node) == "add"):
                node.replace_all_uses_with(keep)
                graph.erase_node(node)
            else:
                number = next(n for n in itertools.count() if not hasattr(root, f"constant_{n}"))
                name = f"constant_{number}"
                like = next((p for p in root.parameters() if p.is_floating_point()), value)
                root.register_buffer(name, value.to(like.device, like.dtype))
                with graph.inserting_before(node):
                    buffer = graph.get_attr(name)
                node.args = (keep, buffer) if position == 1 else (buffer, keep)
            changed = True
            break
    if changed:
        graph.eliminate_dead_code(is_impure_node=lambda node: node.op in {"placeholder", "output"})
    return changed


def _collapsed(value: Tensor) -> Tensor:
    """Return a constant with each axis along which it does not change cut to length one."""
    for axis in range(value.dim()):
        first = value.narrow(axis, 0, 1)
        if (value == first).all():
            value = first
    return value
