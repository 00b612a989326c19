"""Rules for operators that sum over slots, or normalise over them: layers with weights, and attention.

Shapes: n batch, i inputs, o outputs, c channels, *s space, q queries, k keys, d features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from secateur.compaction.flow import Analysis, Flow, LayerSlots, Rule, Sink, is_transposed, weight_of
from secateur.compaction.slots import Axes

__all__ = ["LAYER_RULES", "uniform_constant"]


def uniform_constant(flow: Flow, axis: int) -> Tensor:
    """Return per position of `axis` the one constant that all its entries are, nan where they are not."""
    values = flow.value.movedim(axis, 0).reshape(flow.value.shape[axis], -1).to(torch.float64)
    varying = flow.varying.movedim(axis, 0).reshape(flow.value.shape[axis], -1).any(1)
    middle = values.mean(1)
    spread = values.amax(1) - values.amin(1)
    slack = 64 * torch.finfo(flow.value.dtype if flow.value.is_floating_point() else torch.float64).eps
    uniform = ~varying & (spread <= slack * middle.abs())
    return torch.where(uniform, middle, torch.nan)


def _linear(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    layer = analysis.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if layer is None or not (type(layer) is nn.Linear or is_transposed(layer)):
        return None
    (x,) = flows
    weight = weight_of(layer)
    assert weight is not None
    reads = weight != 0
    varying = F.linear(x.varying.double(), reads.double()) > 0.5
    outputs = analysis.slots.new(len(weight))
    inputs = x.axes[-1]
    if inputs is not None:
        constant = uniform_constant(x, -1)
        sink = Sink(str(node.target), inputs, outputs, reads, constant, ~constant.isnan())
        analysis.sinks.append(sink)
    analysis.layers[str(node.target)] = LayerSlots(inputs, outputs)
    return Flow(value, varying, [*x.axes[:-1], outputs])


def _convolution(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    layer = analysis.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if type(layer) not in {nn.Conv1d, nn.Conv2d, nn.Conv3d}:
        return None
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    (x,) = flows
    if x.value.dim() != layer.weight.dim():  # without a batch
        return None
    reads = layer.weight != 0
    varying = layer._conv_forward(x.varying.double(), reads.double(), None) > 0.5
    analysis.slots.freeze_all([x.axes[0], *x.axes[2:]])
    space: Axes = [None] * (value.dim() - 2)
    inputs = x.axes[1]
    name = str(node.target)
    if layer.groups == 1:
        outputs = analysis.slots.new(layer.out_channels)
        if inputs is not None:
            constant = uniform_constant(x, 1)
            foldable = ~constant.isnan() & ((constant == 0) | (not _pads_with_zeros(layer)))
            summed = reads.flatten(2).any(2)
            analysis.sinks.append(Sink(name, inputs, outputs, summed, constant, foldable))
        analysis.layers[name] = LayerSlots(inputs, outputs)
        return Flow(value, varying, [None, outputs, *space])
    if layer.groups == layer.in_channels == layer.out_channels and inputs is not None:
        analysis.layers[name] = LayerSlots(inputs, inputs)
        return Flow(value, varying, [None, inputs, *space])
    analysis.slots.freeze(inputs)
    return Flow(value, varying, [None] * value.dim())


def _pads_with_zeros(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    return layer.padding_mode == "zeros" and any(layer._reversed_padding_repeated_twice)


def _batch_norm(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    layer = analysis.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if type(layer) not in {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d} or len(flows) != 1:
        return None
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    (x,) = flows
    varying = x.varying
    if layer.running_mean is None:  # statistics of the batch: one varying entry makes its channel vary
        others = [axis for axis in range(value.dim()) if axis != 1]
        varying = varying.any(dim=others, keepdim=True).expand_as(value)
    if layer.weight is not None:
        varying = varying & (layer.weight != 0).reshape(1, -1, *[1] * (value.dim() - 2))
    analysis.layers[str(node.target)] = LayerSlots(x.axes[1], x.axes[1])
    return Flow(value, varying, x.axes)


def _layer_norm(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    layer = analysis.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return None
    (x,) = flows
    count = len(layer.normalized_shape)
    # Its mean and variance run over these slots: without the constants among them they would be others.
    analysis.slots.freeze_all(x.axes[-count:])
    varying = x.varying.flatten(-count).any(-1)
    varying = varying.reshape(*varying.shape, *[1] * count).expand_as(value)
    if layer.weight is not None:
        varying = varying & (layer.weight != 0)
    return Flow(value, varying, [*x.axes[:-count], *[None] * count])


def _embedding(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    layer = analysis.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if type(layer) is not nn.Embedding or layer.max_norm is not None:
        return None
    (x,) = flows
    differs = (layer.weight != layer.weight[:1]).any(0)
    varying = x.varying.unsqueeze(-1) & differs
    outputs = analysis.slots.new(layer.embedding_dim)
    analysis.layers[str(node.target)] = LayerSlots(None, outputs)
    return Flow(value, varying, [*x.axes, outputs])


def _matmul(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    if len(flows) != 2 or min(flow.value.dim() for flow in flows) < 2:
        return None
    a, b = flows
    analysis.slots.freeze(a.axes[-1])
    analysis.slots.freeze(b.axes[-2])
    lead = analysis.slots.join(
        [(a.axes[:-2], a.value.shape[:-2]), (b.axes[:-2], b.value.shape[:-2])], value.shape[:-2]
    )
    a_any, b_any = (flow.varying | (flow.value != 0) for flow in (a, b))
    varying = (a.varying.double() @ b_any.double() + a_any.double() @ b.varying.double()) > 0.5
    if a.sums_to_one:  # an average of equal constants is that constant
        varying = varying & ~_same_for_all_keys(b)
    return Flow(value, varying, [*lead, a.axes[-2], b.axes[-1]])


def _same_for_all_keys(values: Flow) -> Tensor:
    """Return for (..., k, d) whether a feature is one constant over all keys, shape (..., 1, d)."""
    spread = values.value.amax(-2, keepdim=True) - values.value.amin(-2, keepdim=True)
    return ~values.varying.any(-2, keepdim=True) & (spread == 0)


def _attention(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Flow | None:
    if len(flows) < 3 or any(flow.value.dim() != value.dim() for flow in flows[:3]):
        return None
    q, k, v = (_repeated(flow, value) if node.kwargs.get("enable_gqa") else flow for flow in flows[:3])
    analysis.slots.freeze_all([q.axes[-1], k.axes[-1], k.axes[-2], v.axes[-2]])
    batch = [(flow.axes[:-2], flow.value.shape[:-2]) for flow in (q, k, v, *flows[3:])]
    lead = analysis.slots.join(batch, value.shape[:-2])
    mixed = v.varying.any(-2, keepdim=True) | ~_same_for_all_keys(v)
    reads = (v.varying | (v.value != 0)).any(-2, keepdim=True)
    return Flow(value, (mixed & reads).expand_as(value), [*lead, q.axes[-2], v.axes[-1]])


def _repeated(flow: Flow, value: Tensor) -> Flow:
    """Return keys or values with each of their heads as often as queries share it."""
    times = value.shape[-3] // flow.value.shape[-3]
    heads = flow.axes[-3]
    axes = [*flow.axes[:-3], None if heads is None else heads.repeat_interleave(times), *flow.axes[-2:]]
    value, varying = (x.repeat_interleave(times, -3) for x in (flow.value, flow.varying))
    return Flow(value, varying, axes)


def _lstm(analysis: Analysis, node: fx.Node, flows: list[Flow], value: Any) -> Any:
    """A unit is zero at all times if its cell is fed zeros: the rows of its gate g, and their biases."""
    name = str(node.target)
    layer: Any = analysis.root.get_submodule(name) if node.op == "call_module" else None
    kind = type(layer)
    if kind is not nn.LSTM or layer.num_layers > 1 or layer.bidirectional or layer.proj_size:
        return None
    if len(flows) != 1 or flows[0].value.dim() != 3:  # an initial state, or no batch
        return None
    (x,) = flows
    count = layer.hidden_size
    read: list[Any] = [w.ne(0).unflatten(0, (4, count)) for w in (layer.weight_ih_l0, layer.weight_hh_l0)]
    fed = read[0][2].any(1)
    if layer.bias:
        biased: Any = layer.bias_ih_l0.ne(0) | layer.bias_hh_l0.ne(0)
        fed = fed | biased.unflatten(0, (4, count))[2]
    while (more := fed | read[1][2][:, fed].any(1)).sum() > fed.sum():
        fed = more
    outputs, inputs = analysis.slots.new(count), x.axes[-1]
    analysis.slots.freeze_all(x.axes[:-1])
    if inputs is not None:
        constant = uniform_constant(x, -1)
        foldable = ~constant.isnan() & ((constant == 0) | layer.bias)
        analysis.sinks.append(Sink(name, inputs, outputs, read[0].any(0), constant, foldable))
    zero = torch.where(fed, torch.nan, 0.0).double()
    analysis.sinks.append(Sink(f"{name}.hidden", outputs, outputs, read[1].any(0), zero, ~fed))
    analysis.layers[name] = LayerSlots(inputs, outputs)
    out, (hidden, cell) = value
    flow, *state = (Flow(t, fed.expand_as(t), [None, None, outputs]) for t in (out, hidden, cell))
    return flow, tuple(state)


LAYER_RULES: dict[str, Rule] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("batchnorm1d", "batchnorm2d", "batchnorm3d"), _batch_norm),
    **dict.fromkeys(("layernorm", "rmsnorm"), _layer_norm),
    "embedding": _embedding,
    "lstm": _lstm,
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    "scaled_dot_product_attention": _attention,
}
