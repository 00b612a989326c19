"""Evidence change in linear regression with unknown noise: the Normal-Gamma family, exact.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: means (*b, n), precisions (*b, n, n), Gamma parameters (*b).
Theory: conjugate analysis of the linear model; its reduction, Friston & Penny 2011 and arXiv:1805.07092.

With noise precision τ ~ Gamma(a, b) and weights w | τ ~ N(m, (τ Λ)^-1), the normaliser is

    ln Z(Λ, a, b) = ln Γ(a) - a ln b - 1/2 ln|Λ|.

Reducing the prior (m0, Λ0, a0, b0) to (r0, R0, a1, b1) completes the same square as the dense Gaussian
with precisions in units of τ, and what the square leaves goes into the rate:

    a' = a + a1 - a0,    b' = b + b1 - b0 + 1/2 misfit,
    delta_f = 1/2 volume + [ln Γ(a') - a' ln b' - ln Γ(a1) + a1 ln b1]
                         - [ln Γ(a) - a ln b - ln Γ(a0) + a0 ln b0].

Pinned coordinates are those of the dense case, so dropping regressors is exact.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from secateur.errors import InvalidArgumentError, NotNestedError
from secateur.reduction._linear_algebra import cholesky, log_determinant, solve
from secateur.reduction._validation import (
    require,
    require_finite,
    require_last_axes,
    require_positive,
)
from secateur.reduction.conjugate import log_rising
from secateur.reduction.dense import complete_square, with_pins
from secateur.shapes import Float

__all__ = [
    "NormalGamma",
    "normal_gamma_delta_f",
    "normal_gamma_reduced_posterior",
    "regression_log_evidence",
    "regression_posterior",
]


@dataclass(frozen=True)
class NormalGamma:
    """Weights and noise precision: τ ~ Gamma(concentration, rate), w | τ ~ N(mean, (τ precision)^-1).

    Attributes:
        mean: Weights' mean, shape (*b, n).
        precision: Weights' inverse covariance in units of the noise precision, shape (*b, n, n). In a
            reduced prior, `inf` on the diagonal pins a weight to its mean.
        concentration: Shape parameter of the noise precision, shape (*b); positive.
        rate: Inverse scale of the noise precision, shape (*b); positive.
    """

    mean: Float[Tensor, "*b n"]
    precision: Float[Tensor, "*b n n"]
    concentration: Float[Tensor, "*b"]
    rate: Float[Tensor, "*b"]


def normal_gamma_delta_f(
    posterior: NormalGamma, *, prior: NormalGamma, reduced: NormalGamma
) -> Float[Tensor, "..."]:
    """Return the log evidence of the reduced over the full Normal-Gamma model.

    Args:
        posterior: Posterior under the full prior.
        prior: The full prior.
        reduced: The reduced prior.

    Returns:
        Nats, shape (*b).

    Raises:
        InvalidArgumentError: If shapes disagree or a parameter is out of range.
        NotNestedError: If the reduced posterior does not exist.

    References:
        arXiv:1805.07092; the module header derives it.
    """
    return _reduce(posterior, prior, reduced)[0]


def normal_gamma_reduced_posterior(
    posterior: NormalGamma, *, prior: NormalGamma, reduced: NormalGamma
) -> NormalGamma:
    """Return the posterior under the reduced prior.

    Args:
        posterior: Posterior under the full prior.
        prior: The full prior.
        reduced: The reduced prior.

    Returns:
        The reduced posterior; `inf` on the diagonal of its precision where a weight is pinned.

    Raises:
        InvalidArgumentError: If shapes disagree or a parameter is out of range.
        NotNestedError: If the reduced posterior does not exist.
    """
    return _reduce(posterior, prior, reduced)[1]


def regression_posterior(
    inputs: Float[Tensor, "*b num_data n"], targets: Float[Tensor, "*b num_data"], *, prior: NormalGamma
) -> NormalGamma:
    """Return the exact posterior of linear regression with unknown noise.

    Args:
        inputs: Regressors, one row per observation.
        targets: Observations.
        prior: The prior.

    Returns:
        The posterior.

    Raises:
        InvalidArgumentError: If a value is not finite or the prior is not proper.
    """
    require_finite("inputs", inputs)
    require_finite("targets", targets)
    _require_gamma("prior", prior)
    precision = prior.precision + inputs.mT @ inputs
    location = (prior.precision @ prior.mean.unsqueeze(-1)).squeeze(-1)
    location = location + (inputs.mT @ targets.unsqueeze(-1)).squeeze(-1)
    mean = solve(cholesky("prior", precision, "such that its precision is positive definite"), location)
    residual = targets - (inputs @ mean.unsqueeze(-1)).squeeze(-1)
    shift = mean - prior.mean
    penalty = (shift * (prior.precision @ shift.unsqueeze(-1)).squeeze(-1)).sum(-1)
    rate = prior.rate + 0.5 * (residual.square().sum(-1) + penalty)
    return NormalGamma(mean, precision, prior.concentration + 0.5 * targets.shape[-1] + 0 * rate, rate)


def regression_log_evidence(
    inputs: Float[Tensor, "*b num_data n"], targets: Float[Tensor, "*b num_data"], *, prior: NormalGamma
) -> Float[Tensor, "*b"]:
    """Return the exact log marginal likelihood of linear regression with unknown noise.

    Args:
        inputs: Regressors, one row per observation.
        targets: Observations.
        prior: The prior.

    Returns:
        ln p(targets | inputs), nats, shape (*b).

    Raises:
        InvalidArgumentError: If a value is not finite or the prior is not proper.
    """
    posterior = regression_posterior(inputs, targets, prior=prior)
    num_data = targets.shape[-1]
    volume = log_determinant(cholesky("prior", prior.precision)) - log_determinant(
        cholesky("prior", posterior.precision)
    )
    noise = log_rising(prior.concentration, posterior.concentration - prior.concentration)
    rates = prior.concentration * prior.rate.log() - posterior.concentration * posterior.rate.log()
    return 0.5 * volume + noise + rates - 0.5 * num_data * math.log(2 * math.pi)


def _reduce(posterior: NormalGamma, prior: NormalGamma, reduced: NormalGamma) -> tuple[Tensor, NormalGamma]:
    """Evidence and reduced posterior."""
    for name, value in (("posterior", posterior), ("prior", prior), ("reduced", reduced)):
        _require_gamma(name, value)
    step = complete_square(
        posterior.mean, posterior.precision, prior.precision, reduced.precision, prior.mean, reduced.mean
    )
    counts = posterior.concentration - prior.concentration
    concentration = counts + reduced.concentration
    rate = posterior.rate + (reduced.rate - prior.rate) + 0.5 * step.misfit
    require(
        "reduced.concentration", concentration, concentration > 0, "above prior - posterior", NotNestedError
    )
    require(
        "reduced.rate", rate, rate > 0, "such that the reduced posterior's rate is positive", NotNestedError
    )
    delta_f = (
        0.5 * step.volume
        + log_rising(reduced.concentration, counts)
        - log_rising(prior.concentration, counts)
        + reduced.concentration * (reduced.rate / rate).log()
        - prior.concentration * (prior.rate / posterior.rate).log()
        - counts * (rate / posterior.rate).log()
    )
    batch = delta_f.shape
    return delta_f, NormalGamma(
        step.mean, with_pins(step.precision, step.free), concentration.expand(batch), rate.expand(batch)
    )


def _require_gamma(name: str, value: NormalGamma) -> None:
    """Positive Gamma parameters, and shapes that belong together.

    Raises:
        InvalidArgumentError: Naming the part.
    """
    if value.mean.dim() == 0:
        raise InvalidArgumentError(f"{name}.mean must have shape (..., n), got a single number")
    require_last_axes(f"{name}.precision", value.precision, value.mean.shape[-1], value.mean.shape[-1])
    require_positive(f"{name}.concentration", value.concentration)
    require_positive(f"{name}.rate", value.rate)
