"""Optimal brain compression: exact optimal brain surgeon of the output error of each row of a layer.

For each row, entries go one at a time: the one with the smallest w_q^2 / [H^-1]_qq, which is the increment of
the squared error of the outputs over the data when all others adapt. Then H^-1 loses the entry by a rank-one
downdate. Rows of all layers compete: the row whose next increment is the smallest loses its next entry. Last,
each row is refitted to what the dense row gives, which is the sum of the single updates.

Inputs are those of the dense network, from one forward pass. The work is some rows * columns^3 / 2
multiplications, vectorised over rows. Frantar & Alistarh 2022, arXiv:2208.11580.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .moments import damped, input_moments
from .selection import keep_globally, keep_n_of_m
from .task import Task

__all__ = ["optimal_brain_compression", "refit_rows", "removal_traces"]

NUMBERS_AT_ONCE = 1 << 26  # of the inverses of several rows


def optimal_brain_compression(task: Task, *, damping: float = 0.01) -> dict[str, Tensor]:
    """Prune the rows of all layers in competition, or each row to a pattern, with compensation.

    Args:
        task: The network, the data, and how much shall go.
        damping: Share of the mean diagonal that is added to the diagonal of H.
    """
    moments = input_moments(task)
    orders: dict[str, Tensor] = {}
    costs: dict[str, Tensor] = {}
    for layer in task.layers:
        matrix = _without_dead(layer.matrix(), moments[layer.name])
        orders[layer.name], increments = removal_traces(
            matrix, damped(moments[layer.name], damping), pattern=task.pattern
        )
        # A cheap entry behind a dear one of its row can only go after it.
        costs[layer.name] = increments.cummax(1).values
    if task.pattern is None:
        in_order = keep_globally(costs, task.share(sum(cost.numel() for cost in costs.values())))
    else:
        in_order = {name: torch.zeros_like(cost, dtype=torch.bool) for name, cost in costs.items()}
    masks = {}
    for layer in task.layers:
        matrix = _without_dead(layer.matrix(), moments[layer.name])
        kept = torch.ones_like(matrix, dtype=torch.bool)
        masks[layer.name] = kept.scatter_(1, orders[layer.name], in_order[layer.name])
        layer.write(refit_rows(matrix, damped(moments[layer.name], damping), kept))
    return masks


def removal_traces(
    matrix: Tensor, moments: Tensor, *, pattern: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the columns that each row loses, in order, and the increment of its error at each.

    Args:
        matrix: Weights, shape (rows, columns).
        moments: Positive definite second moment H of the inputs.
        pattern: Only entries that a group of M can lose while N stay; each row loses as many as it can.
    """
    if pattern is not None:
        keep_n_of_m(matrix, pattern)  # refuses a width that M does not divide
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments)).to(matrix.dtype)
    traces = [_trace(matrix[part], inverse, pattern) for part in _parts(matrix)]
    return torch.cat([order for order, _ in traces]), torch.cat([cost for _, cost in traces])


def _parts(matrix: Tensor) -> Iterator[slice]:
    """Yield slices of rows, of which a square matrix each fits in memory."""
    rows, columns = matrix.shape
    step = max(NUMBERS_AT_ONCE // columns**2, 1)
    yield from (slice(start, start + step) for start in range(0, rows, step))


def _trace(matrix: Tensor, inverse: Tensor, pattern: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    rows, columns = matrix.shape
    weights, inverses = matrix.clone(), inverse.expand(rows, -1, -1).clone()
    names = torch.arange(columns, device=matrix.device).repeat(rows, 1)  # column that each place stands for
    stays = torch.ones_like(weights, dtype=torch.bool)
    kept, group = pattern or (0, columns)
    room = torch.full((rows, columns // group), group - kept, device=matrix.device)
    each = torch.arange(rows, device=matrix.device)
    order, costs = [], []
    for left in range(columns, columns // group * kept, -1):
        if 2 * left <= names.shape[1]:  # half of the places are empty: drop them
            places = stays.nonzero()[:, 1].view(rows, left)
            weights, names = weights.gather(1, places), names.gather(1, places)
            inverses = inverses[each[:, None, None], places[:, :, None], places[:, None, :]]
            stays = torch.ones_like(weights, dtype=torch.bool)
        diagonal = inverses.diagonal(dim1=1, dim2=2)
        candidates = stays & (room.gather(1, names // group) > 0)
        scores = torch.where(candidates, weights.square() / diagonal, torch.inf)
        cost, place = scores.min(1)
        line, pivot = inverses[each, place].clone(), diagonal[each, place].clone()
        weights -= (weights[each, place] / pivot)[:, None] * line
        inverses.baddbmm_(line[:, :, None], (line / pivot[:, None])[:, None, :], alpha=-1)
        stays[each, place] = False
        gone = names[each, place]
        room[each, gone // group] -= 1
        order.append(gone)
        costs.append(cost)
    return torch.stack(order, 1), torch.stack(costs, 1)


def refit_rows(matrix: Tensor, moments: Tensor, kept: Tensor) -> Tensor:
    """Return the rows that give the outputs nearest to the dense ones with the kept entries alone.

    Args:
        matrix: Dense weights, shape (rows, columns).
        moments: Positive definite second moment H of the inputs.
        kept: Mask of the same shape as the matrix.
    """
    targets = matrix.to(moments.dtype) @ moments
    result = torch.empty_like(matrix)
    for part in _parts(matrix):
        stays = kept[part].to(moments.dtype)
        # An entry that is out becomes an equation of its own, x = 0.
        systems = moments * stays[:, :, None] * stays[:, None, :] + torch.diag_embed(1 - stays)
        right = (targets[part] * stays).unsqueeze(2)
        result[part] = torch.cholesky_solve(right, torch.linalg.cholesky(systems)).squeeze(2).to(matrix.dtype)
    return result


def _without_dead(matrix: Tensor, moments: Tensor) -> Tensor:
    """Return the matrix with zeros at inputs that are always zero: they go first, at no cost."""
    return matrix * (moments.diagonal() > 0)
