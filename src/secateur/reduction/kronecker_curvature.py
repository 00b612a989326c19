"""The covariance of a weight matrix whose data curvature is a Kronecker product, under one prior precision.

Shapes: weights (n, m), row curvature G (n, n), column curvature A (m, m), both positive semi-definite.
Theory: precision P = G ⊗ A + π I of the rows laid end to end. With G = U g U^T and A = V a V^T it is diagonal
        in U ⊗ V, with eigenvalues g_i a_j + π; the prior needs no approximation.

    S_(ij),(ij)   = Σ_ab U_ia² V_jb² / (g_a a_b + π)                         two small products
    S_(ij),(i'j') = Σ_b q_ii'b V_jb V_j'b,     q_ii'b = Σ_a U_ia U_i'a / (g_a a_b + π)

Rows in a group together are independent along the columns of V, so their joint evidence is a sum over b of
small problems: q_..b is their covariance there. Where whole rows and columns are out, what is left of P is a
Kronecker product again. Single entries that are out break the product; see `secateur.reduction.masked_solve`.
"""

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._validation import require
from secateur.reduction.groups import joint_group_delta_f
from secateur.reduction.kronecker_basis import eigenbasis
from secateur.reduction.matrix_covariance import CHUNK_ENTRIES, MatrixCovariance, equal_groups
from secateur.shapes import Bool, Float, Int

__all__ = [
    "KroneckerCovariance",
    "curvature_product",
    "curvature_root",
    "whole_rows_and_columns",
]


class KroneckerCovariance(MatrixCovariance):
    """The covariance (G ⊗ A + π I)^-1 over whole rows and columns.

    Args:
        row_curvature: G.
        column_curvature: A.
        prior: π; positive.
        rows: Which rows are in.
        columns: Which columns are in.

    Raises:
        InvalidArgumentError: If a curvature is not positive semi-definite, but for rounding.
    """

    def __init__(
        self,
        row_curvature: Float[Tensor, "n n"],
        column_curvature: Float[Tensor, "m m"],
        prior: float,
        *,
        rows: Bool[Tensor, " n"],
        columns: Bool[Tensor, " m"],
    ) -> None:
        self.present = rows.unsqueeze(-1) & columns
        row_values, self._row_basis = _basis("row_curvature", row_curvature, rows)
        column_values, self._column_basis = _basis("column_curvature", column_curvature, columns)
        self._prior = prior
        self._inverse = 1 / (row_values.unsqueeze(-1) * column_values + prior)

    def mirrored(self) -> "KroneckerCovariance":
        """Return the covariance of the transposed matrix."""
        mirror = object.__new__(KroneckerCovariance)
        mirror.present = self.present.mT
        mirror._row_basis, mirror._column_basis = self._column_basis, self._row_basis
        mirror._inverse, mirror._prior = self._inverse.mT, self._prior
        return mirror

    def variance(self) -> Float[Tensor, "n m"]:
        """Return the diagonal of S, 0 where an entry is out."""
        return self._row_basis.square() @ self._inverse @ self._column_basis.square().mT

    def solve(self, matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Return S times the matrix, read as one vector.

        Args:
            matrix: One value per entry.
        """
        inner = self._row_basis.mT @ matrix @ self._column_basis
        return self._row_basis @ (inner * self._inverse) @ self._column_basis.mT

    def log_determinant(self) -> Float[Tensor, ""]:
        """Return ln|S^-1|."""
        return -self._inverse.log().sum()

    def deviation(self, noise: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Turn standard normal noise into a draw from N(0, S).

        Args:
            noise: Independent standard normal numbers.
        """
        num_rows, num_columns = self._inverse.shape
        inner = noise[:num_rows, :num_columns] * self._inverse.sqrt()
        return self._row_basis @ inner @ self._column_basis.mT

    def within(self, index: Int[Tensor, "g s"]) -> Float[Tensor, "g s s"]:
        """Return the covariance within groups of entries.

        Args:
            index: Entries of each group, numbered row by row.
        """
        num_columns = self.present.shape[1]
        row, column = index // num_columns, index % num_columns
        if bool((row == row[:, :1]).all()):
            return self._within_rows(row[:, 0], column)
        if bool((column == column[:, :1]).all()):
            return self.mirrored()._within_rows(column[:, 0], row)
        return torch.stack([self._within_one(*pair) for pair in zip(row, column, strict=True)])

    def _within_rows(self, row: Tensor, column: Tensor) -> Tensor:
        """Covariances of groups that lie in one row each."""
        spread = self._row_basis.square() @ self._inverse
        size = column.shape[1] * self._column_basis.shape[1]
        parts = []
        for rows, columns in _chunks(CHUNK_ENTRIES // max(1, size), row, column):
            basis = self._column_basis[columns]
            parts.append((basis * spread[rows].unsqueeze(-2)) @ basis.mT)
        return torch.cat(parts)

    def _within_one(self, row: Tensor, column: Tensor) -> Tensor:
        """Covariance of one group in several rows and columns."""
        rows, place = row.unique(return_inverse=True)
        coupling = self._coupling(rows.unsqueeze(0))[0]
        basis = self._column_basis[column]
        parts = []
        for some, own in _chunks(CHUNK_ENTRIES // basis.numel(), place, basis):
            pairs = coupling[some.unsqueeze(-1), place.unsqueeze(0)]
            parts.append(torch.einsum("wvb,wb,vb->wv", pairs, own, basis))
        return torch.cat(parts)

    def _coupling(self, rows: Tensor) -> Tensor:
        """Return q of groups of rows, shape (g, s, s, b)."""
        basis = self._row_basis[rows]
        return (basis.unsqueeze(-2) * basis.unsqueeze(-3)) @ self._inverse

    def group_delta_f(
        self,
        mean: Float[Tensor, "n m"],
        labels: Int[Tensor, "n m"],
        num_groups: int,
        *,
        prior_precision: Float[Tensor, "n m"],
    ) -> Float[Tensor, " num_groups"]:
        """Return the joint log evidence of removing each group of entries.

        Groups of whole rows, or of whole columns, are cheap at any size.

        Args:
            mean: Posterior means.
            labels: Group of each entry, from 0; negative for none.
            num_groups: How many groups there are.
            prior_precision: Inverse prior variances; π wherever an entry is in.

        Returns:
            Nats; nan for a group without an entry that is in.

        Raises:
            InvalidArgumentError: If a group in several rows and columns is too large for a dense covariance.
        """
        by_row = self._whole_rows(labels)
        if by_row is not None:
            return self._rows_delta_f(mean, by_row, num_groups)
        mirror = self.mirrored()
        by_column = mirror._whole_rows(labels.mT)
        if by_column is not None:
            return mirror._rows_delta_f(mean.mT, by_column, num_groups)
        sizes = torch.bincount(labels[self.present & (labels >= 0)], minlength=1)
        if int(sizes.max()) ** 2 > CHUNK_ENTRIES:
            raise InvalidArgumentError(
                f"groups must be of whole rows, of whole columns, or of at most {int(CHUNK_ENTRIES**0.5)} "
                f"entries, got one of {int(sizes.max())}"
            )
        return super().group_delta_f(mean, labels, num_groups, prior_precision=prior_precision)

    def _whole_rows(self, labels: Tensor) -> Tensor | None:
        """The group of each row, where every row is in one group as a whole."""
        largest = torch.where(self.present, labels, -1).amax(-1) if labels.shape[1] else labels.new_zeros(0)
        whole = (
            (labels == largest.unsqueeze(-1)) | ~self.present | ((labels < 0) & (largest < 0).unsqueeze(-1))
        )
        return largest if bool(whole.all()) else None

    def _rows_delta_f(self, mean: Tensor, labels: Tensor, num_groups: int) -> Tensor:
        found = torch.full((num_groups,), torch.nan, dtype=torch.float64, device=mean.device)
        rotated = torch.where(self.present, mean, 0.0) @ self._column_basis
        here = self.present.any(-1)
        for groups, index in equal_groups(labels.unsqueeze(-1), here.unsqueeze(-1), num_groups):
            size = index.shape[1] ** 2 * max(self._inverse.shape)
            for ids, rows in _chunks(CHUNK_ENTRIES // max(1, size), groups, index):
                covariance = self._coupling(rows).movedim(-1, 1)
                found[ids] = joint_group_delta_f(
                    rotated[rows].mT, covariance, prior_precision=self._prior
                ).sum(-1)
        return found


def curvature_product(
    row_curvature: Float[Tensor, "n n"],
    column_curvature: Float[Tensor, "m m"],
    prior: float,
    matrix: Float[Tensor, "n m"],
) -> Float[Tensor, "n m"]:
    """Return (G ⊗ A + π I) times a matrix, read as one vector.

    Args:
        row_curvature: G.
        column_curvature: A.
        prior: π.
        matrix: One value per entry.
    """
    return row_curvature @ matrix @ column_curvature + prior * matrix


def curvature_root(curvature: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return R with R R^T the curvature.

    Args:
        curvature: Positive semi-definite.
    """
    values, basis = eigenbasis("curvature", curvature)
    return basis * values.clamp(min=0.0).sqrt()


def whole_rows_and_columns(present: Bool[Tensor, "n m"]) -> tuple[Tensor, Tensor] | None:
    """Return which rows and which columns are in, if that is all there is to say; else None.

    Args:
        present: Where entries are in.
    """
    rows, columns = present.any(-1), present.any(-2)
    return (rows, columns) if bool((present == rows.unsqueeze(-1) & columns).all()) else None


def _basis(name: str, curvature: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the kept block and its eigenvectors, with zeros in the rows that are out.

    Raises:
        InvalidArgumentError: If an eigenvalue is negative, beyond what rounding makes of a zero.
    """
    index = kept.nonzero().squeeze(-1)
    block = curvature[index.unsqueeze(-1), index]
    basis = torch.zeros(len(curvature), len(index), dtype=curvature.dtype, device=curvature.device)
    if not len(index):
        return curvature.new_zeros(0), basis
    values, basis[index] = eigenbasis(name, block)
    rounding = torch.finfo(torch.float32).eps * len(index) * values.abs().amax()  # sums come in float32
    require(name, values, values >= -rounding, "positive semi-definite")
    return values.clamp(min=0.0), basis


def _chunks(step: int, *tensors: Tensor) -> zip:
    """Parts of tensors along their first axis."""
    return zip(*(each.split(max(1, step)) for each in tensors), strict=True)
