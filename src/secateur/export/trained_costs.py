"""Measure what a removal from a trained network saves: bytes, and time of a batch."""

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction import CompactionWarning, compact, plain_copy
from secateur.errors import SecateurError
from secateur.export.timing import alternating_medians
from secateur.modules import batch_size, call

__all__ = ["Baseline", "TrainedCosts", "csr_bytes", "dead_units", "measure_costs"]

INDEX_BYTES = 4
SECONDS = 2.0
SLOW_CALL = 0.5  # seconds, above which a call is timed a few times only
SLOWEST_CALL = 20.0
SLOW_TURNS = 3
LARGEST = 1 << 28  # bytes of weights, above which no second copy is made to be timed, and none compact


@dataclass(frozen=True)
class Baseline:
    """What the time after a removal is compared with.

    Attributes:
        network: Copy of the network from before, to be timed in turn with the pruned one; None where it is
            too large to be held twice.
        seconds: Median time of a batch before, where there is no copy; None where it takes too long.
    """

    network: nn.Module | None
    seconds: float | None

    @classmethod
    def of(cls, model: nn.Module, example: Any) -> "Baseline":
        """Copy or time a network before any removal.

        Args:
            model: The network, in evaluation mode.
            example: Batch to time, as the network is called, on its device.
        """
        if _bytes(model) <= LARGEST:
            return cls(plain_copy(model).eval(), None)
        return cls(None, _median(model, example))


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
    before: Baseline, model: nn.Module, masks: Mapping[str, Tensor], example: Any
) -> TrainedCosts:
    """Measure bytes and times of a network before and after a removal.

    Args:
        before: Of the network before.
        model: Network with its zeros, in evaluation mode.
        masks: True where an entry stays, of the weights that were looked at.
        example: Batch to time, as the network is called, on its device.
    """
    sparse = sum(
        csr_bytes(value.detach()) if name in masks and value.dim() > 1 else _size(value)
        for name, value in model.named_parameters()
    )
    remarks: list[str] = []
    small = None
    if dead_units(masks) and _bytes(model) > LARGEST:
        remarks.append("Units of which nothing is left were not taken out here: secateur.compact does that.")
    elif dead_units(masks):
        small = _compacted(model, example, remarks)
    with torch.no_grad():
        seconds = _times(before, model, small, example, remarks)
    return TrainedCosts(
        dense_bytes=_bytes(model),
        sparse_bytes=sparse,
        compact_bytes=None if small is None else _bytes(small),
        batch=batch_size(example),
        seconds_before=seconds[0],
        seconds_after=seconds[1],
        seconds_compact=seconds[2],
        remarks=tuple(remarks),
    )


def _size(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _bytes(model: nn.Module) -> int:
    return sum(map(_size, model.parameters()))


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


def _times(
    before: Baseline, model: nn.Module, small: nn.Module | None, example: Any, remarks: list[str]
) -> tuple[float | None, float | None, float | None]:
    """Return seconds of a batch before, with zeros, and compact; in turn where a copy fits."""
    if before.network is None:
        after = None if before.seconds is None else _median(model, example)
        remarks.append(
            "Times were not measured: a batch takes too long."
            if after is None
            else "The times before and after were measured one after the other."
        )
        return before.seconds, after, None
    networks = [before.network, plain_copy(model).eval(), *([] if small is None else [small])]
    calls: list[Callable[[Any], Any]] = [partial(call, network) for network in networks]
    _seconds(calls[0], example)  # the first call of all sets up threads and memory
    once = _seconds(calls[0], example)
    if once > SLOWEST_CALL:
        remarks.append("Times were not measured: a batch takes too long.")
        return None, None, None
    if once > SLOW_CALL:  # `alternating_medians` calls several times before one counts
        turns = [[_seconds(each, example) for each in calls] for _ in range(SLOW_TURNS)]
        medians = [statistics.median(own) for own in zip(*turns, strict=True)]
    else:
        medians = alternating_medians(calls, (example,), seconds=SECONDS)
    return medians[0], medians[1], None if small is None else medians[2]


@torch.no_grad()
def _median(model: nn.Module, example: Any) -> float | None:
    """Return the median time of a batch, None where it takes too long."""
    function = partial(call, model)
    if _seconds(function, example) > SLOWEST_CALL:
        return None
    return statistics.median(_seconds(function, example) for _ in range(SLOW_TURNS))


def _seconds(function: Callable[[Any], Any], example: Any) -> float:
    start = time.perf_counter()
    function(example)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
