"""The sums of a curvature pass over the ranks of a process group."""

from dataclasses import asdict

import torch
from torch import Tensor

from secateur.curvature.gather import Gatherer
from secateur.distributed import require_same, sum_in_place

__all__ = ["sum_over_ranks"]


def sum_over_ranks(gatherer: Gatherer, num_seen: int, loss: Tensor | None) -> tuple[int, Tensor | None]:
    """Sum over ranks, in one all-reduce; of A and G only the halves that are filled are sent.

    Args:
        gatherer: The sums of this rank, changed in place to those of all ranks.
        num_seen: Data of this rank.
        loss: Summed loss of this rank; None without targets.

    Returns:
        Data and summed loss of all ranks.

    Raises:
        InvalidArgumentError: If ranks found different uses of the network's parameters.
    """
    sums = gatherer.matrices
    require_same(
        {f"use of {name}": str(asdict(each.layout)) for name, each in sums.items()}
        | {"parameters without a matrix": list(gatherer.diagonal), "presence of targets": loss is not None},
        advice="give all ranks data of one kind",
    )
    device = next(iter([*gatherer.diagonal.values(), *(each.row_sums for each in sums.values())])).device
    counts = [num_seen, 0.0 if loss is None else float(loss), *(each.num_positions for each in sums.values())]
    numbers = torch.tensor(counts, dtype=torch.float64, device=device)
    halves = [each.upper_halves() for each in sums.values()]
    rest = [each for own in sums.values() for each in (own.squares, own.row_sums) if each is not None]
    packed = [half for own in halves for half in own]
    sum_in_place([numbers, *packed, *rest, *gatherer.diagonal.values()])
    seen, total, *positions = numbers.tolist()
    for own, half, count in zip(sums.values(), halves, positions, strict=True):
        own.take_upper_halves(half)
        own.num_positions = int(count)
    return int(seen), None if loss is None else torch.tensor(total, dtype=torch.float64)
