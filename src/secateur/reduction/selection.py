"""Select the largest entries of several tensors together, exactly, without sorting or copying them.

Floating-point numbers of one sign are ordered as their bits are. So the smallest value that is selected is
found 16 bits at a time: a histogram of the highest 16 bits says in which bin it lies, a histogram of the next
16 bits among the entries of that bin says where inside, and so on. Memory: a few chunks and one histogram.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.shapes import Bool, Float

__all__ = ["select_largest"]

CHUNK_SIZE = 1 << 18
"""Entries looked at together."""

_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
_DIGIT = 16


def select_largest(
    values: Sequence[Float[Tensor, "..."]],
    count: int,
    *,
    among: Sequence[Bool[Tensor, "..."]] | None = None,
) -> list[Bool[Tensor, "..."]]:
    """Select the `count` largest entries of all tensors together; among equal ones the first.

    The selection is that of `torch.argsort(torch.cat(values), descending=True, stable=True)[:count]`, where
    nan is largest and both zeros are equal.

    Args:
        values: Tensors of any shapes, on one device and of one dtype, float32 or float64.
        count: How many entries to select.
        among: True where an entry may be selected, in the tensors' shapes; all entries when None.

    Returns:
        For each tensor, True where an entry is selected.

    Raises:
        InvalidArgumentError: If there are fewer entries than `count`, or the dtype is another.

    Example:
        >>> import torch
        >>> select_largest([torch.tensor([1.0, 3.0]), torch.tensor([3.0, 2.0, 3.0])], 2)
        [tensor([False,  True]), tensor([ True, False, False])]
    """
    places = [None] * len(values) if among is None else [each.reshape(-1) for each in among]
    total = sum(
        each.numel() if place is None else int(place.sum())
        for each, place in zip(values, places, strict=True)
    )
    if not 0 <= count <= total:
        raise InvalidArgumentError(f"count: expected 0 to {total} (all entries), got {count}")
    for each in values:
        if each.dtype not in _INTEGERS or each.dtype != values[0].dtype:
            raise InvalidArgumentError(f"values: expected one dtype, float32 or float64, got {each.dtype}")
    if count == 0 or (count == total and among is None):
        return [torch.full(each.shape, count > 0, dtype=torch.bool, device=each.device) for each in values]
    if count == total and among is not None:
        return [each.clone() for each in among]
    flat = [each.detach().reshape(-1) for each in values]
    smallest, ties = _smallest_selected(flat, places, count)
    selected = []
    for each, place in zip(flat, places, strict=True):
        chosen = torch.empty(each.shape, dtype=torch.bool, device=each.device)
        for start, key in _keys(each):
            part = torch.gt(key, smallest, out=chosen[start : start + CHUNK_SIZE])
            here = None if place is None else place[start : start + CHUNK_SIZE]
            if here is not None:
                part &= here
            if ties:
                tied = key == smallest if here is None else (key == smallest) & here
                equal = tied.nonzero().squeeze(-1)[:ties]
                part[equal] = True
                ties -= len(equal)
        selected.append(chosen)
    return [chosen.view(each.shape) for chosen, each in zip(selected, values, strict=True)]


def _keys(flat: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Give integers that are ordered as the values are, chunk by chunk, with where each chunk starts."""
    integer = _INTEGERS[flat.dtype]
    for start in range(0, flat.numel(), CHUNK_SIZE):
        part = flat[start : start + CHUNK_SIZE] + 0.0  # so that -0.0 is 0.0
        bits = part.view(integer)
        key = torch.where(bits < 0, bits ^ torch.iinfo(integer).max, bits)
        yield start, key.masked_fill_(part.isnan(), torch.iinfo(integer).max)


def _smallest_selected(
    flat: Sequence[Tensor], places: Sequence[Tensor | None], count: int
) -> tuple[int, int]:
    """Return the key of the smallest entry among the `count` largest, and how many equal to it are in."""
    width = torch.iinfo(_INTEGERS[flat[0].dtype]).bits
    prefix: int | None = None  # the highest bits of the key that is sought, as far as they are known
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        # the sign is part of the highest digit, the only one that may be negative
        offset = 1 << (_DIGIT - 1) if prefix is None else 0
        counts = torch.zeros(1 << _DIGIT, dtype=torch.int64, device=flat[0].device)
        for each, place in zip(flat, places, strict=True):
            for start, found in _keys(each):
                key = found if place is None else found[place[start : start + CHUNK_SIZE]]
                inside = key if prefix is None else key[(key >> (shift + _DIGIT)) == prefix]
                digit = (inside >> shift) if prefix is None else (inside >> shift) & ((1 << _DIGIT) - 1)
                counts += torch.bincount(digit + offset, minlength=1 << _DIGIT)
        above = counts.flip(0).cumsum(0).flip(0)  # entries in each bin or a higher one
        bin_index = int((above >= count).sum()) - 1
        count -= int(above[bin_index] - counts[bin_index])
        prefix = bin_index - offset if prefix is None else (prefix << _DIGIT) | bin_index
    assert prefix is not None
    return prefix, count
