"""Evidence change for Dirichlet, Beta and Gamma distributions.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Theory: Friston, Parr & Zeidman 2018, arXiv:1805.07092, the conjugate families; signs derived here.

If the data D turn a prior with parameters a into a posterior with parameters A, then p(D) = Z(A) / Z(a)
with Z the family's normaliser, up to a factor that no prior changes. The data would turn a reduced prior a'
into A' = A + a' - a, so

    delta_f = [ln Z(A') - ln Z(a')] - [ln Z(A) - ln Z(a)].

Dirichlet: ln Z(a) = Σ ln Γ(a_k) - ln Γ(Σ a_k).    Gamma: ln Z(a, b) = ln Γ(a) - a ln b.
Both brackets are differences of ln Γ at arguments n = A - a apart, taken without forming the large terms.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.errors import InvalidArgumentError, NotNestedError
from secateur.reduction._validation import (
    Values,
    broadcast_shape,
    common_tensors,
    require,
    require_positive,
)

__all__ = ["beta_delta_f", "dirichlet_delta_f", "dirichlet_reduced_posterior", "gamma_delta_f", "log_rising"]

# ln Γ(x) = (x - 1/2) ln x - x + 1/2 ln 2π + Σ_k c_k x^(1-2k), Bernoulli's numbers over 2k (2k - 1).
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_LARGE = 12.0
"""From here on six terms of Stirling's series are exact in float64."""


def dirichlet_delta_f(
    posterior: Float[Tensor, "..."],
    *,
    prior: Float[Tensor, "..."],
    reduced: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """Return the log evidence of the reduced over the full Dirichlet model.

    Args:
        posterior: Concentrations A under the full prior, shape (*b, k); positive.
        prior: Concentrations a of the full prior, broadcasts to (*b, k); positive.
        reduced: Concentrations a' of the reduced prior, broadcasts to (*b, k). Zero rules a category out:
            exact, and minus infinity where the category has been seen.

    Returns:
        Nats, shape (*b).

    Raises:
        InvalidArgumentError: If shapes do not broadcast or a concentration is out of range.
        NotNestedError: If `posterior + reduced - prior` is not positive.

    References:
        arXiv:1805.07092, the categorical case.

    Example:
        >>> import torch
        >>> seen = torch.tensor([8.0, 1.0])  # seven of the first category, none of the second
        >>> dirichlet_delta_f(seen, prior=torch.ones(2), reduced=torch.tensor([1.0, 0.0]))
        tensor(2.0794)
    """
    big, small, other = _concentrations(posterior, prior, reduced)
    counts = big - small
    ruled_out = other == 0
    inside = torch.where(ruled_out, 1.0, other)
    gain = log_rising(inside, torch.where(ruled_out, 0.0, counts)) - log_rising(small, counts)
    gain = torch.where(ruled_out & (counts > 0), -math.inf, gain)
    total, inside_total = counts.sum(-1), other.sum(-1)
    return gain.sum(-1) - (log_rising(inside_total, total) - log_rising(small.sum(-1), total))


def dirichlet_reduced_posterior(
    posterior: Float[Tensor, "..."],
    *,
    prior: Float[Tensor, "..."],
    reduced: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """Return the concentrations of the posterior under the reduced prior, A + a' - a.

    Args:
        posterior: As for `dirichlet_delta_f`.
        prior: As for `dirichlet_delta_f`.
        reduced: As for `dirichlet_delta_f`.

    Returns:
        Concentrations, shape (*b, k); zero where a category is ruled out.

    Raises:
        InvalidArgumentError: As for `dirichlet_delta_f`.
        NotNestedError: As for `dirichlet_delta_f`.
    """
    big, small, other = _concentrations(posterior, prior, reduced)
    return torch.where(other == 0, 0.0, big + (other - small))


def beta_delta_f(
    alpha: Values,
    beta: Values,
    *,
    prior_alpha: Values,
    prior_beta: Values,
    reduced_alpha: Values,
    reduced_beta: Values,
) -> Float[Tensor, "..."]:
    """Return the log evidence of the reduced over the full Beta model, per entry.

    Args:
        alpha: Posterior count of successes; positive.
        beta: Posterior count of failures; positive.
        prior_alpha: Count of successes in the full prior; positive.
        prior_beta: Count of failures in the full prior; positive.
        reduced_alpha: Count of successes in the reduced prior; zero rules successes out.
        reduced_beta: Count of failures in the reduced prior; zero rules failures out.

    Returns:
        Nats, in the shape the arguments broadcast to.

    Raises:
        InvalidArgumentError: As for `dirichlet_delta_f`.
        NotNestedError: As for `dirichlet_delta_f`.

    References:
        arXiv:1805.07092; the Dirichlet case with two categories.
    """
    values = common_tensors(
        alpha=alpha,
        beta=beta,
        prior_alpha=prior_alpha,
        prior_beta=prior_beta,
        reduced_alpha=reduced_alpha,
        reduced_beta=reduced_beta,
    )
    shape = broadcast_shape(**{name: value.shape for name, value in values.items()})
    a, b, a0, b0, a1, b1 = (value.expand(shape) for value in values.values())
    return dirichlet_delta_f(
        torch.stack((a, b), -1), prior=torch.stack((a0, b0), -1), reduced=torch.stack((a1, b1), -1)
    )


def gamma_delta_f(
    concentration: Values,
    rate: Values,
    *,
    prior_concentration: Values,
    prior_rate: Values,
    reduced_concentration: Values,
    reduced_rate: Values,
) -> Float[Tensor, "..."]:
    """Return the log evidence of the reduced over the full Gamma model, per entry.

    Args:
        concentration: Posterior shape parameter A under the full prior; positive.
        rate: Posterior inverse scale B under the full prior; positive.
        prior_concentration: Shape parameter a of the full prior; positive.
        prior_rate: Inverse scale b of the full prior; positive.
        reduced_concentration: Shape parameter a' of the reduced prior; positive.
        reduced_rate: Inverse scale b' of the reduced prior; positive.

    Returns:
        Nats, in the shape the arguments broadcast to.

    Raises:
        InvalidArgumentError: If shapes do not broadcast or a parameter is not positive.
        NotNestedError: If the reduced posterior A + a' - a, B + b' - b is not positive.

    References:
        arXiv:1805.07092, the Gamma case.

    Example:
        >>> round(gamma_delta_f(5.0, 3.0, prior_concentration=1.0, prior_rate=1.0,
        ...                     reduced_concentration=8.0, reduced_rate=4.0).item(), 4)
        0.8814
    """
    values = common_tensors(
        concentration=concentration,
        rate=rate,
        prior_concentration=prior_concentration,
        prior_rate=prior_rate,
        reduced_concentration=reduced_concentration,
        reduced_rate=reduced_rate,
    )
    broadcast_shape(**{name: value.shape for name, value in values.items()})
    for name, value in values.items():
        require_positive(name, value)
    a, b, a0, b0, a1, b1 = values.values()
    counts, exposure = a - a0, b - b0
    for name, after in (("reduced_concentration", counts + a1), ("reduced_rate", exposure + b1)):
        expected = "above prior minus posterior (the reduced posterior must exist)"
        require(name, values[name], after > 0, expected, NotNestedError)
    reduced = log_rising(a1, counts) - a1 * (exposure / b1).log1p() - counts * (exposure + b1).log()
    full = log_rising(a0, counts) - a0 * (exposure / b0).log1p() - counts * b.log()
    return reduced - full


def log_rising(start: Float[Tensor, "..."], step: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return ln Γ(start + step) - ln Γ(start), without subtracting large numbers from each other.

    Args:
        start: Positive.
        step: Above minus `start`.

    Returns:
        The log of the rising factorial, in the shape the arguments broadcast to.

    Example:
        >>> import torch
        >>> log_rising(torch.tensor(1e12), torch.tensor(1.0))  # ln 1e12
        tensor(27.6310)
    """
    end = start + step
    large = (start >= _LARGE) & (end >= _LARGE)
    a, b = torch.where(large, start, _LARGE), torch.where(large, end, _LARGE)
    ratio = torch.where(large, step / a, 0.0)
    stirling = (a - 0.5) * ratio.log1p() + torch.where(large, step, 0.0) * (b.log() - 1)
    stirling = stirling + _correction(b) - _correction(a)
    direct = torch.lgamma(torch.where(large, 1.0, end)) - torch.lgamma(torch.where(large, 1.0, start))
    return torch.where(large, stirling, direct)


def _correction(x: Tensor) -> Tensor:
    """What Stirling's series adds to its leading terms."""
    inverse = 1 / x
    square = inverse.square()
    total = torch.zeros_like(x)
    for coefficient in reversed(_STIRLING):
        total = coefficient + square * total
    return total * inverse


def _concentrations(posterior: Tensor, prior: Tensor, reduced: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Checked and broadcast against each other."""
    values = common_tensors(posterior=posterior, prior=prior, reduced=reduced)
    shape = broadcast_shape(**{name: value.shape for name, value in values.items()})
    if not shape:
        raise InvalidArgumentError("posterior must have an axis of categories, got a single number")
    require_positive("posterior", values["posterior"])
    require_positive("prior", values["prior"])
    other = values["reduced"]
    require("reduced", other, (other >= 0) & (other < math.inf), "zero or positive, and finite")
    require("reduced", other.sum(-1), other.sum(-1) > 0, "positive for one category at least")
    big, small, other = (value.expand(shape) for value in values.values())
    after = big + (other - small)
    holds = (after > 0) | (other == 0)
    require(
        "reduced", other, holds, "above prior - posterior (the reduced posterior must exist)", NotNestedError
    )
    return big, small, other
