"""Measure what a removal from a trained network saves: bytes, and time of a batch."""

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction import CompactionWarning, compact, plain_copy
from secateur.errors import SecateurError
from secateur.export.timing import alternating_medians
from secateur.modules import batch_size, call

__all__ = ["TrainedCosts", "baseline", "csr_bytes", "measure_costs"]

INDEX_BYTES = 4
SECONDS = 2.0  # spent on timing
LARGEST = 1 << 28  # bytes of weights, above which no second copy is made to be timed, and none compact
SLOWEST_CALL = 20.0  # seconds; what takes longer is not timed


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
    kept = int(weight.count_nonzero())
    return min(weight.nbytes, kept * (weight.element_size() + INDEX_BYTES) + (len(weight) + 1) * INDEX_BYTES)


def baseline(model: nn.Module, example: Any) -> nn.Module | float:
    """Return what to compare times after a removal with: a copy, or the time of a network too large for two.

    Args:
        model: Network before any removal, in evaluation mode.
        example: Batch to time, as the network is called, on its device.
    """
    return plain_copy(model).eval() if _bytes(model) <= LARGEST else _seconds(model, example)


def measure_costs(
    before: nn.Module | float, model: nn.Module, masks: Mapping[str, Tensor], example: Any
) -> TrainedCosts:
    """Measure bytes and times of a network before and after a removal.

    Args:
        before: Of `baseline`.
        model: Network with its zeros, in evaluation mode.
        masks: True where an entry stays, of the weights that were looked at.
        example: Batch to time, as the network is called, on its device.
    """
    matrices = {name for name, mask in masks.items() if mask.dim() > 1}
    sparse = sum(
        csr_bytes(value.detach()) if name in matrices else value.nbytes
        for name, value in model.named_parameters()
    )
    remarks: list[str] = []
    small = None
    if any((~masks[name].flatten(1).any(1)).any() for name in matrices):  # a unit of which nothing is left
        if isinstance(before, nn.Module):
            small = _compacted(model, example, remarks)
        else:
            remarks.append(
                "Units of which nothing is left were not taken out here: secateur.compact does that."
            )
    seconds: list[float] = []
    if (once := _seconds(before, example) if isinstance(before, nn.Module) else before) > SLOWEST_CALL:
        remarks.append("Times were not measured: a batch takes too long.")
    elif isinstance(before, nn.Module):
        networks = [before, plain_copy(model).eval(), *([] if small is None else [small])]
        calls = [partial(call, network) for network in networks]
        with torch.no_grad():
            seconds = alternating_medians(calls, (example,), seconds=SECONDS)
    else:
        remarks.append("The times before and after were measured one after the other.")
        seconds = [once, _seconds(model, example)]
    times = dict(zip(("seconds_before", "seconds_after", "seconds_compact"), seconds, strict=False))
    return TrainedCosts(
        dense_bytes=_bytes(model),
        sparse_bytes=sparse,
        compact_bytes=None if small is None else _bytes(small),
        batch=batch_size(example),
        remarks=tuple(remarks),
        **times,
    )


def _bytes(model: nn.Module) -> int:
    return sum(value.nbytes for value in model.parameters())


def _compacted(model: nn.Module, example: Any, remarks: list[str]) -> nn.Module | None:
    """Return the compact network; None where it is no smaller."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CompactionWarning)
        try:
            small = compact(model, example)
        except SecateurError as error:
            remarks.append(f"The network was not compacted: {error}")
            return None
    remarks += [f"{each.message}." for each in said if issubclass(each.category, CompactionWarning)]
    return small.eval() if _bytes(small) < _bytes(model) else None


@torch.no_grad()
def _seconds(model: nn.Module, example: Any) -> float:
    """Return the time of the shortest of three calls, of one where that takes too long."""
    shortest = math.inf
    for _ in range(3):
        start = time.perf_counter()
        call(model, example)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        shortest = min(shortest, time.perf_counter() - start)
        if shortest > SLOWEST_CALL:
            break
    return shortest
