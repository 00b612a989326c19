"""SparseGPT: column by column, the error of what goes is taken over by the columns to the right.

With H the second moment of the inputs plus damping and U the upper Cholesky factor of H^-1, removing w_ij
costs w_ij^2 / U_jj^2, and the best change of the columns to the right is -(w_ij / U_jj) U_j,j: . Masks are
chosen for 128 columns at a time. Layers are pruned in the order of execution, each under the inputs that the
pruned layers before it give. Frantar & Alistarh 2023, arXiv:2301.00774.
"""

import torch
from torch import Tensor

from .blocks import visit_in_order
from .layers import Layer
from .moments import damped
from .selection import keep_globally, keep_n_of_m
from .task import Task

__all__ = ["sparsegpt", "sparsegpt_matrix"]


def sparsegpt(task: Task, *, block: int = 128, damping: float = 0.01) -> dict[str, Tensor]:
    """Prune layer after layer to the same share or pattern, with compensation within each row.

    Args:
        task: The network, the data, and how much shall go.
        block: Columns whose mask is chosen at once.
        damping: Share of the mean diagonal that is added to the diagonal of H.
    """
    masks = {}

    def visit(layer: Layer, moments: Tensor) -> None:
        matrix, kept = sparsegpt_matrix(
            layer.matrix(),
            moments,
            sparsity=task.sparsity,
            pattern=task.pattern,
            block=block,
            damping=damping,
        )
        layer.write(matrix)
        masks[layer.name] = kept

    visit_in_order(task, visit)
    return masks


def sparsegpt_matrix(
    matrix: Tensor,
    moments: Tensor,
    *,
    sparsity: float | None = None,
    pattern: tuple[int, int] | None = None,
    block: int = 128,
    damping: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Return a pruned and compensated matrix, and the mask of what stays.

    Args:
        matrix: Weights, shape (rows, columns).
        moments: Sum of a a^T of the inputs, up to a factor.
        sparsity: Share of entries that go.
        pattern: N and M instead.
        block: Columns whose mask is chosen at once.
        damping: Share of the mean diagonal that is added to the diagonal.
    """
    weights = matrix.clone()
    rows, columns = weights.shape
    dead = moments.diagonal() == 0
    weights[:, dead] = 0  # inputs that are always zero: their weights are free to go
    factor = torch.linalg.cholesky(damped(moments, damping))
    root = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True).to(weights.dtype)
    kept = torch.ones_like(weights, dtype=torch.bool)
    if pattern is not None:
        keep_n_of_m(weights, pattern)  # refuses a width that M does not divide
        block = max(block // pattern[1], 1) * pattern[1]
    removed = 0
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        diagonal = root.diagonal()[start:stop]
        part = weights[:, start:stop].clone()
        errors = torch.zeros_like(part)
        if sparsity is not None:
            count = round(sparsity * rows * stop) - removed  # so that the whole layer's count is exact
            removed += count
            kept[:, start:stop] = keep_globally({"": (part / diagonal).square()}, count)[""]
        for offset in range(stop - start):
            column = start + offset
            if pattern is not None and offset % pattern[1] == 0:
                ahead = slice(offset, offset + pattern[1])
                score = (part[:, ahead] / diagonal[ahead]).square()
                kept[:, column : column + pattern[1]] = keep_n_of_m(score, pattern)
            value = part[:, offset].masked_fill(kept[:, column], 0)
            errors[:, offset] = value / root[column, column]
            part[:, offset] -= value
            part[:, offset + 1 :] -= torch.outer(errors[:, offset], root[column, column + 1 : stop])
        weights[:, start:stop] = part
        weights[:, stop:] -= errors @ root[start:stop, stop:]
    return weights * kept, kept
