"""Predicted against observed: what the evidence promised, and what the bound on it did.

Sign:   changes are reduced minus full, in nats; > 0 favours the reduction.
Theory: the summed evidence of many weights is optimistic because they are not independent, Beckers et al.
        2024; so every reduction is held against the change of the evidence lower bound

            ELBO = E_q[ln p(D | w)] - KL(q || p).

A weight that is pinned adds nothing to the KL: it is no longer a parameter of the model.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._validation import (
    Values,
    broadcast_shape,
    common_tensors,
    require,
    require_finite,
    require_positive,
)
from secateur.shapes import Bool, Float

__all__ = [
    "PredictedAgainstObserved",
    "evidence_lower_bound",
    "gaussian_divergence",
    "predicted_against_observed",
]


@dataclass(frozen=True)
class PredictedAgainstObserved:
    """One reduction: what was predicted and what was measured, in nats.

    Attributes:
        num_removed: Weights removed.
        sum_delta_f: Sum of the removed weights' evidence, as if they were independent.
        joint_delta_f: Evidence of removing them together under a covariance; None where none is known.
        observed: Measured change of the evidence lower bound.
        refitted: Whether the reduced model was fitted again before it was measured.
    """

    num_removed: int
    sum_delta_f: float
    joint_delta_f: float | None
    observed: float
    refitted: bool

    @property
    def optimism(self) -> float:
        """The best prediction there is, joint before summed, minus what was observed."""
        predicted = self.sum_delta_f if self.joint_delta_f is None else self.joint_delta_f
        return predicted - self.observed

    @property
    def optimism_per_weight(self) -> float:
        """The same per weight removed; zero if none was."""
        return self.optimism / self.num_removed if self.num_removed else 0.0

    def __str__(self) -> str:
        joint = "unknown" if self.joint_delta_f is None else f"{self.joint_delta_f:+.2f}"
        fit = "refitted" if self.refitted else "not refitted"
        return (
            f"{self.num_removed} removed: predicted {self.sum_delta_f:+.2f} summed, {joint} jointly; "
            f"observed {self.observed:+.2f} nats ({fit}); optimism {self.optimism:+.2f}"
        )


def predicted_against_observed(
    delta_f: Float[Tensor, "*n"],
    removed: Bool[Tensor, "*n"],
    *,
    elbo_before: float,
    elbo_after: float,
    joint_delta_f: float | None = None,
    refitted: bool = False,
) -> PredictedAgainstObserved:
    """Hold a reduction's predicted evidence against the measured change of the bound.

    Args:
        delta_f: Evidence per weight before the reduction, nats.
        removed: Which weights were removed.
        elbo_before: Bound of the full model, nats over the whole data.
        elbo_after: Bound of the reduced model, nats over the same data.
        joint_delta_f: Evidence of removing them together, where a covariance is known.
        refitted: Whether the reduced model was fitted again.

    Returns:
        The report.

    Raises:
        InvalidArgumentError: If a number is not finite.

    Example:
        >>> import torch
        >>> evidence, out = torch.tensor([2.0, -5.0, 1.5]), torch.tensor([True, False, True])
        >>> print(predicted_against_observed(evidence, out, elbo_before=-120.0, elbo_after=-117.5))
        2 removed: predicted +3.50 summed, unknown jointly; observed +2.50 nats (not refitted); optimism +1.00
    """
    chosen = delta_f[removed]
    require("delta_f", delta_f, delta_f.isfinite() | ~removed, "finite where a weight was removed")
    numbers = {"elbo_before": elbo_before, "elbo_after": elbo_after, "joint_delta_f": joint_delta_f or 0.0}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise InvalidArgumentError(f"{name} must be finite, got {number}")
    return PredictedAgainstObserved(
        int(removed.sum()),
        chosen.sum(dtype=torch.float64).item(),
        joint_delta_f,
        elbo_after - elbo_before,
        refitted,
    )


def gaussian_divergence(
    mean: Values,
    precision: Values,
    *,
    prior_precision: Values,
    prior_mean: Values = 0.0,
) -> Float[Tensor, "..."]:
    """Return KL(q || p) per weight between Gaussians; zero where `precision` is infinite.

    Args:
        mean: Posterior means.
        precision: Posterior inverse variances; positive, `inf` for a weight that is pinned.
        prior_precision: Prior inverse variances; positive.
        prior_mean: Prior means.

    Returns:
        Nats per weight, never negative.

    Raises:
        InvalidArgumentError: If an argument is out of range.
    """
    values = common_tensors(
        mean=mean, precision=precision, prior_precision=prior_precision, prior_mean=prior_mean
    )
    broadcast_shape(**{name: value.shape for name, value in values.items()})
    m, p, p0, m0 = values.values()
    require("precision", p, p > 0, "positive (inf for a pinned weight)")
    require_positive("prior_precision", p0)
    require_finite("mean", m)
    require_finite("prior_mean", m0)
    pinned = p == math.inf
    ratio = p0 / torch.where(pinned, p0, p)
    divergence = 0.5 * (ratio - 1 - ratio.log() + p0 * (m - m0).square())
    return torch.where(pinned, 0.0, divergence)


def evidence_lower_bound(
    log_likelihood: float,
    mean: Values,
    precision: Values,
    *,
    prior_precision: Values,
    prior_mean: Values = 0.0,
) -> float:
    """Return the evidence lower bound of a mean-field posterior.

    Args:
        log_likelihood: Expected log likelihood of all data under the posterior, nats; usually a mean over
            samples of the weights.
        mean: As for `gaussian_divergence`.
        precision: As for `gaussian_divergence`; pass what `reduced_posterior` returned for the reduced model.
        prior_precision: As for `gaussian_divergence`.
        prior_mean: As for `gaussian_divergence`.

    Returns:
        Nats over all data.

    Raises:
        InvalidArgumentError: If an argument is out of range.
    """
    divergence = gaussian_divergence(mean, precision, prior_precision=prior_precision, prior_mean=prior_mean)
    return log_likelihood - divergence.sum(dtype=torch.float64).item()
