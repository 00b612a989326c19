"""Bayesian model averaging over the models a search has visited.

Shapes: one model of n parameters.
Theory: Hoeting et al. 1999; reduced posteriors in closed form, Friston & Penny 2011.

With weights π_M and reduced posteriors N(m_M, Σ_M) the mixture has mean Σ π_M m_M and covariance
Σ π_M (Σ_M + m_M m_M^T) minus the outer product of its mean.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.reduction._validation import Values, require_last_axes
from secateur.reduction.dense import dense_reduced_posterior
from secateur.reduction.search import SubsetSearch, conditional_prior, one_model
from secateur.shapes import Float

__all__ = ["ModelAverage", "average_models"]

MODELS_AT_ONCE = 4096
"""Reduced posteriors computed in one batch."""


@dataclass(frozen=True)
class ModelAverage:
    """Mean and covariance of the parameters, averaged over models.

    Attributes:
        mean: Averaged mean.
        covariance: Covariance within the models plus that of their means; singular if all pin a parameter.
        num_models: Models that entered the average.
    """

    mean: Float[Tensor, " n"]
    covariance: Float[Tensor, "n n"]
    num_models: int


def average_models(
    search: SubsetSearch,
    mean: Float[Tensor, "..."],
    precision: Float[Tensor, "..."],
    *,
    prior_precision: Float[Tensor, "..."],
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
    tail: float = 1e-9,
) -> ModelAverage:
    """Average the parameters over the models a search visited, weighted by their probability.

    Args:
        search: What `search_subsets` returned for the same posterior.
        mean: As given to the search.
        precision: As given to the search.
        prior_precision: As given to the search.
        prior_mean: As given to the search.
        reduced_mean: As given to the search.
        tail: Total probability of the least probable models, which are left out.

    Returns:
        Mean and covariance of the mixture of all reduced posteriors.

    Raises:
        InvalidArgumentError: If the arguments do not fit each other.
    """
    m, p, p0, m0, r0 = one_model(mean, precision, prior_precision, prior_mean, reduced_mean)
    require_last_axes("search.removed", search.removed, m.shape[-1])
    ordered, order = search.probability.sort(descending=True)
    wanted = order[ordered.cumsum(0) - ordered < 1 - tail]
    weights = search.probability[wanted] / search.probability[wanted].sum()

    average, second = torch.zeros_like(m), torch.zeros_like(p)
    for start in range(0, len(wanted), MODELS_AT_ONCE):
        pins = search.removed[wanted[start : start + MODELS_AT_ONCE]]
        kept_mean, kept_precision = conditional_prior(
            pins, prior_precision=p0, prior_mean=m0, reduced_mean=r0
        )
        means, precisions = dense_reduced_posterior(
            m, p, prior_precision=p0, prior_mean=m0, reduced_mean=kept_mean, reduced_precision=kept_precision
        )
        finite = torch.where(torch.diag_embed(pins), 1.0, precisions)
        covariances = torch.linalg.inv(finite) - torch.diag_embed(pins.to(m.dtype))
        weight = weights[start : start + MODELS_AT_ONCE]
        centred = means - m  # moments about the full mean, so that large means do not cancel
        average = average + weight @ centred
        outer = centred.unsqueeze(-1) * centred.unsqueeze(-2)
        second = second + torch.einsum("b,bij->ij", weight, covariances + outer)
    return ModelAverage(m + average, second - torch.outer(average, average), len(wanted))
