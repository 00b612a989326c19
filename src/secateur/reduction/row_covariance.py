"""The covariance of a weight matrix with independent rows, each with a full covariance over its columns.

Shapes: weights (n, m), the precision of a row (m, m). Rows are worked on a few at a time, so that n m x m
        matrices are never held together.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.reduction._linear_algebra import cholesky, identity_outside, log_determinant, solve
from secateur.reduction.groups import joint_group_delta_f
from secateur.reduction.matrix_covariance import CHUNK_ENTRIES, MatrixCovariance, equal_groups
from secateur.shapes import Bool, Float, Int

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

    def _blocks(self) -> Iterator["_Rows"]:
        """Factors of the rows' precisions, a few rows at a time."""
        num_rows, num_columns = self.present.shape
        step = max(1, CHUNK_ENTRIES // max(1, num_columns**2))
        for start in range(0, num_rows, step):
            rows = slice(start, min(start + step, num_rows))
            yield _Rows.of(rows, self._precision(rows), self.present[rows])

    def variance(self) -> Float[Tensor, "n m"]:
        """Return the diagonal of S, 0 where an entry is out."""
        return torch.cat([
            block.spread(block.covariance().diagonal(dim1=-2, dim2=-1)) for block in self._blocks()
        ])

    def solve(self, matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Return S times the matrix, row by row.

        Args:
            matrix: One value per entry.
        """
        return torch.cat([
            block.spread(solve(block.factor, block.gathered(matrix[block.rows]))) for block in self._blocks()
        ])

    def log_determinant(self) -> Float[Tensor, ""]:
        """Return ln|S^-1|."""
        return torch.stack([log_determinant(block.factor).sum() for block in self._blocks()]).sum()

    def deviation(self, noise: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Turn standard normal noise into a draw from N(0, S).

        Args:
            noise: Independent standard normal numbers.
        """
        parts = []
        for block in self._blocks():
            vector = block.gathered(noise[block.rows]).unsqueeze(-1)
            drawn = torch.linalg.solve_triangular(block.factor.mT, vector, upper=True)
            parts.append(block.spread(drawn.squeeze(-1)))
        return torch.cat(parts)

    def within(self, index: Int[Tensor, "g s"]) -> Float[Tensor, "g s s"]:
        """Return the covariance within groups of entries; 0 between rows.

        Args:
            index: Entries of each group, numbered row by row.
        """
        row, column = index // self.present.shape[1], index % self.present.shape[1]
        found = torch.zeros(*index.shape, index.shape[1], dtype=torch.float64, device=index.device)
        for block in self._blocks():
            here = (row >= block.rows.start) & (row < block.rows.stop)
            same = (row.unsqueeze(-1) == row.unsqueeze(-2)) & here.unsqueeze(-1)
            group, first, second = same.nonzero(as_tuple=True)
            own = row[group, first] - block.rows.start
            pair = block.place[own, column[group, first]], block.place[own, column[group, second]]
            found[group, first, second] = block.covariance()[own, *pair]
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
        for block in self._blocks():
            rows, covariance = block.rows, block.covariance()
            # A group in several rows is as many independent groups: number them by row and label.
            number = torch.arange(len(covariance), device=labels.device).unsqueeze(-1)
            own = torch.where(labels[rows] >= 0, number * num_groups + labels[rows], -1)
            means, priors = mean[rows].reshape(-1), prior_precision[rows].reshape(-1)
            for groups, index in equal_groups(own, self.present[rows], len(covariance) * num_groups):
                step = max(1, CHUNK_ENTRIES // index.shape[1] ** 2)
                for ids, entries in zip(groups.split(step), index.split(step), strict=True):
                    row = (ids // num_groups).unsqueeze(-1)
                    place = block.place[row, entries % num_columns]
                    spread = covariance[row.unsqueeze(-1), place.unsqueeze(-1), place.unsqueeze(-2)]
                    found = joint_group_delta_f(means[entries], spread, prior_precision=priors[entries])
                    total.index_add_(0, ids % num_groups, found)
                    count.index_add_(0, ids % num_groups, torch.ones_like(found))
        return total.masked_fill_(count == 0, math.nan)


@dataclass(frozen=True)
class _Rows:
    """A few rows, each by the columns that are in: the fewer are in, the smaller the matrices."""

    rows: slice
    columns: Tensor  # (k, w), those that are in first
    inside: Tensor  # (k, w), False for columns that only fill up a row
    place: Tensor  # (k, m), where each column is among `columns`
    factor: Tensor  # (k, w, w), the identity outside

    @classmethod
    def of(cls, rows: slice, precision: Tensor, present: Tensor) -> "_Rows":
        order = present.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
        place = torch.zeros_like(order).scatter_(
            1, order, torch.arange(order.shape[1]).to(order).expand_as(order)
        )
        columns = order[:, : int(present.sum(-1).max())]
        inside = present.gather(1, columns)
        own = torch.arange(len(order), device=order.device)[:, None, None]
        block = precision[own, columns.unsqueeze(-1), columns.unsqueeze(-2)]
        return cls(rows, columns, inside, place, cholesky("precision", identity_outside(block, inside)))

    def covariance(self) -> Tensor:
        return torch.cholesky_inverse(self.factor)

    def gathered(self, values: Tensor) -> Tensor:
        return torch.where(self.inside, values.gather(1, self.columns), 0.0)

    def spread(self, values: Tensor) -> Tensor:
        """Values of the columns that are in as rows of the whole width, 0 elsewhere."""
        whole = torch.zeros(self.place.shape, dtype=values.dtype, device=values.device)
        return whole.scatter_(1, self.columns, torch.where(self.inside, values, 0.0))
