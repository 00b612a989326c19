"""Slice a network's modules in place, and fold constants into their biases."""

import itertools
from typing import Any

from torch import Tensor, fx, nn

from secateur.compaction.decide import Decision
from secateur.compaction.flow import Analysis, Flow, LayerSlots, Sink, is_transposed, operator_name

__all__ = ["drop_constant_operands", "rewrite"]


def rewrite(analysis: Analysis, decision: Decision, root: nn.Module) -> None:
    """Slice the modules of a network in place.

    Args:
        analysis: What is known of the network's graph.
        decision: Which slots stay.
        root: Owner of the modules, in the network's own precision.
    """
    sinks = {sink.module: sink for sink in analysis.sinks}
    for name, slots in analysis.layers.items():
        _slice(root.get_submodule(name), slots, sinks.get(name), decision)
    for name, axes in analysis.tensors.items():
        owner, _, leaf = name.rpartition(".")
        keeps = [None if ids is None else decision.keeps(ids) for ids in axes]
        if any(keep is not None and not keep.all() for keep in keeps):
            value = getattr(root.get_submodule(owner), leaf)
            for axis, keep in enumerate(keeps):
                value = _take(value, keep, axis)
            _replace(root.get_submodule(owner), leaf, value)


def _take(tensor: Tensor, keep: Tensor | None, axis: int) -> Tensor:
    if keep is None or bool(keep.all()):
        return tensor
    return tensor.index_select(axis, keep.nonzero().flatten().to(tensor.device))


def _replace(owner: nn.Module, name: str, value: Tensor | None, *, like: Tensor | None = None) -> None:
    """Give a parameter or buffer another value, of its type or that of `like`."""
    old: Any = getattr(owner, name)
    if value is None or value is old:
        return
    model: Any = like if old is None else old
    value = value.detach().to(model).clone()
    parameter = old is None or isinstance(old, nn.Parameter)
    setattr(owner, name, nn.Parameter(value, requires_grad=model.requires_grad) if parameter else value)


def _slice(layer: nn.Module, slots: LayerSlots, sink: Sink | None, decision: Decision) -> None:
    """Keep only the kept inputs and outputs of a layer."""
    kept_in = None if slots.inputs is None else decision.keeps(slots.inputs)
    kept_out = None if slots.outputs is None else decision.keeps(slots.outputs)
    if isinstance(layer, nn.Embedding):
        _replace(layer, "weight", _take(layer.weight, kept_out, 1))
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        for name in ("weight", "bias", "running_mean", "running_var"):
            if getattr(layer, name) is not None:
                _replace(layer, name, _take(getattr(layer, name), kept_out, 0))
        if kept_out is not None:
            layer.num_features = int(kept_out.sum())
    elif isinstance(layer, nn.LSTM):
        assert slots.outputs is not None
        _slice_lstm(layer, kept_in, slots.outputs, sink, decision)
    else:
        _slice_weights(layer, kept_in, kept_out, sink, decision)


def _slice_lstm(
    layer: Any, kept_in: Tensor | None, outputs: Tensor, sink: Sink | None, decision: Decision
) -> None:
    kept = decision.keeps(outputs)
    rows = kept.repeat(4)  # one block of rows for each gate
    weight, recurrent = layer.weight_ih_l0.detach().double(), layer.weight_hh_l0.detach().double()
    extra = None
    if sink is not None:
        weight, extra = _absorbed(weight, sink, decision)
    recurrent = recurrent * decision.needed[outputs].to(recurrent)
    if layer.bias:
        bias = layer.bias_ih_l0.detach().double()
        _replace(layer, "bias_ih_l0", _take(bias if extra is None else bias + extra, rows, 0))
        _replace(layer, "bias_hh_l0", _take(layer.bias_hh_l0, rows, 0))
    _replace(layer, "weight_ih_l0", _take(_take(weight, rows, 0), kept_in, 1))
    _replace(layer, "weight_hh_l0", _take(_take(recurrent, rows, 0), kept, 1))
    layer.hidden_size, layer.input_size = int(kept.sum()), layer.weight_ih_l0.shape[1]


def _slice_weights(
    layer: Any, kept_in: Tensor | None, kept_out: Tensor | None, sink: Sink | None, decision: Decision
) -> None:
    transposed = is_transposed(layer)
    convolution = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    depthwise = convolution and layer.groups > 1
    weight: Tensor = layer.weight.T if transposed else layer.weight
    bias: Tensor | None = layer.bias
    if sink is not None and not decision.needed[sink.inputs].all():
        weight, extra = _absorbed(weight.detach().double(), sink, decision)
        if extra.any():
            bias = extra if bias is None else bias.detach().double() + extra
    weight = _take(weight, kept_out, 0)
    weight = weight if depthwise else _take(weight, kept_in, 1)
    outputs, inputs = weight.shape[:2]
    _replace(layer, "bias", None if bias is None else _take(bias, kept_out, 0), like=layer.weight)
    if weight is not layer.weight:
        _replace(layer, "weight", weight.T.contiguous() if transposed else weight)
    if transposed:
        layer.nf, layer.nx = outputs, inputs
    elif convolution:
        layer.groups = outputs if depthwise else 1
        layer.out_channels, layer.in_channels = outputs, inputs * layer.groups
    else:
        layer.out_features, layer.in_features = outputs, inputs


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
