"""Evidence change for a whole weight matrix under a Kronecker-factored posterior.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: means (*b, n, m); row precision A (*b, n, n), column precision B (*b, m, m). The precision of the
        rows laid end to end is A ⊗ B, so that of a single row i is A_ii B. One result per matrix.
Theory: matrix-normal posteriors and their reduction, Markovic, Friston & Kiebel 2023, arXiv:2309.12095.

Priors are independent, with one precision for the matrix or one per row: P0 = Λ0 ⊗ I, R0 = Λ1 ⊗ I. With
D = Λ1 - Λ0 the reduced posterior has precision P' = A ⊗ B + D ⊗ I, which `kronecker_basis` makes diagonal: an
nm × nm problem in the memory of n × n, m × m and n × m. Rows whose Λ1 is infinite are pinned: they leave A
and D, and what remains is exact. Large log determinants cancel before they are formed:

    ln|A ⊗ B| - ln|P'_FF| = m (ln|A| - ln|A_FF|) + |S| ln|B| - Σ_ij ln(1 + d_i / β_j).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from secateur.reduction._linear_algebra import cholesky, identity_outside, log_determinant, require_symmetric
from secateur.reduction._validation import (
    Values,
    broadcast_shape,
    common_tensors,
    require_finite,
    require_last_axes,
    require_positive,
    require_positive_or_infinite,
)
from secateur.reduction.kronecker_basis import DiagonalisedPrecision, diagonalise
from secateur.shapes import Float

__all__ = ["matrix_normal_delta_f", "matrix_normal_reduced_posterior"]


def matrix_normal_delta_f(
    mean: Float[Tensor, "..."],
    row_precision: Float[Tensor, "..."],
    column_precision: Float[Tensor, "..."],
    *,
    prior_precision: Values,
    reduced_precision: Values = math.inf,
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> Float[Tensor, "..."]:
    """Return the log evidence of the reduced over the full model, per matrix.

    Once differentiable in every argument, also where eigenvalues repeat. Memory O(n² + m² + nm).

    Args:
        mean: Posterior means, shape (*b, n, m).
        row_precision: A, shape (*b, n, n); positive definite.
        column_precision: B, shape (*b, m, m); positive definite.
        prior_precision: Inverse variances of the full prior; positive, a number or per row (*b, n).
        reduced_precision: Inverse variances of the reduced prior, a number or per row (*b, n); `inf` pins a
            row, and by default the whole matrix.
        prior_mean: Means of the full prior, a number or of the shape of `mean`.
        reduced_mean: Means of the reduced prior, a number or of the shape of `mean`.

    Returns:
        Nats, shape (*b).

    Raises:
        InvalidArgumentError: If shapes disagree, a value is not finite, or a precision is not positive
            (definite).
        NotNestedError: If the reduced posterior does not exist.

    References:
        arXiv:2309.12095; arXiv:1805.07092.

    Example:
        >>> import torch
        >>> rows, columns = 2 * torch.eye(2), 4 * torch.eye(3)
        >>> matrix_normal_delta_f(torch.zeros(2, 3), rows, columns, prior_precision=1.0)
        tensor(6.2383)
    """
    m, a, b, p0, r, m0, r0 = _checked(
        mean, row_precision, column_precision, prior_precision, reduced_precision, prior_mean, reduced_mean
    )
    free = r != torch.inf
    own, prior_own = a @ (m - r0) @ b, p0.unsqueeze(-1) * (m0 - r0)
    columns = m.shape[-1]
    volume = columns * (torch.where(free, r, 1.0).log() - p0.log()).sum(-1, dtype=torch.float64)
    if not bool(free.all()):
        factors = (cholesky("row_precision", matrix) for matrix in (a, identity_outside(a, free)))
        with_pinned, without = (log_determinant(factor) for factor in factors)
        volume = volume + columns * (with_pinned - without)
        volume = volume + (~free).sum(-1) * log_determinant(cholesky("column_precision", b))
    moved = torch.zeros_like(own)
    if bool(free.any()):
        change = torch.where(free, torch.where(free, r, 0.0) - p0, 0.0)
        location = torch.where(free.unsqueeze(-1), own - prior_own, 0.0)
        spread, moved = _SpreadAndSolution.apply(a, b, change, location, free)
        volume = volume - spread
    misfit = (own * (m - r0 - moved)).sum((-2, -1)) - (prior_own * (m0 - r0 - moved)).sum((-2, -1))
    return (0.5 * (volume - misfit)).to(m.dtype)


def matrix_normal_reduced_posterior(
    mean: Float[Tensor, "..."],
    row_precision: Float[Tensor, "..."],
    column_precision: Float[Tensor, "..."],
    *,
    prior_precision: Values,
    reduced_precision: Values = math.inf,
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> tuple[Float[Tensor, "..."], DiagonalisedPrecision]:
    """Return mean and precision of the posterior under the reduced prior; not differentiable.

    Args:
        mean: As for `matrix_normal_delta_f`.
        row_precision: As for `matrix_normal_delta_f`.
        column_precision: As for `matrix_normal_delta_f`.
        prior_precision: As for `matrix_normal_delta_f`.
        reduced_precision: As for `matrix_normal_delta_f`.
        prior_mean: As for `matrix_normal_delta_f`.
        reduced_mean: As for `matrix_normal_delta_f`.

    Returns:
        Means (*b, n, m), and the precision in its eigenbasis: it is no longer a Kronecker product.

    Raises:
        InvalidArgumentError: As for `matrix_normal_delta_f`.
        NotNestedError: As for `matrix_normal_delta_f`.
    """
    with torch.no_grad():
        m, a, b, p0, r, m0, r0 = _checked(
            mean,
            row_precision,
            column_precision,
            prior_precision,
            reduced_precision,
            prior_mean,
            reduced_mean,
        )
        free = r != torch.inf
        change = torch.where(free, torch.where(free, r, 0.0) - p0, 0.0)
        location = a @ (m - r0) @ b - p0.unsqueeze(-1) * (m0 - r0)
        precision = diagonalise(a, b, change, free)
        return r0 + precision.solve(location), precision


def _checked(
    mean: Tensor,
    row_precision: Tensor,
    column_precision: Tensor,
    prior: Values,
    reduced: Values,
    prior_mean: Values,
    reduced_mean: Values,
) -> tuple[Tensor, ...]:
    """The arguments as tensors with all batch axes written out, or an error that names one."""
    values = common_tensors(
        mean=mean,
        row_precision=row_precision,
        column_precision=column_precision,
        prior_precision=prior,
        reduced_precision=reduced,
        prior_mean=prior_mean,
        reduced_mean=reduced_mean,
    )
    m, a, b, p0, r, m0, r0 = values.values()
    rows, columns = m.shape[-2:] if m.dim() > 1 else (1, 1)
    require_last_axes("mean", m, rows, columns)
    require_last_axes("row_precision", a, rows, rows)
    require_last_axes("column_precision", b, columns, columns)
    batch = broadcast_shape(
        mean=m.shape[:-2],
        row_precision=a.shape[:-2],
        column_precision=b.shape[:-2],
        prior_precision=p0.shape[:-1],
        reduced_precision=r.shape[:-1],
        prior_mean=m0.shape[:-2],
        reduced_mean=r0.shape[:-2],
    )
    for name in ("prior_precision", "reduced_precision"):
        broadcast_shape(rows=torch.Size([rows]), **{name: values[name].shape[-1:]})
    for name in ("prior_mean", "reduced_mean"):
        broadcast_shape(mean=m.shape[-2:], **{name: values[name].shape[-2:]})
    for name in ("mean", "prior_mean", "reduced_mean"):
        require_finite(name, values[name])
    require_symmetric("row_precision", a.detach())
    require_symmetric("column_precision", b.detach())
    require_positive("prior_precision", p0)
    require_positive_or_infinite("reduced_precision", r)
    return (
        m.expand(*batch, rows, columns),
        a.expand(*batch, rows, rows),
        b.expand(*batch, columns, columns),
        p0.expand(*batch, rows),
        r.expand(*batch, rows),
        m0.expand(*batch, rows, columns),
        r0.expand(*batch, rows, columns),
    )


class _SpreadAndSolution(torch.autograd.Function):
    """ln|P'| - ln|A ⊗ B| and P'^-1 h for P' = A ⊗ B + D ⊗ I.

    Autograd through eigenvectors divides by gaps between eigenvalues, which are zero for pinned rows. The
    gradients of these two results know no gaps; they are written out here. With λ_ij = β_j + d_i,

        dA: -W diag(Σ_j d_i / λ_ij) W^T,    dB: -V diag(Σ_i d_i / (β_j λ_ij)) V^T,
        dD: the diagonal of W diag(Σ_j 1 / λ_ij) W^T,

    and for the solution X with Y = P'^-1 dX:  dA: -Y B X^T,  dB: -Y^T A X,  dD: -Σ_j Y_ij X_ij,  dH: Y.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, change: Tensor, location: Tensor, free: Tensor
    ) -> tuple[Tensor, Tensor]:
        basis = diagonalise(a, b, change, free)
        ratio = basis.row_values.unsqueeze(-1) / basis.column_values.unsqueeze(-2)
        moved = basis.solve(location)
        ctx.basis = basis
        ctx.save_for_backward(a, b, moved)
        return ratio.log1p().sum((-2, -1), dtype=torch.float64), moved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_spread: Tensor, d_moved: Tensor) -> tuple[Tensor | None, ...]:
        a, b, moved = ctx.saved_tensors
        basis: DiagonalisedPrecision = ctx.basis
        weight = d_spread.to(a.dtype)[..., None]
        inverse = 1 / basis.values
        rows, columns = basis.row_values.unsqueeze(-1), basis.column_values.unsqueeze(-2)
        dual = basis.row_basis
        scaled = weight * (rows * inverse).sum(-1)
        d_a = -(dual * scaled.unsqueeze(-2)) @ dual.mT
        scaled = weight * (rows * inverse / columns).sum(-2)
        d_b = -(basis.column_basis * scaled.unsqueeze(-2)) @ basis.column_basis.mT
        d_change = (dual.square() @ (weight * inverse.sum(-1)).unsqueeze(-1)).squeeze(-1)
        d_location = basis.solve(d_moved)
        d_a = d_a - _symmetrised(d_location @ b @ moved.mT)
        d_b = d_b - _symmetrised(d_location.mT @ a @ moved)
        return d_a, d_b, d_change - (d_location * moved).sum(-1), d_location, None


def _symmetrised(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)
