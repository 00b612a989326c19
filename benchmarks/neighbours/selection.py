"""Which entries stay, given a score for each: the whole network, each row, or N of each M inputs.

Masks are True where an entry stays. Of entries with equal scores, the first ones go.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError

__all__ = ["keep_globally", "keep_n_of_m", "keep_per_row", "parse_pattern"]


def keep_globally(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return masks without the lowest scores of all layers together.

    Args:
        scores: Scores by layer.
        count: Entries that go, exactly.
    """
    flat = torch.cat([score.flatten() for score in scores.values()]).cpu()
    kept = ~_lowest(flat, count)
    parts = kept.split([score.numel() for score in scores.values()])
    return {
        name: part.view(score.shape).to(score.device)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def _lowest(flat: Tensor, count: int) -> Tensor:
    """Return where the lowest scores are; by a partition, which takes a fraction of the memory of a sort."""
    if count == 0:
        return torch.zeros(len(flat), dtype=torch.bool)
    threshold = float(np.partition(flat.numpy(), count - 1)[count - 1])
    removed = flat < threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    removed[ties[: count - int(removed.sum())]] = True
    return removed


def keep_per_row(scores: Tensor, counts: Tensor) -> Tensor:
    """Return a mask without the lowest scores of each row.

    Args:
        scores: Scores, shape (rows, columns).
        counts: Entries that go, for each row.
    """
    ranks = torch.arange(scores.shape[1], device=scores.device)
    stays = (ranks >= counts.unsqueeze(1)).expand(scores.shape)
    return torch.zeros_like(stays).scatter(1, scores.argsort(dim=1, stable=True), stays)


def keep_n_of_m(scores: Tensor, pattern: tuple[int, int]) -> Tensor:
    """Return a mask of the N highest scores of each M consecutive columns.

    Args:
        scores: Scores, shape (rows, columns).
        pattern: N and M.

    Raises:
        InvalidArgumentError: If M does not divide the columns.
    """
    kept, group = pattern
    if scores.shape[1] % group:
        raise InvalidArgumentError(
            f"pattern: expected layers whose inputs are a multiple of {group}, got {scores.shape[1]}; "
            "leave the layer out of weights"
        )
    groups = scores.reshape(-1, group)
    counts = torch.full((len(groups),), group - kept, device=scores.device)
    return keep_per_row(groups, counts).reshape(scores.shape)


def parse_pattern(pattern: str) -> tuple[int, int]:
    """Return N and M of a pattern "N:M".

    Args:
        pattern: Entries that stay of each so many consecutive inputs.

    Raises:
        InvalidArgumentError: If it is not of this form with 0 < N < M.
    """
    kept, _, group = pattern.partition(":")
    if not (kept.isdecimal() and group.isdecimal() and 0 < int(kept) < int(group)):
        raise InvalidArgumentError(f'pattern: expected "N:M" with 0 < N < M, as "2:4", got {pattern!r}')
    return int(kept), int(group)
