"""Tensors over ranks: summed, taken from rank 0, put one after another."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from secateur.distributed.group import num_ranks
from secateur.distributed.messages import exchange, gathered, group_device, peers
from secateur.errors import InvalidArgumentError

__all__ = ["concatenated", "from_first", "sum_in_place"]

BUCKET = 1 << 26  # numbers that are sent at once, so that a large model is never in memory twice


def sum_in_place(tensors: Sequence[Tensor]) -> None:
    """Sum tensors over ranks, in place; those of one kind go in one all-reduce.

    Args:
        tensors: Of the same shapes on every rank.
    """
    _in_buckets(tensors, dist.all_reduce)


def from_first(tensors: Sequence[Tensor]) -> None:
    """Take over rank 0's values of tensors, in place.

    Args:
        tensors: Of the same shapes on every rank.
    """
    _in_buckets(tensors, lambda flat: dist.broadcast(flat, 0))


@torch.no_grad()
def _in_buckets(tensors: Sequence[Tensor], collective: Callable[[Tensor], Any]) -> None:
    if num_ranks() == 1:
        return
    exchange(b"")
    for flat, pieces in _buckets(tensors):
        with peers():
            collective(flat)
        for piece, values in zip(pieces, flat.split([piece.numel() for piece in pieces]), strict=True):
            piece.copy_(values.view(piece.shape))


@torch.no_grad()
def concatenated(tensor: Tensor) -> Tensor:
    """Return the rows of every rank's tensor, rank after rank.

    Args:
        tensor: Of the same type and number of dimensions on every rank; the number of rows may differ.
    """
    if num_ranks() == 1:
        return tensor
    shapes = gathered(list(tensor.shape))
    longest = max(len(tensor), *(shape[0] for shape in shapes))
    if any(shape[1:] != shapes[0][1:] for shape in shapes):
        raise InvalidArgumentError(
            f"ranks: expected rows of one shape, got {shapes[0][1:]} on rank 0 and "
            f"{next(shape[1:] for shape in shapes if shape[1:] != shapes[0][1:])} on another"
        )
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in shapes]
    with peers():
        dist.all_gather(parts, padded)
    return torch.cat([part[: shape[0]] for part, shape in zip(parts, shapes, strict=True)])


def _buckets(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Give vectors of the tensors of one kind, and which tensors each is of."""
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        by_kind[tensor.dtype, tensor.device].append(tensor)
    for (dtype, _), members in by_kind.items():
        start = 0
        while start < len(members):
            stop, count = start + 1, members[start].numel()
            while stop < len(members) and count + members[stop].numel() <= BUCKET:
                count += members[stop].numel()
                stop += 1
            pieces = members[start:stop]
            flat = torch.cat([piece.reshape(-1) for piece in pieces])
            flat = flat.to(group_device()) if flat.is_cpu else flat
            yield (flat.to(torch.uint8) if dtype == torch.bool else flat), pieces
            start = stop
