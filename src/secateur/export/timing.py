"""Time several callables in turn, so that load on the machine slows all of them alike.

In its turn each is called several times, and the last call counts: in use it follows itself, and finds in the
processor's caches what it left there. One call before is not enough for that: a network of 5 MB at batch 1
took 0.25 ms the second time, 0.12 ms the sixth and 0.11 ms from then on. A small one beside it settles at
once, and would look twice as good as it is.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, cuda
from torch.utils import _pytree as pytree

__all__ = ["alternating_medians", "alternating_times"]

_LEAST_ROUNDS = 5
_CALLS_BEFORE, _SECONDS_BEFORE = 20, 0.01  # whichever comes first; long calls hardly depend on the caches
_LONG_CALL, _ROUNDS_OF_LONG_CALLS = 0.5, 3  # seconds, above which no call comes before the one that counts


def alternating_times(
    calls: Sequence[Callable[..., Any]], inputs: tuple[Any, ...], *, seconds: float, most_rounds: int
) -> list[list[float]]:
    """Time single calls of each callable, in seconds.

    Args:
        calls: What to time.
        inputs: Positional arguments of every call.
        seconds: Time spent altogether, once five rounds are done; three, of calls that take long.
        most_rounds: Rounds to stop after in any case.
    """
    wait = any(isinstance(x, Tensor) and x.is_cuda for x in pytree.tree_leaves(inputs))
    times: list[list[float]] = [[] for _ in calls]
    is_long = max([_seconds(call, inputs, wait) for call in calls], default=0.0) > _LONG_CALL
    least = _ROUNDS_OF_LONG_CALLS if is_long else _LEAST_ROUNDS
    end = time.perf_counter() + seconds
    while len(times[0]) < least or (time.perf_counter() < end and len(times[0]) < most_rounds):
        for call, own in zip(calls, times, strict=True):
            if not is_long:
                _settle(call, inputs)
            own.append(_seconds(call, inputs, wait))
    return times


def _seconds(call: Callable[..., Any], inputs: tuple[Any, ...], wait: bool) -> float:
    if wait:
        cuda.synchronize()
    start = time.perf_counter()
    call(*inputs)
    if wait:
        cuda.synchronize()
    return time.perf_counter() - start


def _settle(call: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    end = time.perf_counter() + _SECONDS_BEFORE
    for _ in range(_CALLS_BEFORE):
        call(*inputs)
        if time.perf_counter() > end:
            break


def alternating_medians(
    calls: Sequence[Callable[..., Any]], inputs: tuple[Any, ...], *, seconds: float
) -> list[float]:
    """Return the median time of one call of each, in seconds.

    Args:
        calls: What to time.
        inputs: Positional arguments of every call.
        seconds: Time spent altogether, as of `alternating_times`.
    """
    times = alternating_times(calls, inputs, seconds=seconds, most_rounds=200)
    return [statistics.median(own) for own in times]
