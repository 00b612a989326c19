"""Several processes as one: what is summed, averaged, compared and decided over the ranks of a group.

Where no process group is initialised, or one of a single rank, every function here returns at once. In a
group all ranks must make the same calls. Each exchange says first whether a rank has failed: so a rank that
fails inside `together` ends all of them with its message, and none waits for it for ever.

Data are dealt to ranks like cards, as `DistributedSampler` does: of a batch that all ranks have together,
datum 0 is the first of rank 0, datum 1 the first of rank 1, and so on, while a rank has any left.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError, RankError, SecateurError, in_a_line

__all__ = [
    "Share",
    "alone",
    "averaged",
    "concatenated",
    "facts_of",
    "from_first",
    "gathered",
    "is_alone",
    "is_initialized",
    "num_ranks",
    "rank",
    "require_same",
    "sum_in_place",
    "together",
]

BUCKET = 1 << 26  # numbers that are sent at once, so that a large model is never in memory twice
TOLERANCE = 1e-5  # of sums of weights, which different machines may round differently

_alone = 0  # depth of `alone` blocks
_together = 0  # depth of `together` blocks


def is_initialized() -> bool:
    """Return whether this process belongs to a process group, be it the only one in it."""
    return dist.is_available() and dist.is_initialized()


def num_ranks() -> int:
    """Return the number of processes that work together, 1 where there is no process group."""
    return 1 if _alone or not is_initialized() else dist.get_world_size()


def is_alone() -> bool:
    """Return whether this process works by itself inside a process group: in an `alone` block."""
    return bool(_alone) and is_initialized()


def rank() -> int:
    """Return the number of this process among those that work together."""
    return 0 if num_ranks() == 1 else dist.get_rank()


@contextmanager
def alone() -> Iterator[None]:
    """Work without the other ranks inside the block, for what one rank does by itself.

    if torch.distributed.get_rank() == 0:
        with secateur.distributed.alone():
            posterior = secateur.inference.laplace(model, loader)
    """
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


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
        _exchange(b"")
    except RankError:
        raise
    except BaseException as error:
        message = str(error) if isinstance(error, SecateurError) else in_a_line(error)
        with suppress(RankError):  # what failed here is what there is to say
            _exchange(_encoded({"error": message}))
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
    return [json.loads(each)["value"] for each in _exchange(_encoded({"value": value}))]


def averaged(value: float) -> float:
    """Return the mean over ranks of a number.

    Args:
        value: Of this rank.
    """
    if num_ranks() == 1:
        return value
    return math.fsum(gathered(value)) / num_ranks()


@torch.no_grad()
def sum_in_place(tensors: Sequence[Tensor]) -> None:
    """Sum tensors over ranks, in place; those of one kind go in one all-reduce.

    Args:
        tensors: Of the same shapes on every rank.
    """
    if num_ranks() == 1:
        return
    _exchange(b"")
    for flat, pieces in _buckets(tensors):
        with _peers():
            dist.all_reduce(flat)
        _unpack(flat, pieces)


@torch.no_grad()
def from_first(tensors: Sequence[Tensor]) -> None:
    """Take over rank 0's values of tensors, in place.

    Args:
        tensors: Of the same shapes on every rank.
    """
    if num_ranks() == 1:
        return
    _exchange(b"")
    for flat, pieces in _buckets(tensors):
        with _peers():
            dist.broadcast(flat, 0)
        _unpack(flat, pieces)


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
    with _peers():
        dist.all_gather(parts, padded)
    return torch.cat([part[: shape[0]] for part, shape in zip(parts, shapes, strict=True)])


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


@dataclass(frozen=True)
class Share:
    """A rank's part of a batch that all ranks have together.

    Attributes:
        places: Place in the whole batch of each datum of the part, rising.
        size: Data of the whole batch.
    """

    places: tuple[int, ...]
    size: int

    @classmethod
    def dealt(cls, counts: Sequence[int], of: int | None = None) -> "Share":
        """Return the part of a rank, as cards are dealt.

        Args:
            counts: Data of each rank.
            of: The rank; this one when None.

        >>> Share.dealt([3, 1], of=0), Share.dealt([3, 1], of=1)
        (Share(places=(0, 2, 3), size=4), Share(places=(1,), size=4))
        """
        own = rank() if of is None else of
        places = tuple(
            sum(min(count, turn + (other < own)) for other, count in enumerate(counts))
            for turn in range(counts[own])
        )
        return cls(places, sum(counts))

    def first(self, count: int) -> "Share":
        """Return the part of the first data of the whole batch.

        Args:
            count: How many; all where there are fewer.
        """
        return Share(tuple(place for place in self.places if place < count), min(self.size, count))

    def spread(self, rows: Tensor) -> Tensor:
        """Return a tensor for the whole batch that has this part's rows in their places, and zeros elsewhere.

        Args:
            rows: One for each datum of the part.
        """
        whole = rows.new_zeros(self.size, *rows.shape[1:])
        whole[list(self.places)] = rows
        return whole


# How ranks talk -----------------------------------------------------------------------------------------


def _encoded(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode()


def _exchange(payload: bytes) -> list[bytes]:
    """Return the message of every rank; raise what a rank says has failed."""
    device = _device()
    length = torch.tensor([len(payload)], device=device)
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    with _peers():
        dist.all_gather(lengths, length)
    counts = torch.cat(lengths).tolist()
    if not any(counts):
        return [b""] * len(counts)
    padded = torch.zeros(max(counts), dtype=torch.uint8, device=device)
    padded[: len(payload)] = torch.frombuffer(bytearray(payload or b"\0"), dtype=torch.uint8)[: len(payload)]
    parts = [torch.empty_like(padded) for _ in counts]
    with _peers():
        dist.all_gather(parts, padded)
    found = [bytes(part[:count].tolist()) for part, count in zip(parts, counts, strict=True)]
    for number, message in enumerate(found):
        if message and (error := json.loads(message).get("error")) is not None:
            raise RankError(f"rank {number}: {error}")
    return found


def _device() -> torch.device:
    """Return where the group takes what is on no accelerator."""
    if "gloo" in str(dist.get_backend()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def _peers() -> Iterator[None]:
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
            flat = flat.to(_device()) if flat.is_cpu else flat
            yield (flat.to(torch.uint8) if dtype == torch.bool else flat), pieces
            start = stop


def _unpack(flat: Tensor, pieces: Sequence[Tensor]) -> None:
    for piece, values in zip(pieces, flat.split([piece.numel() for piece in pieces]), strict=True):
        piece.copy_(values.view(piece.shape))
