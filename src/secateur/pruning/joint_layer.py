"""One layer of a trained network, and how its weights depend on each other.

With curvature N G (x) A + pi I of the layer's matrix W (`secateur.curvature`), kept entries F:

    misfit of entry k of row i    W_ik^2 / (2 S^(i)_kk)      cost of its removal, in nats, if the row moves
    S^(i), the whole row's        (N G_ii A + pi I)^-1       one eigendecomposition of A a layer
    S^(i), conditioned            [(N G_ii A + pi I)_FF]^-1  a Cholesky factor for each row
    moved mean                    W_F minimises (W - W0)^T (N G (x) A + eps I) (W - W0)

eps = `DAMPING` N mean(G_ii) mean(A_jj) stands in for the prior: under pi itself, rows shrink together. The
volume term of the evidence is left out of the ranking; it belongs to the stop (`secateur.pruning.stopping`).

Sources: the moved mean is optimal brain surgeon's, Hassibi & Stork 1993; arXiv:2311.00636 has the layout of A
and G.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.curvature import LayerCurvature
from secateur.reduction.kronecker_curvature import curvature_product
from secateur.reduction.masked_solve import masked_minimum
from secateur.reduction.own_prior import OwnPrior, own_prior
from secateur.reduction.row_covariance import RowCovariance

__all__ = ["SPREADS", "JointLayer", "affordable_spread"]

DAMPING = 1e-3
TOLERANCE = 1e-4
TOLERANCE_IN_DOUBLE, STEPS_IN_DOUBLE = 1e-11, 1000
FEWEST_STEPS, MOST_STEPS = 20, 200  # of conjugate gradients
FEWEST_ROWS = 2  # whose eigenvalues are computed
# Multiplications, within which there may be more steps, more rows, and a factor for each row of a network
STEPS_BUDGET, ROWS_BUDGET, FACTORS_BUDGET = 4e10, 2e9, 2e10
SPREADS = ("row", "conditioned")


@dataclass(frozen=True)
class JointLayer:
    """The joint posterior of one layer's matrix, rows by columns, with the bias in the last column.

    Attributes:
        name: Of the layer.
        weights: W0, where the curvature was taken; zero where an entry is out.
        present: Where entries are in.
        row_curvature: N G with the exact row sums.
        column_curvature: A; None where entries are independent.
        diagonal: N times the diagonal of the curvature; only where A is None.
    """

    name: str
    weights: Tensor
    present: Tensor
    row_curvature: Tensor
    column_curvature: Tensor | None
    diagonal: Tensor | None

    @classmethod
    def of(
        cls, name: str, curvature: LayerCurvature, num_data: int, weights: Tensor, present: Tensor
    ) -> "JointLayer":
        """Return the layer at its present weights.

        Args:
            name: Of the layer.
            curvature: Taken at these weights, as means over data.
            num_data: N.
            weights: The layer's matrix.
            present: Where entries are in.
        """
        if curvature.A is None:
            diagonal = curvature.expected_diagonal() * num_data
            return cls(name, weights, present, torch.diag(diagonal.sum(1)), None, diagonal)
        scale = curvature.row_scale
        rows = torch.diag(scale) if curvature.G is None else curvature.output_factor
        return cls(name, weights, present, rows * num_data, curvature.A, None)

    @property
    def row_scale(self) -> Tensor:
        """N G_ii."""
        return self.row_curvature.diagonal()

    def own_prior(self, weights: Tensor, present: Tensor, *, num_rows: int) -> OwnPrior:
        """Return the prior that suits the layer best, and its evidence without the likelihood.

        Args:
            weights: The layer's matrix.
            present: Where entries are in.
            num_rows: Rows whose eigenvalues are computed, at most; fewer where there are many columns.
        """
        if self.diagonal is not None:  # each entry is a row of one column
            one = torch.ones(1, 1, dtype=self.diagonal.dtype, device=self.diagonal.device)
            flat = self.diagonal.reshape(-1)
            return own_prior(weights.reshape(-1, 1), present.reshape(-1, 1), flat, one, num_rows=1)
        assert self.column_curvature is not None
        cheap = max(int(ROWS_BUDGET / weights.shape[1] ** 3), FEWEST_ROWS)
        return own_prior(
            weights, present, self.row_scale, self.column_curvature, num_rows=min(num_rows, cheap)
        )

    @torch.no_grad()
    def misfit(self, prior: float, *, spread: str = "row") -> Tensor:
        """Return what the removal of each entry costs, in nats; 0 where an entry is out.

        Args:
            prior: Prior precision.
            spread: One of `SPREADS`.
        """
        if self.diagonal is not None:
            return 0.5 * self.weights.square() * (self.diagonal + prior)
        assert self.column_curvature is not None
        if spread == "conditioned":
            variance = self._conditioned(prior)
        else:
            values, basis = torch.linalg.eigh(self.column_curvature)
            inverse = 1 / (self.row_scale.unsqueeze(1) * values.clamp_min(0) + prior)
            variance = inverse @ basis.square().mT
        cost = self.weights.square() / (2 * variance)
        return torch.where(self.present, cost, 0.0)

    def _conditioned(self, prior: float) -> Tensor:
        assert self.column_curvature is not None
        scale, curvature = self.row_scale.double(), self.column_curvature.double()
        identity = torch.eye(len(curvature), dtype=torch.float64, device=curvature.device)

        def precisions(rows: slice) -> Tensor:
            return scale[rows, None, None] * curvature + prior * identity

        variance = RowCovariance(self.present, precisions).variance().to(self.weights.dtype)
        return torch.where(self.present, variance, 1.0)

    @torch.no_grad()
    def moved(self, present: Tensor) -> Tensor:
        """Return the mean of what stays, given that the rest is zero.

        Args:
            present: Where entries stay.
        """
        stays = torch.where(present, self.weights, 0.0)
        if self.column_curvature is None:
            return stays
        rows, columns = self.row_curvature, self.column_curvature
        damping = DAMPING * float(rows.diagonal().mean() * columns.diagonal().mean())
        if not damping > 0:
            return stays
        steps = STEPS_BUDGET / (stays.numel() * sum(stays.shape))
        tolerance, max_steps = TOLERANCE, int(min(max(steps, FEWEST_STEPS), MOST_STEPS))
        if stays.dtype == torch.float64:
            # an end that is loose turns rounding, as of sums over processes, into differences of its own size
            tolerance, max_steps = TOLERANCE_IN_DOUBLE, STEPS_IN_DOUBLE
        return masked_minimum(
            rows,
            columns,
            damping,
            self.weights,
            present=present,
            tolerance=tolerance,
            max_steps=max_steps,
        )

    @torch.no_grad()
    def rise(self, weights: Tensor) -> float:
        """Return how much the loss of all data is predicted to rise when the layer moves there, in nats.

        Args:
            weights: The layer's matrix.
        """
        step = weights - self.weights
        if self.diagonal is not None:
            return 0.5 * float((self.diagonal * step.square()).sum(dtype=torch.float64))
        assert self.column_curvature is not None
        product = curvature_product(self.row_curvature, self.column_curvature, 0.0, step)
        return 0.5 * float((step * product).sum(dtype=torch.float64))


def affordable_spread(layers: Iterable[JointLayer]) -> str:
    """Return "conditioned" where a factor for each row of all layers is cheap, else "row".

    Args:
        layers: Of the network.
    """
    work = sum(layer.weights.numel() * layer.weights.shape[1] ** 2 for layer in layers)
    return "conditioned" if work <= FACTORS_BUDGET else "row"
