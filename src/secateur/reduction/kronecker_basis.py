"""The eigenbasis in which the reduced precision of a matrix-normal posterior is diagonal.

Shapes: row factors (*b, n, n), column factors (*b, m, m), with the letters of `matrix_normal`.

For P' = A ⊗ B + D ⊗ I let A = L L^T and take the eigenbases L^-1 D L^-T = U d U^T, B = V β V^T, W = L^-T U.
Then W^T A W = I, W^T D W = d, and P'^-1 = (W ⊗ V) (I ⊗ β + d ⊗ I)^-1 (W ⊗ V)^T. Where D is a multiple of the
identity, A = U α U^T alone gives W = U α^-1/2 and d = D / α.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError, NotNestedError
from secateur.reduction._linear_algebra import cholesky
from secateur.reduction._validation import require
from secateur.shapes import Float

__all__ = ["DiagonalisedPrecision", "diagonalise", "eigenbasis"]


@dataclass(frozen=True)
class DiagonalisedPrecision:
    """A reduced matrix-normal posterior: covariance (W ⊗ V) (I ⊗ β + d ⊗ I)^-1 (W ⊗ V)^T.

    Attributes:
        row_basis: W, shape (*b, n, n). Rows that are pinned are zero, and as many last columns.
        column_basis: V; orthogonal, shape (*b, m, m).
        row_values: d, shape (*b, n).
        column_values: β; positive, shape (*b, m).
    """

    row_basis: Float[Tensor, "*b n n"]
    column_basis: Float[Tensor, "*b m m"]
    row_values: Float[Tensor, "*b n"]
    column_values: Float[Tensor, "*b m"]

    @property
    def values(self) -> Float[Tensor, "*b n m"]:
        """Eigenvalues β_j + d_i."""
        return self.column_values.unsqueeze(-2) + self.row_values.unsqueeze(-1)

    def solve(self, matrix: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b n m"]:
        """Return covariance times the matrix, read as one vector; zero in pinned rows.

        Args:
            matrix: One weight matrix per batch entry.

        Returns:
            The same shape.
        """
        inner = self.row_basis.mT @ matrix @ self.column_basis
        return self.row_basis @ (inner / self.values) @ self.column_basis.mT

    def variance(self) -> Float[Tensor, "*b n m"]:
        """Return the marginal variance of every weight; zero in pinned rows."""
        return self.row_basis.square() @ (1 / self.values) @ self.column_basis.mT.square()


def diagonalise(a: Tensor, b: Tensor, change: Tensor, free: Tensor) -> DiagonalisedPrecision:
    """Return the eigenbasis of A ⊗ B + D ⊗ I over the rows that are free.

    Args:
        a: A, shape (*b, n, n).
        b: B, shape (*b, m, m).
        change: The diagonal of D, shape (*b, n).
        free: False for rows that are pinned, shape (*b, n).

    Returns:
        The precision in its eigenbasis.

    Raises:
        InvalidArgumentError: If A or B is not positive definite.
        NotNestedError: If an eigenvalue is not positive.
    """
    beta, column_basis = eigenbasis("column_precision", b)
    require("column_precision", beta, beta > 0, "positive definite")
    patterns = free.reshape(-1, free.shape[-1])
    if bool((patterns == patterns[0]).all()):
        d, row_basis = _row_basis(a, change, patterns[0].nonzero().squeeze(-1))
    else:  # each batch entry has rows of its own
        flat = zip(a.flatten(0, -3), change.flatten(0, -2), patterns, strict=True)
        pairs = [_row_basis(one, step, kept.nonzero().squeeze(-1)) for one, step, kept in flat]
        d = torch.stack([pair[0] for pair in pairs]).reshape(change.shape)
        row_basis = torch.stack([pair[1] for pair in pairs]).reshape(a.shape)
    smallest = beta.amin(-1) + d.amin(-1)
    require(
        "reduced_precision",
        smallest,
        smallest > 0,
        "large enough for the reduced posterior to exist (smallest eigenvalue of its precision > 0)",
        NotNestedError,
    )
    return DiagonalisedPrecision(row_basis, column_basis, d, beta)


def _row_basis(a: Tensor, change: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues d and basis W of the kept rows, with zeros for the others."""
    block, step = a[..., kept.unsqueeze(-1), kept], change[..., kept]
    if bool((step == step[..., :1]).all()):
        alpha, rotation = eigenbasis("row_precision", block)
        require("row_precision", alpha, alpha > 0, "positive definite")
        values, basis = step / alpha, rotation * alpha.rsqrt().unsqueeze(-2)
    else:
        factor = cholesky("row_precision", block)
        identity = torch.eye(len(kept), dtype=a.dtype, device=a.device).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        whitened = (inverse * step.unsqueeze(-2)) @ inverse.mT
        values, rotation = eigenbasis("row_precision", whitened)
        basis = inverse.mT @ rotation
    if len(kept) == a.shape[-1]:
        return values, basis
    d, padded = torch.zeros_like(change), torch.zeros_like(a)
    d[..., : len(kept)] = values
    padded[..., kept, : len(kept)] = basis
    return d, padded


def eigenbasis(name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of symmetric matrices.

    In float64 where float32 fails, as it can if many eigenvalues are equal.

    Args:
        name: The argument's name.
        matrix: Shape (*b, n, n).

    Returns:
        Values (*b, n) in ascending order, and vectors (*b, n, n) as columns.

    Raises:
        InvalidArgumentError: If float64 fails too.
    """
    try:
        return torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:
        try:
            values, vectors = torch.linalg.eigh(matrix.double())
        except torch.linalg.LinAlgError as failure:
            raise InvalidArgumentError(f"{name} must have an eigendecomposition: {failure}") from None
        return values.to(matrix.dtype), vectors.to(matrix.dtype)
