"""A layer's posterior whose data curvature is a Kronecker product, as K-FAC curvature gives it.

    precision of the rows laid end to end:   P = row_curvature ⊗ column_curvature + prior I

The curvatures are sums over the data. The prior is added exactly, in the eigenbasis of the product.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.posterior.joint import Joint
from secateur.posterior.rowwise import Rowwise
from secateur.reduction.kronecker_curvature import (
    KroneckerCovariance,
    curvature_product,
    curvature_root,
    whole_rows_and_columns,
)
from secateur.reduction.masked_solve import masked_solve
from secateur.reduction.matrix_covariance import DenseCovariance, MatrixCovariance

__all__ = ["Kronecker"]

LARGEST_DENSE = 2048
"""Entries in up to which a layer with a scattered removal gets a dense covariance."""


@dataclass(frozen=True)
class Kronecker(Joint):
    """Jointly Gaussian weights of one layer under Kronecker-factored curvature.

    The means of `given` and draws are always exact; where scattered entries of a large layer are out, by
    conjugate gradients to a relative residual of 1e-10, or 1e-6 where means are not float64. Variances,
    evidence and divergence are exact where nothing is out, where whole rows and columns are out, and where at
    most `LARGEST_DENSE` entries are in. Otherwise they are those of `rowwise()`: each row given the others,
    with what is out taken into account. Its variances are never too large.

    Attributes:
        layer: Qualified name of the module.
        mean: Posterior means by qualified parameter name.
        row_curvature: Curvature between the rows of the layer's matrix (`LayerMatrix`), shape (rows, rows);
            positive semi-definite. The number of data is inside one of the two.
        column_curvature: Curvature between its columns, shape (columns, columns); positive semi-definite.
        prior_precision: Inverse variance of the zero-mean prior: the same number for each parameter.
        keep: False where an entry is out; a missing name means that all of it stays.
        transposed: Whether weights keep their outputs in the second axis.

    Raises:
        InvalidArgumentError: If a tensor does not fit the others, is not finite, or is not positive.

    Example:
        >>> import torch
        >>> mean, prior = {"fc.weight": torch.ones(2, 3)}, {"fc.weight": torch.tensor(1.0)}
        >>> block = Kronecker("fc", mean, 8 * torch.eye(2), torch.eye(3), prior)
        >>> block.variance()["fc.weight"][0]
        tensor([0.1111, 0.1111, 0.1111])
    """

    MATRICES: ClassVar = ("row_curvature", "column_curvature")

    layer: str
    mean: dict[str, Tensor]
    row_curvature: Tensor
    column_curvature: Tensor
    prior_precision: dict[str, Tensor]
    keep: dict[str, Tensor] = field(default_factory=dict)
    transposed: bool = False

    def __post_init__(self) -> None:
        rows, columns = self.layout.rows, self.layout.columns
        self._check(row_curvature=(rows, rows), column_curvature=(columns, columns))
        values = {float(each) for prior in self.prior_precision.values() for each in prior.unique()}
        if len(values) != 1:
            raise InvalidArgumentError(
                f"prior_precision of {self.layer!r}: expected one number for the layer, got {len(values)}; "
                "use Rowwise or Dense"
            )

    @property
    def prior(self) -> float:
        """The prior precision as a number."""
        return float(next(iter(self.prior_precision.values())).reshape(-1)[0])

    def rowwise(self) -> Rowwise:
        """Return the posterior of each row given the others, its scale on the diagonal of `row_curvature`."""
        scale = self.row_curvature.diagonal()
        return Rowwise.factored(
            self.layer,
            self.mean,
            scale,
            self.column_curvature,
            self.prior_precision,
            self.keep,
            transposed=self.transposed,
        )

    def _precisions(self) -> tuple[str, ...]:
        return "row_curvature", "prior_precision"

    @property
    def _factors(self) -> tuple[Tensor, Tensor, float]:
        return self.row_curvature.detach().double(), self.column_curvature.detach().double(), self.prior

    @property
    def _is_exact(self) -> bool:
        """Whether the covariance of what is in is at hand."""
        few = int(self.present_matrix.sum()) <= LARGEST_DENSE
        return few or whole_rows_and_columns(self.present_matrix) is not None

    def _covariance(self) -> MatrixCovariance:
        rows, columns, prior = self._factors
        whole = whole_rows_and_columns(self.present_matrix)
        if whole is not None:
            return KroneckerCovariance(rows, columns, prior, rows=whole[0], columns=whole[1])
        if not self._is_exact:
            return self.rowwise().covariance
        row, column = self.present_matrix.nonzero(as_tuple=True)
        precision = rows[row.unsqueeze(-1), row] * columns[column.unsqueeze(-1), column]
        precision.diagonal().add_(prior)
        return DenseCovariance(self.present_matrix, precision)

    def _times_precision(self, matrix: Tensor) -> Tensor:
        return curvature_product(*self._factors, matrix)

    def _solve(self, matrix: Tensor) -> Tensor:
        if self._is_exact:
            return self.covariance.solve(matrix)
        exact = next(iter(self.mean.values())).dtype == torch.float64
        tolerance = 1e-10 if exact else 1e-6
        return masked_solve(*self._factors, matrix, present=self.present_matrix, tolerance=tolerance)

    def _deviation(self, generator: torch.Generator | None) -> Tensor:
        if self._is_exact:
            return super()._deviation(generator)
        # Noise with the precision as its covariance; solving for it gives noise with the covariance.
        rows, columns, prior = self._factors
        data = curvature_root(rows) @ self._noise(generator) @ curvature_root(columns).mT
        return self._solve(data + prior**0.5 * self._noise(generator))
