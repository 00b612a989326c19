"""One rule per kind of operator: what happens to constants and slots.

A rule gets the tensors that enter (in the order of the node's arguments) and the value that comes out. It
returns what is known of the result, or None where it does not cover the case: the node is then opaque.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from secateur.compaction.flow import Analysis, Flow, Rule, argument, operator_name
from secateur.compaction.layer_rules import LAYER_RULES
from secateur.compaction.slots import Axes, indexed_axes, reshaped_axes

__all__ = ["RULES"]


def _unary(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    if len(flows) != 1 or value.shape != flows[0].value.shape:
        return None
    return Flow(
        value, flows[0].varying, flows[0].axes, flows[0].sums_to_one and _keeps_values(analysis, node)
    )


def _keeps_values(analysis: Analysis, node: fx.Node) -> bool:
    """Return whether an operator gives what it gets when the network is evaluated."""
    name = operator_name(analysis.root, node)
    return "dropout" in name or name in {"identity", "to", "type", "contiguous"}


def _elementwise(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow:
    axes = analysis.slots.join([(flow.axes, flow.value.shape) for flow in flows], value.shape)
    varying = torch.zeros_like(value, dtype=torch.bool)
    for flow in flows:
        varying = varying | flow.varying
    return Flow(value, varying, axes)


def _product(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow:
    result = _elementwise(analysis, node, flows, value)
    for flow in flows:
        result.varying = result.varying & (flow.varying | (flow.value != 0))
    return result


def _quotient(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow:
    result = _elementwise(analysis, node, flows, value)
    if isinstance(node.args[0], fx.Node):
        result.varying = result.varying & (flows[0].varying | (flows[0].value != 0))
    return result


def _pool(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    dims = int(operator_name(analysis.root, node)[-2])
    if not isinstance(value, Tensor) or len(flows) != 1 or value.dim() <= dims:
        return None
    (x,) = flows
    analysis.slots.freeze_all(x.axes[-dims:])
    varying = analysis.rerun(node, x.varying.to(x.value.dtype)) > 0
    return Flow(value, varying, [*x.axes[:-dims], *[None] * dims])


def _reshape(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    if len(flows) != 1:
        return None
    (x,) = flows
    axes, ambiguous = reshaped_axes(
        analysis.slots, x.axes, x.value.shape, value.shape, choice=analysis.choice
    )
    analysis.ambiguous |= ambiguous
    return Flow(value, x.varying.reshape(value.shape), axes)


def _permute(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    if len(flows) != 1:
        return None
    (x,) = flows
    # A tensor whose strides name its axes shows where each went, whatever the spelling.
    probe = torch.empty([axis + 2 for axis in range(x.value.dim())], device="meta")
    moved = analysis.rerun(node, probe)
    return Flow(value, analysis.rerun(node, x.varying), [x.axes[size - 2] for size in moved.shape])


def _expand(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow:
    x = flows[0]
    lead = value.dim() - x.value.dim()
    axes: Axes = [None] * lead
    for axis, ids in enumerate(x.axes):
        same = x.value.shape[axis] == value.shape[lead + axis]
        axes.append(ids if same else None)
        if not same:
            analysis.slots.freeze(ids)
    return Flow(value, x.varying.expand_as(value), axes)


def _index(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    if len(flows) != 1:
        return None
    (x,) = flows
    index = fx.node.map_arg(node.args[1], analysis._value)
    axes = indexed_axes(
        analysis.slots, x.axes, x.value.shape, index if isinstance(index, tuple) else (index,)
    )
    return None if axes is None else Flow(value, analysis.rerun(node, x.varying), axes)


def _concatenate(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    items: Any = argument(node, 0, "tensors")
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, fx.Node) for item in items):
        return None
    parts: list[Flow] = [analysis.flows[item] for item in items]
    parts = [part for part in parts if part.value.dim() == value.dim()]  # torch takes an empty vector as well
    dim = argument(node, 1, "dim", 0) % value.dim()
    rest = [
        ([*p.axes[:dim], None, *p.axes[dim + 1 :]], p.value.select(dim, 0).unsqueeze(dim).shape)
        for p in parts
    ]
    axes = analysis.slots.join(rest, value.select(dim, 0).unsqueeze(dim).shape)
    if any(part.axes[dim] is not None for part in parts):
        pieces = []
        for part in parts:
            ids = part.axes[dim]
            if ids is None:
                ids = analysis.slots.new(part.value.shape[dim])
                analysis.slots.freeze(ids)
            pieces.append(ids)
        axes[dim] = torch.cat(pieces)
    return Flow(value, torch.cat([part.varying for part in parts], dim), axes)


def _split(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> tuple[Flow, ...] | None:
    if len(flows) != 1:
        return None
    (x,) = flows
    dim = argument(node, 2, "dim", 0)
    masks = analysis.rerun(node, x.varying)
    results = []
    start = 0
    for part, mask in zip(value, masks, strict=True):
        ids = x.axes[dim]
        length = part.shape[dim]
        own = None if ids is None else ids[start : start + length]
        axes = [*x.axes]
        axes[dim] = own
        results.append(Flow(part, mask, axes))
        start += length
    return tuple(results)


def _unbind(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> tuple[Flow, ...]:
    x = flows[0]
    dim = argument(node, 1, "dim", 0) % x.value.dim()
    analysis.slots.freeze(x.axes[dim])
    axes = [*x.axes[:dim], *x.axes[dim + 1 :]]
    return tuple(Flow(part, mask, [*axes]) for part, mask in zip(value, x.varying.unbind(dim), strict=True))


def _pad(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    (x,) = flows
    widths = fx.node.map_arg(argument(node, 1, "pad"), analysis._value)
    mode = argument(node, 2, "mode", "constant")
    varying = F.pad(x.varying.double(), widths, mode=mode) > 0
    axes = [*x.axes]
    for number in range(len(widths) // 2):
        axis = -1 - number
        ids, before, after = axes[axis], widths[2 * number], widths[2 * number + 1]
        if ids is None or (before == 0 and after == 0):
            continue
        if mode != "constant" or before < 0 or after < 0:
            analysis.slots.freeze(ids)
            axes[axis] = None
        else:
            axes[axis] = torch.cat([analysis.slots.new(before), ids, analysis.slots.new(after)])
    return Flow(value, varying, axes)


def _reduce(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    if not isinstance(value, Tensor) or len(flows) != 1:
        return None
    (x,) = flows
    dims, keep = argument(node, 1, "dim"), argument(node, 2, "keepdim", False)
    if dims is None:
        return None
    reduced = {dim % x.value.dim() for dim in ([dims] if isinstance(dims, int) else dims)}
    axes: Axes = []
    for axis, ids in enumerate(x.axes):
        if axis not in reduced:
            axes.append(ids)
            continue
        analysis.slots.freeze(ids)
        if keep:
            axes.append(None)
    return Flow(value, x.varying.any(dim=sorted(reduced), keepdim=keep), axes)


def _softmax(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    (x,) = flows
    layer: Any = analysis.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    dim = argument(node, 1, "dim") if layer is None else layer.dim
    if not isinstance(dim, int):
        return None
    dim %= value.dim()
    analysis.slots.freeze(x.axes[dim])
    axes = [*x.axes]
    axes[dim] = None
    log = operator_name(analysis.root, node).startswith("log")
    return Flow(
        value, x.varying.any(dim, keepdim=True).expand_as(value), axes, dim == value.dim() - 1 and not log
    )


def _rules() -> dict[str, Rule]:
    table = dict(LAYER_RULES)

    def add(rule: Rule, names: str) -> None:
        table.update(dict.fromkeys(names.split(), rule))

    add(
        _unary,
        "relu relu6 leakyrelu leaky_relu elu selu celu gelu silu mish tanh sigmoid hardtanh hardswish "
        "hardsigmoid softplus softsign logsigmoid tanhshrink softshrink hardshrink threshold identity "
        "dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout alpha_dropout "
        "feature_dropout contiguous clone detach float double half to type neg exp log sqrt rsqrt abs "
        "square clamp clip sin cos erf expm1 log1p reciprocal sign",
    )
    add(_elementwise, "add sub rsub maximum minimum pow where masked_fill")
    add(_product, "mul multiply")
    add(_quotient, "div divide")
    averages, largest = "avgpool avg_pool adaptiveavgpool adaptive_avg_pool", "maxpool max_pool"
    kinds = f"{averages} {largest} adaptivemaxpool adaptive_max_pool"
    add(_pool, " ".join(f"{kind}{dims}d" for kind in kinds.split() for dims in (1, 2, 3)))
    add(_reshape, "flatten reshape view unflatten squeeze unsqueeze")
    add(_permute, "permute transpose movedim swapaxes t")
    add(_expand, "expand broadcast_to")
    add(_index, "getitem")
    add(_concatenate, "cat concat concatenate")
    add(_split, "chunk split tensor_split")
    add(_unbind, "unbind")
    add(_pad, "pad")
    add(_reduce, "mean sum amax amin")
    add(_softmax, "softmax log_softmax logsoftmax")
    return table


RULES = _rules()
