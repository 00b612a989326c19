"""Measure what a removal from a trained network saves: bytes, and time of a batch."""

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction import CompactionWarning, compact, plain_copy
from secateur.errors import SecateurError
from secateur.export.timing import alternating_medians
from secateur.modules import batch_size, call

__all__ = ["TrainedCosts", "copy_to_time", "csr_bytes", "dead_units", "measure_costs"]

INDEX_BYTES = 4
SECONDS = 2.0
SLOW_CALL = 0.5  # seconds, above which a call is timed a few times only
SLOWEST_CALL = 20.0
SLOW_TURNS = 3
LARGEST = 2 << 30  # bytes of weights, above which no second copy is made to be timed


@dataclass(frozen=True)
class TrainedCosts:
    """Bytes of a network and time of a batch, before and after a removal.

    Attributes:
        dense_bytes: All parameters, zeros included: as before.
        sparse_bytes: The same where each pruned matrix is stored as CSR, if that is smaller.
        compact_bytes: Parameters of the compact network; None where no whole unit went.
        batch: Data of the batch that was timed.
        seconds_before: Median time of a batch; None where it was not timed.
        seconds_after: The same with zeros in place.
        seconds_compact: The same of the compact network.
        remarks: What could not be measured, and why.
    """

    dense_bytes: int
    sparse_bytes: int
    compact_bytes: int | None = None
    batch: int = 0
    seconds_before: float | None = None
    seconds_after: float | None = None
    seconds_compact: float | None = None
    remarks: tuple[str, ...] = ()


def csr_bytes(weight: Tensor) -> int:
    """Return the bytes of a weight as a CSR matrix of its output units, or dense if that is fewer.

    CSR keeps a value and a column number of four bytes for each kept entry, and a place for each row.

    Args:
        weight: Weight with exact zeros.

    >>> csr_bytes(torch.eye(8)), csr_bytes(torch.ones(8, 8))
    (100, 256)
    """
    dense = weight.numel() * weight.element_size()
    kept = int(weight.count_nonzero())
    return min(dense, kept * (weight.element_size() + INDEX_BYTES) + (len(weight) + 1) * INDEX_BYTES)


def dead_units(masks: Mapping[str, Tensor]) -> int:
    """Count output units of which no weight is left.

    Args:
        masks: True where an entry stays, by parameter.
    """
    return sum(int((~mask.reshape(len(mask), -1).any(1)).sum()) for mask in masks.values() if mask.dim() > 1)


def measure_costs(
    before: nn.Module | None, model: nn.Module, masks: Mapping[str, Tensor], example: Any
) -> TrainedCosts:
    """Measure bytes and times of a network before and after a removal.

    Args:
        before: Copy of the network from before; None leaves times out.
        model: Network with its zeros, in evaluation mode.
        masks: True where an entry stays, of the weights that were looked at.
        example: Batch to time, as the network is called, on its device.
    """
    parameters = dict(model.named_parameters())
    sizes = {name: value.numel() * value.element_size() for name, value in parameters.items()}
    sparse = {
        name: csr_bytes(value.detach())
        for name, value in parameters.items()
        if name in masks and value.dim() > 1
    }
    total = sum(sizes.values())
    remarks: list[str] = []
    small = _compacted(model, example, remarks) if dead_units(masks) else None
    costs = TrainedCosts(
        dense_bytes=total,
        sparse_bytes=sum((sizes | sparse).values()),
        compact_bytes=None
        if small is None
        else sum(value.numel() * value.element_size() for value in small.parameters()),
        batch=batch_size(example),
    )
    return _timed(costs, before, model, small, example, remarks)


def copy_to_time(model: nn.Module) -> nn.Module | None:
    """Copy a network to be timed later; None where it is too large to be held twice.

    Args:
        model: The network before any removal.
    """
    size = sum(value.numel() * value.element_size() for value in model.parameters())
    return plain_copy(model).eval() if size <= LARGEST else None


def _compacted(model: nn.Module, example: Any, remarks: list[str]) -> nn.Module | None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CompactionWarning)
        try:
            small = compact(model, example)
        except SecateurError as error:
            remarks.append(f"The network was not compacted: {error}")
            return None
    remarks += [str(each.message) for each in said if issubclass(each.category, CompactionWarning)]
    numbers = [sum(value.numel() for value in each.parameters()) for each in (small, model)]
    return small.eval() if numbers[0] < numbers[1] else None


@torch.no_grad()
def _timed(
    costs: TrainedCosts,
    before: nn.Module | None,
    model: nn.Module,
    small: nn.Module | None,
    example: Any,
    remarks: list[str],
) -> TrainedCosts:
    """Return the costs with times, each network called in its turn."""
    if before is None:
        remarks.append("Times were not measured: the network is too large to be held twice.")
        return replace(costs, remarks=tuple(remarks))
    networks = [before, plain_copy(model).eval(), *([] if small is None else [small])]
    calls: list[Callable[[Any], Any]] = [partial(call, network) for network in networks]
    _seconds(calls[0], example)  # the first call of all sets up threads and memory
    once = _seconds(calls[0], example)
    if once > SLOWEST_CALL:
        remarks.append(f"Times were not measured: a batch takes {once:.0f} s.")
        return replace(costs, remarks=tuple(remarks))
    if once > SLOW_CALL:  # others are called several times before one counts
        turns = [[_seconds(each, example) for each in calls] for _ in range(SLOW_TURNS)]
        medians = [statistics.median(own) for own in zip(*turns, strict=True)]
    else:
        medians = alternating_medians(calls, (example,), seconds=SECONDS)
    return replace(
        costs,
        seconds_before=medians[0],
        seconds_after=medians[1],
        seconds_compact=None if small is None else medians[2],
        remarks=tuple(remarks),
    )


def _seconds(function: Callable[[Any], Any], example: Any) -> float:
    start = time.perf_counter()
    function(example)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
