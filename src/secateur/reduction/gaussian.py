"""Evidence change when the Gaussian prior of single weights is replaced: the mean-field case.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: any; all arguments broadcast. Results are per weight, never summed here.
Theory: Friston, Parr & Zeidman 2018, arXiv:1805.07092; pruning, Markovic, Friston & Kiebel 2023,
        arXiv:2309.12095.

With posterior N(m, 1/P), prior N(m0, 1/P0) and reduced prior N(r0, 1/R0), the data contributed the
likelihood factor of precision L = P - P0 and location l = P m - P0 m0, so the reduced posterior has

    P' = L + R0,    m' = (l + R0 r0) / P'.

Written with differences from the reduced mean r0, every term stays finite as R0 grows to infinity, so
a point mass is an ordinary value of `reduced_precision` and not a limit taken by hand.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.errors import InvalidArgumentError, NotNestedError

__all__ = ["delta_f", "reduced_posterior"]


def delta_f(
    mean: Float[Tensor, "*n"],
    precision: Float[Tensor, "*#n"],
    *,
    prior_precision: Float[Tensor, "*#n"] | float,
    reduced_precision: Float[Tensor, "*#n"] | float = math.inf,
    prior_mean: Float[Tensor, "*#n"] | float = 0.0,
    reduced_mean: Float[Tensor, "*#n"] | float = 0.0,
) -> Float[Tensor, "*n"]:
    """Return the log evidence of the reduced over the full model, per weight."""
    precision, prior, reduced = (
        torch.as_tensor(v, dtype=mean.dtype, device=mean.device)
        for v in (precision, prior_precision, reduced_precision)
    )
    learned = precision - prior
    widening = learned / reduced  # 0 for a point mass
    if not (widening > -1).all():
        raise NotNestedError("reduced_precision must exceed prior_precision - precision everywhere")
    if not ((precision > 0) & (prior > 0)).all():
        raise InvalidArgumentError("precision and prior_precision must be positive everywhere")
    from_mean, from_prior = mean - reduced_mean, torch.as_tensor(prior_mean - reduced_mean, dtype=mean.dtype)
    share = 1 / (1 + widening)
    misfit = share * (
        precision * (1 - prior / reduced) * from_mean.square()
        - prior * (1 + precision / reduced) * from_prior.square()
        + 2 * precision * (prior / reduced) * from_mean * from_prior
    )
    return 0.5 * ((precision / prior).log() - widening.log1p() - misfit)


def reduced_posterior(
    mean: Float[Tensor, "*n"],
    precision: Float[Tensor, "*#n"],
    *,
    prior_precision: Float[Tensor, "*#n"] | float,
    reduced_precision: Float[Tensor, "*#n"] | float = math.inf,
    prior_mean: Float[Tensor, "*#n"] | float = 0.0,
    reduced_mean: Float[Tensor, "*#n"] | float = 0.0,
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Return mean and precision of the posterior under the reduced prior, per weight."""
    after = precision - prior_precision + reduced_precision
    location = precision * (mean - reduced_mean) - prior_precision * (prior_mean - reduced_mean)
    return reduced_mean + location / after, after + torch.zeros_like(mean)
