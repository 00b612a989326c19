"""The stretches in which a large vector of parameters is worked on."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["PART_SIZE", "UNDIVIDED", "Part", "parts_of", "stretch"]

UNDIVIDED = 1 << 21
"""Weights up to which a block is one part."""

PART_SIZE = 1 << 18
"""Weights of a part of a larger block; a multiple of 64, the signs in a word of noise."""


@dataclass(frozen=True)
class Part:
    """A stretch of a block's vector.

    Attributes:
        span: Where it lies in the vector.
        pieces: Index of each parameter it covers, with the first of its entries and the one after the last.
    """

    span: slice
    pieces: tuple[tuple[int, int, int], ...]


def parts_of(sizes: Sequence[int], length: int) -> tuple[Part, ...]:
    """Cut the vector of parameters into parts of one length; the last may be shorter.

    Args:
        sizes: Entries of each parameter.
        length: Of a part.
    """
    parts, pieces, start, filled = [], [], 0, 0
    for index, size in enumerate(sizes):
        first = 0
        while first < size:
            last = min(size, first + length - filled)
            pieces.append((index, first, last))
            filled, first = filled + last - first, last
            if filled == length:
                parts.append(Part(slice(start, start + filled), tuple(pieces)))
                pieces, start, filled = [], start + filled, 0
    if pieces:
        parts.append(Part(slice(start, start + filled), tuple(pieces)))
    return tuple(parts)


def stretch(tensor: Tensor, first: int, last: int) -> Tensor:
    """Return entries of a tensor in row-major order, as a view where its layout allows.

    Args:
        tensor: Any.
        first: The first entry.
        last: The one after the last.
    """
    if tensor.is_contiguous() or last - first == tensor.numel():
        return tensor.reshape(-1)[first:last]
    row = tensor[0].numel()
    return tensor[first // row : -(-last // row)].reshape(-1)[first % row : first % row + last - first]
