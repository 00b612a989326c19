"""Evidence change for Dirichlet, Beta and Gamma distributions.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Theory: Friston, Parr & Zeidman 2018, arXiv:1805.07092, the conjugate families; signs derived here.

If the data D turn a prior with parameters a into a posterior with parameters A, then p(D) = Z(A) / Z(a)
with Z the family's normaliser, up to a factor that no prior changes. The data would turn a reduced prior a'
into A' = A + a' - a, so

    delta_f = [ln Z(A') - ln Z(a')] - [ln Z(A) - ln Z(a)].

Dirichlet: ln Z(a) = Σ ln Γ(a_k) - ln Γ(Σ a_k).    Gamma: ln Z(a, b) = ln Γ(a) - a ln b.

Four values of ln Γ meet in each category, at the corners of the parallelogram a, A, a', A'. They are paired
along its shorter side, n = A - a or d = a' - a, and the difference along a side is taken without forming the
large terms. So a count of 1e15 costs no digits.
"""

import math

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError, NotNestedError
from secateur.reduction._validation import (
    Values,
    broadcast_shape,
    common_tensors,
    require,
    require_positive,
)
from secateur.shapes import Float

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
    big, small, other, after = _concentrations(posterior, prior, reduced)
    counts, change = big - small, other - small
    ruled_out = other == 0
    inside = torch.where(ruled_out, small, other)
    gain = _difference_of_differences(
        small, big, inside, torch.where(ruled_out, big, after), counts, torch.where(ruled_out, 0.0, change)
    )
    gain = torch.where(ruled_out, torch.where(counts > 0, -math.inf, -log_rising(small, counts)), gain)
    total = _difference_of_differences(
        small.sum(-1), big.sum(-1), other.sum(-1), after.sum(-1), counts.sum(-1), change.sum(-1)
    )
    return gain.sum(-1) - total


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
    return _concentrations(posterior, prior, reduced)[-1]


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
    after = _sum_of_reduced(a, a0, a1), _sum_of_reduced(b, b0, b1)
    for name, value in zip(("reduced_concentration", "reduced_rate"), after, strict=True):
        expected = "above prior minus posterior (the reduced posterior must exist)"
        require(name, values[name], value > 0, expected, NotNestedError)
    shapes = _difference_of_differences(a0, a, a1, after[0], counts, a1 - a0)
    rates = a0 * (exposure / b0).log1p() - a1 * (exposure / b1).log1p()
    return shapes + rates - counts * _log_ratio(after[1], b, b1 - b0)


def _log_ratio(after: Tensor, before: Tensor, change: Tensor) -> Tensor:
    """Return ln(after / before), where after = before + change."""
    near = change.abs() < 0.5 * before
    exact = torch.where(near, change / before, 0.0).log1p()
    return torch.where(near, exact, torch.where(near, 1.0, after).log() - before.log())


def _sum_of_reduced(posterior: Tensor, prior: Tensor, reduced: Tensor) -> Tensor:
    """A + a' - a, subtracting a first from the one of the others that it may nearly cancel."""
    return torch.where(reduced >= 0.5 * prior, posterior + (reduced - prior), (posterior - prior) + reduced)


def _difference_of_differences(
    prior: Tensor, posterior: Tensor, reduced: Tensor, after: Tensor, counts: Tensor, change: Tensor
) -> Tensor:
    """Return [ln Γ(A') - ln Γ(a')] - [ln Γ(A) - ln Γ(a)], paired along the shorter of the two sides."""
    along_change = change.abs() <= counts.abs()
    step = torch.where(along_change, change, counts)
    far = _log_gamma_ratio(torch.where(along_change, posterior, reduced), after, step)
    return far - _log_gamma_ratio(prior, torch.where(along_change, reduced, posterior), step)


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
    return _log_gamma_ratio(start, start + step, step)


def _log_gamma_ratio(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """Return ln Γ(end) - ln Γ(start), where end = start + step."""
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


def _concentrations(posterior: Tensor, prior: Tensor, reduced: Tensor) -> tuple[Tensor, ...]:
    """Checked and broadcast against each other, and A' = A + a' - a, zero where a category is ruled out."""
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
    after = torch.where(other == 0, 0.0, _sum_of_reduced(big, small, other))
    holds = (after > 0) | (other == 0)
    require(
        "reduced", other, holds, "above prior - posterior (the reduced posterior must exist)", NotNestedError
    )
    return big, small, other, after
