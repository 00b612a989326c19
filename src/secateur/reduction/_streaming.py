"""Work on long vectors in chunks that stay in cache, on PyTorch's number of threads.

PyTorch splits every operation over its threads and waits for all of them after each. Over a long vector that
means one trip to memory per operation, and on a busy machine one wait per operation for whichever thread is
not running. Here each thread takes a stretch of its own and does all operations on one chunk after another;
a chunk is small enough for PyTorch to leave it to the thread that asks. They wait once, at the end.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["CHUNK_SIZE", "over_chunks"]

T = TypeVar("T")

CHUNK_SIZE = 28_672
"""Elements per chunk: below the 32768 from which PyTorch starts threads for an operation."""


def over_chunks(work: Callable[[slice], T], size: int) -> list[T]:
    """Apply work to consecutive chunks of a vector, without gradients.

    Args:
        work: Takes the slice of a chunk; writes where no other chunk does.
        size: Length of the vector.

    Returns:
        What work returned, in the order of the chunks, whatever the number of threads.
    """
    starts = range(0, size, CHUNK_SIZE)
    num_threads = min(torch.get_num_threads(), len(starts))
    inference = torch.is_inference_mode_enabled()

    def stretch(thread: int) -> list[T]:
        mine = starts[len(starts) * thread // num_threads : len(starts) * (thread + 1) // num_threads]
        with torch.inference_mode(inference), torch.no_grad():  # a thread inherits no mode
            return [work(slice(start, min(start + CHUNK_SIZE, size))) for start in mine]

    if num_threads <= 1:
        return stretch(0) if starts else []
    with ThreadPoolExecutor(num_threads) as threads:
        return [value for values in threads.map(stretch, range(num_threads)) for value in values]
