"""Linear systems in the entries of a matrix that are in, when the curvature is a Kronecker product.

Single entries that are out break the product, so that nothing but conjugate gradients is left:

    masked_solve      x_F = [(G ⊗ A + π I)_FF]^-1 b_F
    masked_minimum    x_F minimises tr (x - w)^T G (x - w) A + ε |x - w|^2, zero outside F

The minimum is the mean of what stays when the rest of w goes. It is sought row by row first, each row with
its own step lengths under A alone: such a step costs a third to two thirds of one under both, and
brings as much at first; from there the others go further.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from secateur.reduction.kronecker_curvature import KroneckerCovariance, curvature_product
from secateur.shapes import Bool, Float

__all__ = ["masked_minimum", "masked_solve"]

ROW_STEPS = 20
ROW_TOLERANCE = 1e-2


def masked_solve(
    row_curvature: Float[Tensor, "n n"],
    column_curvature: Float[Tensor, "m m"],
    prior: float,
    matrix: Float[Tensor, "n m"],
    *,
    present: Bool[Tensor, "n m"],
    tolerance: float = 1e-10,
    max_steps: int = 1000,
) -> Float[Tensor, "n m"]:
    """Return the inverse of the block of (G ⊗ A + π I) that is in, times a matrix, by conjugate gradients.

    Preconditioned by the inverse of the whole where most entries are in, and else by the diagonal.

    Args:
        row_curvature: G.
        column_curvature: A.
        prior: π; positive.
        matrix: One value per entry; those that are out are not read.
        present: Where entries are in, any pattern.
        tolerance: Norm of the residual over that of the matrix at which to stop, both as the preconditioner
            measures them.
        max_steps: Steps after which to stop in any case.

    Returns:
        One value per entry, 0 where it is out.
    """
    rows, columns = present.any(-1), present.any(-2)
    if 2 * int(present.sum()) > int(rows.sum()) * int(columns.sum()):
        whole = KroneckerCovariance(row_curvature, column_curvature, prior, rows=rows, columns=columns)
        precondition: Callable[[Tensor], Tensor] = whole.solve
    else:
        precondition = _by_diagonal(row_curvature, column_curvature, prior)
    return _conjugate_gradients(
        lambda step: curvature_product(row_curvature, column_curvature, prior, step),
        precondition,
        torch.zeros_like(matrix),
        matrix,
        present,
        tolerance=tolerance,
        max_steps=max_steps,
    )


def masked_minimum(
    row_curvature: Float[Tensor, "n n"],
    column_curvature: Float[Tensor, "m m"],
    damping: float,
    weights: Float[Tensor, "n m"],
    *,
    present: Bool[Tensor, "n m"],
    tolerance: float = 1e-4,
    max_steps: int = 60,
) -> Float[Tensor, "n m"]:
    """Return the matrix nearest to this one, as the curvature measures it, with zeros where entries are out.

    Args:
        row_curvature: G.
        column_curvature: A.
        damping: ε; positive.
        weights: The matrix.
        present: Where entries stay, any pattern.
        tolerance: Norm of the residual over that of the first at which to stop.
        max_steps: Steps under G and A together after which to stop in any case.
    """
    stays = torch.where(present, weights, 0.0)
    share = damping / row_curvature.diagonal().mean()

    def along_rows(step: Tensor) -> Tensor:
        return step @ column_curvature + share * step

    start = _conjugate_gradients(
        along_rows,
        lambda values: values / (column_curvature.diagonal() + share),
        stays,
        along_rows(weights),
        present,
        by_row=True,
        tolerance=ROW_TOLERANCE,
        max_steps=ROW_STEPS,
    )
    return _conjugate_gradients(
        lambda step: curvature_product(row_curvature, column_curvature, damping, step),
        _by_diagonal(row_curvature, column_curvature, damping),
        start,
        curvature_product(row_curvature, column_curvature, damping, weights),
        present,
        tolerance=tolerance,
        max_steps=max_steps,
    )


def _by_diagonal(row_curvature: Tensor, column_curvature: Tensor, prior: float) -> Callable[[Tensor], Tensor]:
    scale = row_curvature.diagonal().unsqueeze(-1) * column_curvature.diagonal() + prior
    return lambda values: values / scale


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    solution: Tensor,
    wanted: Tensor,
    present: Tensor,
    *,
    by_row: bool = False,
    tolerance: float,
    max_steps: int,
) -> Tensor:
    """Return the solution of product(x) = wanted over the entries that are in, from a first guess.

    Rows that do not depend on each other (`by_row`) have step lengths of their own.
    """

    def inner(left: Tensor, right: Tensor) -> Tensor:
        return (left * right).sum(-1, keepdim=True) if by_row else (left * right).sum()

    residual = torch.where(present, wanted - product(solution), 0.0)
    step = towards = torch.where(present, precondition(residual), 0.0)
    size = first = inner(residual, towards)
    tiny = torch.finfo(size.dtype).tiny  # rows that are done, or hold nothing, stay where they are
    for _ in range(max_steps):
        if not bool((size > tolerance**2 * first).any()):
            break
        applied = torch.where(present, product(step), 0.0)
        length = size / inner(step, applied).clamp_min(tiny)
        solution = solution + length * step
        residual = residual - length * applied
        towards = torch.where(present, precondition(residual), 0.0)
        size, before = inner(residual, towards), size
        step = towards + size / before.clamp_min(tiny) * step
    return solution
