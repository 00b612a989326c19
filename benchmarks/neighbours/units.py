"""Whole feed-forward columns and groups of heads by known methods, scored in the layer that reads them.

    magnitude    mean square of all weights that make or read a unit; the lowest of the whole network go
    wanda        sum over the columns that read a unit of |w_ij| * ||x_j||, standardised within each layer and
                 kind as FLAP does (arXiv:2312.11983); the lowest of the whole network go
    sparsegpt    OBS for columns, in the order of execution: the unit whose columns Q cost least,
                 tr W_Q [(H^-1)_QQ]^-1 W_Q^T, goes, all others take over; then the next. Every reading layer
                 loses the same share of its units, as in ZipLM (arXiv:2302.04089)

Units are those that `secateur.pruning.trained_units` finds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature.batches import read_batch
from secateur.modules import evaluation_mode
from secateur.pruning.trained_units import TrainedUnits

from .blocks import visit_in_order
from .layers import Layer, find_layers
from .moments import damped, input_moments
from .task import Task, restored_on_error, without_cache

__all__ = ["UNIT_METHODS", "prune_units"]

Masks = dict[str, Tensor]
DAMPING = 0.01


def prune_units(
    name: str,
    model: nn.Module,
    batches: Sequence[Any],
    *,
    sparsity: float,
    granularity: Sequence[str],
    weights: Sequence[str],
) -> Masks:
    """Remove whole units of a trained network in place by one of the methods, and return the masks.

    Args:
        name: One of `UNIT_METHODS`.
        model: Trained network of linear maps. Its modes stay; its weights too if an error is raised.
        batches: Calibration data, as `secateur.curvature.estimate` reads them.
        sparsity: Share of the entries of the weights that go, at most.
        granularity: "neuron", "head" or both.
        weights: Names of the weight parameters that may lose entries.

    Returns:
        A mask for each of the weights, True where an entry stays.
    """
    layers = find_layers(model, weights)
    task = Task(model, batches, layers, sparsity, None, "categorical", 0, None)  # no targets are read
    with restored_on_error(layers), without_cache(model), evaluation_mode(model), torch.no_grad():
        device = layers[0].weight.device
        example = read_batch(batches[0], device).example
        units = TrainedUnits.of(model, example, tuple(granularity), set(weights))
        keep = {each.name: torch.ones_like(each.weight, dtype=torch.bool) for each in layers}
        gone = UNIT_METHODS[name](task, units, keep)
        masks = units.without(keep, gone)
        for layer in layers:
            layer.weight.masked_fill_(~masks[layer.name], 0)
    return masks


def magnitude_units(task: Task, units: TrainedUnits, keep: Masks) -> Tensor:
    """Return which units have the smallest weights, by mean square."""
    weights = {layer.name: layer.weight for layer in task.layers}
    squares, counts = torch.zeros(units.count, dtype=torch.float64), units.sizes(keep).clamp_min(1)
    for axis in units.axes:
        if axis.parameter in weights:
            others = [each for each in range(weights[axis.parameter].dim()) if each != axis.axis]
            along = weights[axis.parameter].double().square().sum(others).cpu()
            inside = axis.unit >= 0
            squares.index_add_(0, axis.unit[inside], along[inside])
    return _lowest(squares / counts, units, keep, task.share(_total(keep)))


def wanda_units(task: Task, units: TrainedUnits, keep: Masks) -> Tensor:
    """Return which units' columns weigh least with their inputs, compared within their layer."""
    squares = input_moments(task, diagonal=True)
    scores = torch.full((units.count,), torch.inf, dtype=torch.float64)
    for layer, of_column in _readers(task, units):
        columns = (layer.matrix().abs() * squares[layer.name].sqrt()).sum(0).double().cpu()
        own = of_column[of_column >= 0].unique()
        found = torch.zeros(units.count, dtype=torch.float64)
        found.index_add_(0, of_column[of_column >= 0], columns[of_column >= 0])
        spread = found[own].std().clamp_min(torch.finfo(torch.float64).tiny) if len(own) > 1 else 1.0
        scores[own] = (found[own] - found[own].mean()) / spread
    return _lowest(scores, units, keep, task.share(_total(keep)))


def sparsegpt_units(task: Task, units: TrainedUnits, keep: Masks) -> Tensor:
    """Return which units go when each reading layer loses an equal share; the other columns take over."""
    count = _equal_share(task, units, keep)
    readers = {layer.name: of_column for layer, of_column in _readers(task, units)}
    gone = torch.zeros(units.count, dtype=torch.bool)

    def visit(layer: Layer, moments: Tensor) -> None:
        if layer.name not in readers or not count[layer.name]:
            return
        matrix, out = _without_columns(
            layer.matrix().double(), moments, readers[layer.name], count[layer.name]
        )
        layer.write(matrix.to(layer.weight.dtype))
        gone[out] = True

    visit_in_order(task, visit)
    return gone


UNIT_METHODS: dict[str, Callable[[Task, TrainedUnits, Masks], Tensor]] = {
    "magnitude": magnitude_units,
    "wanda": wanda_units,
    "sparsegpt": sparsegpt_units,
}


def _total(keep: Masks) -> int:
    return sum(mask.numel() for mask in keep.values())


def _readers(task: Task, units: TrainedUnits) -> list[tuple[Layer, Tensor]]:
    """Layers that read units, with the unit that each of their columns reads, -1 for none."""
    by_name = {layer.name: layer for layer in task.layers}
    return [
        (by_name[axis.parameter], axis.unit)
        for axis in units.axes
        if not axis.produces and axis.parameter in by_name
    ]


def _lowest(scores: Tensor, units: TrainedUnits, keep: Masks, num_entries: int) -> Tensor:
    """Return the units with the lowest scores that have so many entries at most; one a layer stays."""
    scores, sizes = scores.clone(), units.sizes(keep)
    may_go = torch.zeros(units.count, dtype=torch.bool)
    may_go[list(units.readers)] = True
    for reader in set(units.readers.values()):
        own = torch.tensor([unit for unit, name in units.readers.items() if name == reader])
        may_go[own[scores[own].argmax()]] = False
    gone, left = torch.zeros(units.count, dtype=torch.bool), num_entries
    for unit in scores.argsort(stable=True).tolist():
        if may_go[unit] and sizes[unit] <= left:
            gone[unit] = True
            left -= int(sizes[unit])
    return gone


def _equal_share(task: Task, units: TrainedUnits, keep: Masks) -> dict[str, int]:
    """Return how many units each reading layer loses."""
    sizes, target = units.sizes(keep), task.share(_total(keep))
    own = {
        layer.name: of_column[of_column >= 0].unique()
        for layer, of_column in _readers(task, units)
        if (of_column >= 0).any()
    }
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        entries = sum(int(sizes[each[: int(share * len(each))]].sum()) for each in own.values())
        low, high = (share, high) if entries <= target else (low, share)
    return {name: int(low * len(each)) for name, each in own.items()}


def _without_columns(
    matrix: Tensor, moments: Tensor, of_column: Tensor, count: int
) -> tuple[Tensor, list[int]]:
    """Return a matrix without the columns of so many units, the others compensated, and which units."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(moments, DAMPING)))
    own = of_column[of_column >= 0].unique()
    columns = torch.stack([(of_column == unit).nonzero().flatten() for unit in own.tolist()])
    left = torch.ones(len(own), dtype=torch.bool)
    out: list[int] = []
    for _ in range(count):
        block = inverse[columns.unsqueeze(2), columns.unsqueeze(1)]
        block = torch.where(left[:, None, None], block, torch.eye(block.shape[-1], dtype=block.dtype))
        gram = matrix[:, columns].permute(1, 2, 0)  # units, columns, rows
        cost = (gram * torch.linalg.solve(block, gram)).sum((1, 2))
        chosen = int(torch.where(left, cost, torch.inf).argmin())
        going = columns[chosen]
        step = torch.linalg.solve(inverse[going][:, going], inverse[going])  # (columns that go, all)
        matrix = matrix - matrix[:, going] @ step
        inverse = inverse - inverse[:, going] @ step
        matrix[:, going] = 0
        left[chosen] = False
        out.append(int(own[chosen]))
    return matrix, out
