"""A layer's posterior with independent rows, each with a full precision over its columns.

A row is all that feeds one output unit, its bias included. `Rowwise.factored` has one curvature for all rows,
scaled row by row, as the rows of a Kronecker posterior have it when the other rows are held.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.posterior.joint import Joint
from secateur.reduction.kronecker_curvature import KroneckerCovariance, whole_rows_and_columns
from secateur.reduction.matrix_covariance import MatrixCovariance
from secateur.reduction.row_covariance import RowCovariance

__all__ = ["Rowwise"]


@dataclass(frozen=True)
class Rowwise(Joint):
    """Weights of one layer with independent rows, jointly Gaussian within a row.

    Every answer is exact, whatever is out. Work grows with rows x columns^3 where scattered entries are out
    or rows have precisions of their own. It grows with columns^3 where `row_scale` is given, the prior is one
    number, and whole rows and columns are out.

    Attributes:
        layer: Qualified name of the module.
        mean: Posterior means by qualified parameter name.
        row_precision: Inverse covariance of each row over the columns of the layer's matrix (`LayerMatrix`),
            with nothing out and the prior included, shape (rows, columns, columns). With `row_scale` the
            curvature that all rows share, without the prior, shape (1, columns, columns).
        prior_precision: Inverse variances of the zero-mean priors, scalars or broadcastable to the means.
        keep: False where an entry is out; a missing name means that all of it stays.
        transposed: Whether weights keep their outputs in the second axis.
        row_scale: None, or the factor of each row's curvature, not negative, shape (rows). The precision of
            row i is then row_scale_i row_precision_0 + its prior precisions.

    Raises:
        InvalidArgumentError: If a tensor does not fit the others, is not finite, or is not positive.
    """

    MATRICES: ClassVar = ("row_precision", "row_scale")

    layer: str
    mean: dict[str, Tensor]
    row_precision: Tensor
    prior_precision: dict[str, Tensor]
    keep: dict[str, Tensor] = field(default_factory=dict)
    transposed: bool = False
    row_scale: Tensor | None = None

    def __post_init__(self) -> None:
        rows, columns = self.layout.rows, self.layout.columns
        if self.row_scale is None:
            self._check(row_precision=(rows, columns, columns))
            return
        self._check(row_precision=(1, columns, columns), row_scale=(rows,))
        if not bool((self.row_scale >= 0).all() & self.row_scale.isfinite().all()):
            raise InvalidArgumentError(
                f"row_scale of {self.layer!r}: expected finite numbers that are not negative, got "
                f"{self.row_scale.min():g} to {self.row_scale.max():g}"
            )

    @classmethod
    def factored(
        cls,
        layer: str,
        mean: dict[str, Tensor],
        row_scale: Tensor,
        column_curvature: Tensor,
        prior_precision: dict[str, Tensor],
        keep: Mapping[str, Tensor] | None = None,
        *,
        transposed: bool = False,
    ) -> "Rowwise":
        """Return the block whose row i has the precision row_scale_i column_curvature + prior.

        Args:
            layer: Qualified name of the module.
            mean: Posterior means by qualified parameter name.
            row_scale: One factor per row, not negative.
            column_curvature: Curvature that all rows share, shape (columns, columns); positive semi-definite.
            prior_precision: Inverse variances of the zero-mean priors.
            keep: False where an entry is out.
            transposed: Whether weights keep their outputs in the second axis.
        """
        curvature = column_curvature.unsqueeze(0)
        return cls(layer, mean, curvature, prior_precision, dict(keep or {}), transposed, row_scale)

    def _precisions(self) -> tuple[str, ...]:
        return ("row_precision" if self.row_scale is None else "row_scale", "prior_precision")

    def _rows(self, rows: slice) -> Tensor:
        """Return the precisions of some rows."""
        if self.row_scale is None:
            return self.row_precision[rows].detach().double()
        scale = self.row_scale[rows].detach().double()[:, None, None]
        return scale * self.row_precision.detach().double() + torch.diag_embed(self._priors[rows])

    @property
    def _priors(self) -> Tensor:
        prior = {
            name: value.detach().double().expand(self.mean[name].shape)
            for name, value in self.prior_precision.items()
        }
        return self.layout.pack(prior)

    def _covariance(self) -> MatrixCovariance:
        whole = whole_rows_and_columns(self.present_matrix)
        priors = self._priors
        if self.row_scale is not None and whole is not None and bool((priors == priors[:1, :1]).all()):
            scale = torch.diag(self.row_scale.detach().double())
            curvature = self.row_precision[0].detach().double()
            return KroneckerCovariance(scale, curvature, float(priors[0, 0]), rows=whole[0], columns=whole[1])
        return RowCovariance(self.present_matrix, self._rows)

    def _times_precision(self, matrix: Tensor) -> Tensor:
        if self.row_scale is not None:
            curvature = self.row_precision[0].detach().double()
            return (
                self.row_scale.detach().double().unsqueeze(-1) * (matrix @ curvature) + self._priors * matrix
            )
        parts = [self._rows(slice(i, i + 1))[0] @ row for i, row in enumerate(matrix)]
        return torch.stack(parts)
