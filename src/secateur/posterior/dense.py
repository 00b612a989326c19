"""A layer's posterior with a full precision over all its entries: exact, for small layers and as oracle."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from secateur.posterior.joint import Joint
from secateur.reduction.matrix_covariance import DenseCovariance, MatrixCovariance

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense(Joint):
    """Jointly Gaussian weights of one layer, with one precision over all of them.

    Attributes:
        layer: Qualified name of the module.
        mean: Posterior means by qualified parameter name.
        joint_precision: Inverse covariance over the entries of the layer's matrix (`LayerMatrix`) row by row,
            with nothing out and the prior included; positive definite, shape (entries, entries).
        prior_precision: Inverse variances of the zero-mean priors, scalars or broadcastable to the means.
        keep: False where an entry is out; a missing name means that all of it stays.
        transposed: Whether weights keep their outputs in the second axis.

    Raises:
        InvalidArgumentError: If a tensor does not fit the others, is not finite, or is not positive.
    """

    MATRICES: ClassVar = ("joint_precision",)

    layer: str
    mean: dict[str, Tensor]
    joint_precision: Tensor
    prior_precision: dict[str, Tensor]
    keep: dict[str, Tensor] = field(default_factory=dict)
    transposed: bool = False

    def __post_init__(self) -> None:
        size = sum(value.numel() for value in self.mean.values())
        self._check(joint_precision=(size, size))

    def _covariance(self) -> MatrixCovariance:
        index = self.present_matrix.reshape(-1).nonzero().squeeze(-1)
        precision = self.joint_precision.detach()[index.unsqueeze(-1), index].double()
        return DenseCovariance(self.present_matrix, precision)

    def _times_precision(self, matrix: Tensor) -> Tensor:
        return (self.joint_precision.detach().double() @ matrix.reshape(-1)).reshape(matrix.shape)
