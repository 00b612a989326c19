"""Times of several callables on one machine, call by call in turn: a busy machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, cuda

__all__ = ["alternating_medians"]

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 200


def alternating_medians(
    calls: Sequence[Callable[..., Any]], inputs: tuple[Any, ...], *, seconds: float
) -> list[float]:
    """Return the median time of one call of each, in seconds.

    Args:
        calls: What to time; each is called twice before.
        inputs: Positional arguments of every call.
        seconds: Time spent altogether, once five rounds are done.
    """
    wait = any(isinstance(x, Tensor) and x.is_cuda for x in inputs)
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call(*inputs)
        call(*inputs)
    end = time.perf_counter() + seconds
    while len(times[0]) < _LEAST_ROUNDS or (time.perf_counter() < end and len(times[0]) < _MOST_ROUNDS):
        for call, own in zip(calls, times, strict=True):
            if wait:
                cuda.synchronize()
            start = time.perf_counter()
            call(*inputs)
            if wait:
                cuda.synchronize()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]
