"""The units of a network that can be removed whole, and which weights each one is made of and read by.

A unit is a neuron, channel or attention head as the whole network sees it: where tensors are added, the
units that feed the sum are one; where a tensor is flattened, a channel is read by several columns.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction.flow import LayerSlots, analyse, is_transposed
from secateur.compaction.graphs import trace
from secateur.compaction.plain import plain_copy
from secateur.compaction.rules import RULES
from secateur.compaction.tracing import UntraceableError
from secateur.modules.differences import in_double

__all__ = ["KINDS", "UnitAxis", "Units", "find_units"]

KINDS = ("neuron", "channel", "head")


@dataclass(frozen=True)
class UnitAxis:
    """One axis of one parameter, divided among units.

    Attributes:
        parameter: Qualified name, as it was before masking.
        axis: Which axis.
        unit: Number of the unit of each position, -1 for one that stays in any case; shape (size,).
        produces: Whether these weights make the unit (its row and bias); otherwise they read it.
    """

    parameter: str
    axis: int
    unit: Tensor
    produces: bool


@dataclass(frozen=True)
class Units:
    """All units that can be removed.

    Attributes:
        axes: Where their weights are.
        layer: The module that makes each unit, the first one where several do.
        kind: One of `KINDS` for each unit.
    """

    axes: tuple[UnitAxis, ...]
    layer: tuple[str, ...]
    kind: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.layer)


def find_units(model: nn.Module, example_input: Any) -> Units:
    """Return the units of a network that `compact` could remove if their weights were zero.

    Args:
        model: Network, masked or not. It is not changed.
        example_input: Arguments of a call, as for `compact`.

    Returns:
        The units; none where the network cannot be traced.
    """
    network, example = in_double(plain_copy(model), example_input)
    try:
        traced = trace(network, example)
    except UntraceableError:
        return Units((), (), ())
    analysis = analyse(network, traced.graph, traced.inputs, RULES)
    roots, frozen = analysis.slots.roots(), analysis.slots.frozen()
    number = torch.full_like(roots, -1)
    layers: list[str] = []
    kinds: list[str] = []
    for name, slots in analysis.layers.items():
        layer = network.get_submodule(name)
        linear = isinstance(layer, nn.Linear | nn.LSTM) or is_transposed(layer)
        if slots.outputs is None or not (linear or isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)):
            continue
        made = roots[slots.outputs]
        unique, counts = made.unique(return_counts=True)
        for root, count in zip(unique.tolist(), counts.tolist(), strict=True):
            if number[root] < 0 and not frozen[root]:
                number[root] = len(layers)
                layers.append(name)
                kind = "head" if count > 1 else "neuron"
                kinds.append(kind if linear else "channel")
    number = torch.where(frozen, -1, number[roots])
    axes = [axis for name, slots in analysis.layers.items() for axis in _axes(network, name, slots, number)]
    for name, tensor_axes in analysis.tensors.items():
        if isinstance(_attribute(network, name), nn.Parameter):
            axes += [
                UnitAxis(name, axis, number[ids], produces=True)
                for axis, ids in enumerate(tensor_axes)
                if ids is not None
            ]
    return Units(tuple(axis for axis in axes if (axis.unit >= 0).any()), tuple(layers), tuple(kinds))


def _attribute(network: nn.Module, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(network.get_submodule(owner), leaf)


def _axes(network: nn.Module, name: str, slots: LayerSlots, number: Tensor) -> list[UnitAxis]:
    layer = network.get_submodule(name)
    shapes = {leaf: parameter.shape for leaf, parameter in layer.named_parameters(recurse=False)}
    transposed = is_transposed(layer)
    makes = 1 if transposed or isinstance(layer, nn.Embedding) else 0
    reads = 0 if transposed else 1
    axes = []
    if slots.outputs is not None:
        unit = number[slots.outputs].repeat(4 if isinstance(layer, nn.LSTM) else 1)  # a block for each gate
        axes += [
            UnitAxis(f"{name}.{leaf}", makes if len(shape) > 1 else 0, unit, produces=True)
            for leaf, shape in shapes.items()
        ]
    if isinstance(layer, nn.LSTM) and slots.outputs is not None:
        axes.append(UnitAxis(f"{name}.weight_hh_l0", 1, number[slots.outputs], produces=False))
    weight_name = "weight_ih_l0" if isinstance(layer, nn.LSTM) else "weight"
    weight = shapes.get(weight_name, torch.Size())
    if slots.inputs is not None and len(weight) > 1 and weight[reads] == len(slots.inputs):
        axes.append(UnitAxis(f"{name}.{weight_name}", reads, number[slots.inputs], produces=False))
    return axes
