"""The covariance of a weight matrix with independent rows, each with a full covariance over its columns.

Shapes: weights (n, m), the precision of a row (m, m). Rows are worked on a few at a time, so that n m x m
        matrices are never held together.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from secateur.reduction._linear_algebra import cholesky, identity_outside, log_determinant, solve
from secateur.reduction.groups import joint_group_delta_f
from secateur.reduction.matrix_covariance import CHUNK_ENTRIES, MatrixCovariance, equal_groups

__all__ = ["RowCovariance"]


class RowCovariance(MatrixCovariance):
    """The covariance of a matrix with independent rows.

    Args:
        present: Where entries are in.
        precision: Takes a slice of k rows and returns their precisions, shape (k, m, m), float64.
    """

    def __init__(
        self, present: Bool[Tensor, "n m"], precision: Callable[[slice], Float[Tensor, "k m m"]]
    ) -> None:
        self.present = present
        self._precision = precision

    def _factors(self) -> Iterator[tuple[slice, Tensor]]:
        """Cholesky factors of the rows, a few at a time; the identity where entries are out."""
        num_rows, num_columns = self.present.shape
        step = max(1, CHUNK_ENTRIES // max(1, num_columns**2))
        for start in range(0, num_rows, step):
            rows = slice(start, min(start + step, num_rows))
            matrix = identity_outside(self._precision(rows), self.present[rows])
            yield rows, cholesky("precision", matrix)

    def variance(self) -> Float[Tensor, "n m"]:
        """Return the diagonal of S, 0 where an entry is out."""
        parts = [torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1) for _, factor in self._factors()]
        return torch.where(self.present, torch.cat(parts), 0.0)

    def solve(self, matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Return S times the matrix, row by row.

        Args:
            matrix: One value per entry.
        """
        own = torch.where(self.present, matrix, 0.0)
        return torch.cat([solve(factor, own[rows]) for rows, factor in self._factors()])

    def log_determinant(self) -> Float[Tensor, ""]:
        """Return ln|S^-1|."""
        return torch.stack([log_determinant(factor).sum() for _, factor in self._factors()]).sum()

    def deviation(self, noise: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Turn standard normal noise into a draw from N(0, S).

        Args:
            noise: Independent standard normal numbers.
        """
        parts = [
            torch.linalg.solve_triangular(factor.mT, noise[rows].unsqueeze(-1), upper=True).squeeze(-1)
            for rows, factor in self._factors()
        ]
        return torch.where(self.present, torch.cat(parts), 0.0)

    def within(self, index: Int[Tensor, "g s"]) -> Float[Tensor, "g s s"]:
        """Return the covariance within groups of entries; 0 between rows.

        Args:
            index: Entries of each group, numbered row by row.
        """
        row, column = index // self.present.shape[1], index % self.present.shape[1]
        found = torch.zeros(*index.shape, index.shape[1], dtype=torch.float64, device=index.device)
        for rows, factor in self._factors():
            covariance = torch.cholesky_inverse(factor)
            here = (row >= rows.start) & (row < rows.stop)
            same = (row.unsqueeze(-1) == row.unsqueeze(-2)) & here.unsqueeze(-1)
            group, first, second = same.nonzero(as_tuple=True)
            found[group, first, second] = covariance[
                row[group, first] - rows.start, column[group, first], column[group, second]
            ]
        return found

    def group_delta_f(
        self,
        mean: Float[Tensor, "n m"],
        labels: Int[Tensor, "n m"],
        num_groups: int,
        *,
        prior_precision: Float[Tensor, "n m"],
    ) -> Float[Tensor, " num_groups"]:
        """Return the joint log evidence of removing each group: the sum over the rows it has entries in.

        Args:
            mean: Posterior means.
            labels: Group of each entry, from 0; negative for none.
            num_groups: How many groups there are.
            prior_precision: Inverse prior variances.

        Returns:
            Nats; nan for a group without an entry that is in.
        """
        total = torch.zeros(num_groups, dtype=torch.float64, device=mean.device)
        count = torch.zeros_like(total)
        num_columns = self.present.shape[1]
        for rows, factor in self._factors():
            covariance = torch.cholesky_inverse(factor)
            # A group in several rows is as many independent groups: number them by row and label.
            number = torch.arange(len(covariance), device=labels.device).unsqueeze(-1)
            own = torch.where(labels[rows] >= 0, number * num_groups + labels[rows], -1)
            means, priors = mean[rows].reshape(-1), prior_precision[rows].reshape(-1)
            for groups, index in equal_groups(own, self.present[rows], len(covariance) * num_groups):
                step = max(1, CHUNK_ENTRIES // index.shape[1] ** 2)
                for ids, entries in zip(groups.split(step), index.split(step), strict=True):
                    row, column = ids // num_groups, entries % num_columns
                    block = covariance[row[:, None, None], column.unsqueeze(-1), column.unsqueeze(-2)]
                    found = joint_group_delta_f(means[entries], block, prior_precision=priors[entries])
                    total.index_add_(0, ids % num_groups, found)
                    count.index_add_(0, ids % num_groups, torch.ones_like(found))
        return total.masked_fill_(count == 0, math.nan)
