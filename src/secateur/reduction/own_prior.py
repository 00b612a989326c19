"""The evidence of a pruned layer under the prior that suits it best.

A pruned network is a model of its own, so it is judged under its own prior: the precision pi that maximises

    F(pi) = -1/2 sum_i ln |(s_i A + pi I)_FF| + 1/2 n_F ln pi - 1/2 pi |W_F|^2

plus the measured log likelihood, which pi does not change. Row i of the layer's matrix has the curvature
s_i A (`LayerCurvature`), F is what stays in it, n_F how many entries stay in all rows. The maximum is the
fixed point pi = gamma / |W_F|^2 with gamma the number of directions that the data determine (MacKay 1992).

The eigenvalues of A_FF cost columns^3 for each row. So they are computed for a few rows, evenly spaced by how
many entries stay in them, and each other row takes those of its neighbour in that order, with its own s_i.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.shapes import Bool, Float

__all__ = ["OwnPrior", "own_prior"]

MOST_ROWS = 16
"""Rows of a layer that are looked at."""

SMALLEST_GAMMA = 1e-6
LARGEST = 1e30


@dataclass(frozen=True)
class OwnPrior:
    """The prior of a pruned layer, and what the layer's size costs or earns under it.

    Attributes:
        precision: The maximising prior precision.
        gamma: Number of directions that the data determine.
        evidence: F at the maximum, in nats; the log likelihood is not in it.
    """

    precision: float
    gamma: float
    evidence: float


@torch.no_grad()
def own_prior(
    weights: Float[Tensor, "n m"],
    present: Bool[Tensor, "n m"],
    row_scale: Float[Tensor, " n"],
    column_curvature: Float[Tensor, "m m"],
    *,
    num_rows: int = MOST_ROWS,
    num_iterations: int = 100,
) -> OwnPrior:
    """Find the prior precision that maximises a pruned layer's evidence.

    Args:
        weights: The layer's matrix.
        present: Where entries stay; the others count as zero.
        row_scale: s, the curvature of each row relative to A; not negative. The number of data is in it.
        column_curvature: A, positive semi-definite.
        num_rows: Rows whose eigenvalues are computed.
        num_iterations: Steps of the fixed point at most.

    Returns:
        The prior, and the evidence without the likelihood. All zero where nothing stays.

    Example:
        >>> import torch
        >>> found = own_prior(torch.ones(1, 2), torch.ones(1, 2).bool(), torch.tensor([9.0]), torch.eye(2))
        >>> round(found.precision, 4)
        0.9083
    """
    counts = present.sum(1)
    num_kept = int(counts.sum())
    power = max(float(weights.double().square()[present].sum()), torch.finfo(torch.float32).tiny)
    if not num_kept:
        return OwnPrior(LARGEST, 0.0, 0.0)
    curvatures = row_scale.double().unsqueeze(1) * _spectra(present, counts, column_curvature, num_rows)
    inside = torch.arange(present.shape[1], device=present.device) < counts.unsqueeze(1)
    values = curvatures[inside]  # one for each entry that stays
    precision = num_kept / power
    for _ in range(num_iterations):
        gamma = float((values / (values + precision)).sum())
        before = precision
        # Halfway on the log scale: gamma falls with pi, up to as steeply as 1 / pi, so a whole step swings.
        precision = min(math.sqrt(before * max(gamma, SMALLEST_GAMMA) / power), LARGEST)
        if abs(precision - before) <= 1e-9 * precision:
            break
    volume = float(torch.log1p(values / precision).sum())
    return OwnPrior(precision, precision * power, -0.5 * volume - 0.5 * precision * power)


def _spectra(present: Tensor, counts: Tensor, curvature: Tensor, num_rows: int) -> Tensor:
    """Return eigenvalues of A_FF for each row, the first `counts` of them, in a matrix of present's shape."""
    num_columns = present.shape[1]
    order = torch.argsort(counts, stable=True)
    order = order[counts[order] > 0]
    spectra = torch.zeros(present.shape, dtype=torch.float64, device=present.device)
    for part in order.tensor_split(min(num_rows, len(order))):
        middle = part[len(part) // 2]
        kept = present[middle]
        values = torch.linalg.eigvalsh(curvature[kept][:, kept]).double().clamp_min(0)
        quantiles = (torch.arange(num_columns, device=present.device) + 0.5).unsqueeze(0)
        # the same distribution of eigenvalues, read at as many places as entries stay in each row
        place = quantiles / counts[part].unsqueeze(1) * len(values) - 0.5
        low = place.floor().clamp(0, len(values) - 1).long()
        high = (low + 1).clamp(max=len(values) - 1)
        spectra[part] = torch.lerp(values[low], values[high], (place - low).clamp(0, 1).double())
    return spectra
