"""Work on long vectors in chunks that stay in cache, so that each operation does not make a trip to memory.

A chunk is long enough for PyTorch to split every operation over its threads. Threads of our own would not
help: they would wait for each other at every operation, for the interpreter runs one at a time.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["CHUNK_SIZE", "ROW_SIZE", "chunks", "total"]

ROW_SIZE = 28_672
"""Elements that one thread sums: a sum is then the same whatever the number of threads."""

CHUNK_SIZE = 16 * ROW_SIZE
"""Elements per chunk: three vectors of float32 fit in a few MiB of cache."""


def chunks(size: int) -> Iterator[slice]:
    """Give the consecutive chunks of a vector of that size."""
    for start in range(0, size, CHUNK_SIZE):
        yield slice(start, min(start + CHUNK_SIZE, size))


def total(chunk: Tensor) -> float:
    """Return the sum of a vector, added up row by row and the rows exactly."""
    whole = len(chunk) - len(chunk) % ROW_SIZE
    rows = torch.cat([chunk[:whole].view(-1, ROW_SIZE).sum(1), chunk[whole:].sum().reshape(1)])
    return math.fsum(rows.tolist())
