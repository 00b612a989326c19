"""Groups of a layer's entries that are judged together, whichever way they are given, as integer labels."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.modules.matrix import LayerMatrix
from secateur.reduction import Partition

if TYPE_CHECKING:
    from secateur.posterior.block import Groups

__all__ = ["labels_by_parameter", "labels_in_matrix"]


def labels_by_parameter(
    groups: "Groups", parameters: Mapping[str, Tensor], transposed: bool
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Return the group of every entry in the shape of its parameter, and the shape of one value per group.

    Args:
        groups: As in `Block.delta_f`.
        parameters: The layer's parameters by name, for their names and shapes.
        transposed: Whether weights keep their outputs last.

    Raises:
        InvalidArgumentError: If the groups do not fit the layer.
    """
    if isinstance(groups, Mapping):
        _check(groups, parameters)
        device = next(iter(parameters.values())).device
        labels = {name: label.to(device, torch.int64) for name, label in groups.items()}
        return labels, (_count(labels),)
    layout = layout_of(parameters, transposed)
    matrix, shape = labels_in_matrix(groups, parameters, layout)
    return layout.unpack(matrix), shape


def labels_in_matrix(
    groups: "Groups", parameters: Mapping[str, Tensor], layout: LayerMatrix
) -> tuple[Tensor, tuple[int, ...]]:
    """Return the group of every entry in the layer's matrix, and the shape of one value per group.

    Args:
        groups: As in `Block.delta_f`.
        parameters: The layer's parameters by name, for their names and shapes.
        layout: How they are laid out.

    Raises:
        InvalidArgumentError: If the groups do not fit the layer.
    """
    device = next(iter(parameters.values())).device
    if isinstance(groups, Mapping):
        _check(groups, parameters)
        labels = layout.pack({name: label.to(device, torch.int64) for name, label in groups.items()})
        return labels, (_count({"": labels}),)
    shape = (layout.rows, layout.columns)
    if isinstance(groups, Partition):
        if math.prod(groups.shape) != math.prod(shape) or groups.shape[0] != shape[0]:
            raise InvalidArgumentError(
                f"groups: expected a partition of the layer's matrix {shape}, got one of {groups.shape}"
            )
        ids = torch.arange(math.prod(groups.groups), device=device).reshape(groups.groups)
        return groups.scatter(ids).reshape(shape), groups.groups
    if groups.is_floating_point() or groups.is_complex() or tuple(groups.shape) != shape:
        raise InvalidArgumentError(
            f"groups: expected integer labels in the shape {shape} of the layer's matrix, got "
            f"{groups.dtype} of shape {tuple(groups.shape)}"
        )
    labels = groups.to(device, torch.int64)
    return labels, (_count({"": labels}),)


def layout_of(parameters: Mapping[str, Tensor], transposed: bool) -> LayerMatrix:
    """Return the matrix that a layer's parameters make.

    Args:
        parameters: By name.
        transposed: Whether weights keep their outputs last.
    """
    return LayerMatrix.of(
        list(parameters), [value.shape for value in parameters.values()], transposed=transposed
    )


def _check(groups: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    if groups.keys() != parameters.keys():
        differing = sorted(groups.keys() ^ parameters.keys())[0]
        raise InvalidArgumentError(
            f"groups: expected labels for every parameter of the layer, got a difference at {differing!r}"
        )
    for name, label in groups.items():
        if label.is_floating_point() or label.is_complex() or label.shape != parameters[name].shape:
            raise InvalidArgumentError(
                f"groups[{name!r}]: expected integer labels of shape {tuple(parameters[name].shape)}, got "
                f"{label.dtype} of shape {tuple(label.shape)}"
            )


def _count(labels: Mapping[str, Tensor]) -> int:
    return 1 + max((int(label.max()) for label in labels.values() if label.numel()), default=-1)
