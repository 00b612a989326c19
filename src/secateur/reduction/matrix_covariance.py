"""The covariance of one weight matrix whose entries are jointly Gaussian, whatever its structure.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: weights (n, m), groups as integer labels (n, m). Everything is float64: small eigenvalues of a
        curvature compete with the prior, and the evidence takes their logarithms.
Out:    entries that are out are pinned at zero. S is the covariance of those that are in, the inverse of
        their block of the precision.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._linear_algebra import cholesky, log_determinant
from secateur.reduction.groups import joint_group_delta_f
from secateur.shapes import Bool, Float, Int

__all__ = ["DenseCovariance", "MatrixCovariance", "equal_groups"]

CHUNK_ENTRIES = 1 << 22
"""Entries of the covariances that are held at one time, 32 MiB."""


class MatrixCovariance(ABC):
    """The covariance S of the entries of a matrix that are in.

    Attributes:
        present: Where entries are in, shape (n, m).
    """

    present: Bool[Tensor, "n m"]

    @abstractmethod
    def variance(self) -> Float[Tensor, "n m"]:
        """Return the diagonal of S, 0 where an entry is out."""

    @abstractmethod
    def solve(self, matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Return S times the matrix, read as one vector; 0 where an entry is out.

        Args:
            matrix: One value per entry; those that are out are not read.
        """

    @abstractmethod
    def log_determinant(self) -> Float[Tensor, ""]:
        """Return ln|S^-1|, the log determinant of the precision of what is in."""

    @abstractmethod
    def deviation(self, noise: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Turn standard normal noise into a draw from N(0, S), 0 where an entry is out.

        Args:
            noise: Independent standard normal numbers.
        """

    @abstractmethod
    def within(self, index: Int[Tensor, "g s"]) -> Float[Tensor, "g s s"]:
        """Return the covariance within groups of entries.

        Args:
            index: Entries of each group, numbered row by row; all of them in.
        """

    def group_delta_f(
        self,
        mean: Float[Tensor, "n m"],
        labels: Int[Tensor, "n m"],
        num_groups: int,
        *,
        prior_precision: Float[Tensor, "n m"],
    ) -> Float[Tensor, " num_groups"]:
        """Return the joint log evidence of removing each group of entries.

        Args:
            mean: Posterior means.
            labels: Group of each entry, from 0; negative for none.
            num_groups: How many groups there are.
            prior_precision: Inverse prior variances.

        Returns:
            Nats; nan for a group without an entry that is in.
        """
        found = torch.full((num_groups,), math.nan, dtype=torch.float64, device=mean.device)
        means, priors = mean.reshape(-1), prior_precision.reshape(-1)
        for groups, index in equal_groups(labels, self.present, num_groups):
            step = max(1, CHUNK_ENTRIES // index.shape[1] ** 2)
            for ids, entries in zip(groups.split(step), index.split(step), strict=True):
                found[ids] = joint_group_delta_f(
                    means[entries], self.within(entries), prior_precision=priors[entries]
                )
        return found


class DenseCovariance(MatrixCovariance):
    """The covariance of entries with a full precision: the oracle, and the exact answer for small matrices.

    Args:
        present: Where entries are in.
        precision: Precision of the k entries that are in, row by row, shape (k, k).

    Raises:
        InvalidArgumentError: If the precision is not positive definite.
    """

    def __init__(self, present: Bool[Tensor, "n m"], precision: Float[Tensor, "k k"]) -> None:
        self.present = present
        self._index = present.reshape(-1).nonzero().squeeze(-1)
        self._factor = cholesky("precision", precision)
        self._covariance = torch.cholesky_inverse(self._factor)
        self._place = torch.full((present.numel(),), -1, device=present.device)
        self._place[self._index] = torch.arange(len(self._index), device=present.device)

    def variance(self) -> Float[Tensor, "n m"]:
        """Return the diagonal of S, 0 where an entry is out."""
        return self._spread(self._covariance.diagonal())

    def solve(self, matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Return S times the matrix, read as one vector.

        Args:
            matrix: One value per entry.
        """
        vector = matrix.reshape(-1)[self._index].unsqueeze(-1)
        return self._spread(torch.cholesky_solve(vector, self._factor).squeeze(-1))

    def log_determinant(self) -> Float[Tensor, ""]:
        """Return ln|S^-1|."""
        return log_determinant(self._factor)

    def deviation(self, noise: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Turn standard normal noise into a draw from N(0, S).

        Args:
            noise: Independent standard normal numbers.
        """
        vector = noise.reshape(-1)[self._index].unsqueeze(-1)
        return self._spread(torch.linalg.solve_triangular(self._factor.mT, vector, upper=True).squeeze(-1))

    def within(self, index: Int[Tensor, "g s"]) -> Float[Tensor, "g s s"]:
        """Return the covariance within groups of entries.

        Args:
            index: Entries of each group, numbered row by row.
        """
        place = self._place[index]
        return self._covariance[place.unsqueeze(-1), place.unsqueeze(-2)]

    def _spread(self, vector: Tensor) -> Tensor:
        """Values of the entries that are in as a matrix, 0 elsewhere."""
        matrix = torch.zeros(self.present.numel(), dtype=torch.float64, device=self.present.device)
        matrix[self._index] = vector
        return matrix.reshape(self.present.shape)


def equal_groups(
    labels: Int[Tensor, "n m"], present: Bool[Tensor, "n m"], num_groups: int
) -> Iterator[tuple[Int[Tensor, " g"], Int[Tensor, "g s"]]]:
    """Yield the groups of equal size together: their numbers and their entries that are in.

    Args:
        labels: Group of each entry, from 0; negative for none.
        present: Where entries are in.
        num_groups: How many groups there are.

    Yields:
        Numbers of groups with the same number s >= 1 of entries, and the entries, numbered row by row.

    Raises:
        InvalidArgumentError: If a label is not below the number of groups.
    """
    flat = labels.reshape(-1)
    index = (present.reshape(-1) & (flat >= 0)).nonzero().squeeze(-1)
    own = flat[index]
    if own.numel() and int(own.max()) >= num_groups:
        raise InvalidArgumentError(f"labels must be below {num_groups}, got {int(own.max())}")
    index = index[own.argsort(stable=True)]
    sizes = torch.bincount(own, minlength=num_groups)
    starts = sizes.cumsum(0) - sizes
    for size in sizes.unique().tolist():
        if size:
            groups = (sizes == size).nonzero().squeeze(-1)
            within = torch.arange(size, device=index.device)
            yield groups, index[starts[groups].unsqueeze(-1) + within]
