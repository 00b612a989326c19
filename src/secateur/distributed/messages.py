"""What ranks tell each other: values, facts that must agree, and failures."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from secateur.distributed.group import num_ranks
from secateur.errors import InvalidArgumentError, RankError, SecateurError, in_a_line

__all__ = [
    "averaged",
    "exchange",
    "facts_of",
    "gathered",
    "group_device",
    "peers",
    "require_same",
    "together",
]

PATIENCE = timedelta(seconds=30)  # of a rank that has failed, before it ends without the others
TOLERANCE = 1e-5  # of sums of weights, which different machines may round differently

_together = 0  # depth of `together` blocks


@contextmanager
def together() -> Iterator[None]:
    """End on all ranks if the block fails on one of them, each with the message of the rank that failed.

    Raises:
        RankError: If the block failed on another rank.
    """
    global _together
    if num_ranks() == 1 or _together:
        yield
        return
    _together += 1
    try:
        yield
        exchange(b"")
    except RankError:
        raise
    except BaseException as error:
        message = str(error) if isinstance(error, SecateurError) else in_a_line(error)
        with suppress(RankError):  # what failed here is what there is to say
            exchange(_encoded({"error": message}), wait=PATIENCE)
        raise
    finally:
        _together -= 1


def gathered(value: Any) -> list[Any]:
    """Return a value of every rank, in the order of ranks.

    Args:
        value: Of this rank: numbers, strings, None, and lists and dicts of them.
    """
    if num_ranks() == 1:
        return [value]
    return [json.loads(each)["value"] for each in exchange(_encoded({"value": value}))]


def averaged(value: float) -> float:
    """Return the mean over ranks of a number.

    Args:
        value: Of this rank.
    """
    if num_ranks() == 1:
        return value
    return math.fsum(gathered(value)) / num_ranks()


def require_same(facts: Mapping[str, Any], *, advice: str) -> None:
    """Refuse facts that differ between ranks, before anything is done on any of them.

    Args:
        facts: By what they are called: what `gathered` takes. Floating-point numbers may differ by rounding.
        advice: What to do, for the message.

    Raises:
        InvalidArgumentError: On every rank, naming the first fact that differs.
    """
    if num_ranks() == 1:
        return
    first, *others = gathered(dict(facts))
    for number, other in enumerate(others, 1):
        for name in [*first, *(name for name in other if name not in first)]:
            mine, theirs = first.get(name), other.get(name)
            if not _agree(mine, theirs):
                raise InvalidArgumentError(
                    f"ranks: expected the same {name} on all, got {mine} on rank 0 and {theirs} on rank "
                    f"{number}; {advice}"
                )


@torch.no_grad()
def facts_of(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what must be the same of a model on every rank: shapes and sums of its parameters and buffers.

    Args:
        model: A module, or tensors by name. Values in shards are not compared.
    """
    if num_ranks() == 1:
        return {}
    tensors: dict[str, Tensor] = {}
    if isinstance(model, nn.Module):
        tensors |= dict(model.named_parameters()) | dict(model.named_buffers())
    else:
        tensors |= model
    facts: dict[str, Any] = {f"shape of {name}": list(each.shape) for name, each in tensors.items()}
    whole = {name: each for name, each in tensors.items() if type(each) in (Tensor, nn.Parameter)}
    if whole:
        sums = [each.detach().double().square().sum().cpu() for each in whole.values()]
        found = zip(whole, torch.stack(sums).tolist(), strict=True)
        facts |= {f"sum of squares of {name}": value for name, value in found}
    return facts


def _encoded(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode()


def exchange(payload: bytes, wait: timedelta | None = None) -> list[bytes]:
    """Return the message of every rank; raise what a rank says has failed.

    Who fails may wait in vain: others can be inside a collective that is not ours, as of a backward pass.

    Args:
        payload: Of this rank; JSON with a `value` or an `error`, or nothing.
        wait: How long to wait for the others; None waits as long as the group does.

    Raises:
        RankError: If a rank has failed, or has gone.
    """
    device = group_device()
    length = torch.tensor([len(payload)], device=device)
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    with peers():
        work = dist.all_gather(lengths, length, async_op=True)
        work.wait(wait) if wait else work.wait()
    counts = torch.cat(lengths).tolist()
    if not any(counts):
        return [b""] * len(counts)
    padded = torch.zeros(max(counts), dtype=torch.uint8, device=device)
    padded[: len(payload)] = torch.frombuffer(bytearray(payload or b"\0"), dtype=torch.uint8)[: len(payload)]
    parts = [torch.empty_like(padded) for _ in counts]
    with peers():
        dist.all_gather(parts, padded)
    found = [bytes(part[:count].tolist()) for part, count in zip(parts, counts, strict=True)]
    for number, message in enumerate(found):
        if message and (error := json.loads(message).get("error")) is not None:
            raise RankError(f"rank {number}: {error}")
    return found


def group_device() -> torch.device:
    """Return where the group takes what is on no accelerator."""
    if "cpu:gloo" in str(dist.get_backend_config()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def peers() -> Iterator[None]:
    """Turn the failure of a collective into one line: another process has ended without a word."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"ranks: expected all {dist.get_world_size()} processes, got a broken connection "
            f"({in_a_line(error)}); look at what the first to end has printed"
        ) from error


def _agree(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, float) and isinstance(theirs, float):
        return math.isclose(mine, theirs, rel_tol=TOLERANCE) or (math.isnan(mine) and math.isnan(theirs))
    return bool(mine == theirs)
