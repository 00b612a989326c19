"""Which parameters to remove together: search over subsets under a full covariance.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: one model of n parameters; subsets are boolean (n), True where removed.
Theory: post-hoc model selection, Friston & Penny 2011; Rosa, Friston & Penny 2012.

Removing the set S pins w_S at its reduced mean r_S; the others keep the prior they have given that. So
delta_f(S) = ln q(w_S = r_S) - ln p(w_S = r_S), a density ratio of two Gaussian marginals, and a sum of
conditional ones taken one coordinate at a time: after a removal both Gaussians are conditioned on it, a
rank-one update of mean and covariance,

    Σ <- Σ - Σ_k Σ_k^T / Σ_kk,    m <- m - Σ_k (m_k - r_k) / Σ_kk,

and every next removal is again one division per parameter. A subset's posterior weight is
exp(delta_f(S) - log_odds |S|), with `log_odds` the prior log odds of a parameter staying.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._linear_algebra import cholesky, identity_outside, require_symmetric
from secateur.reduction._validation import Values, common_tensors, require_finite, require_last_axes
from secateur.reduction.gaussian import delta_f
from secateur.shapes import Bool, Float

__all__ = ["MAX_EXHAUSTIVE", "SubsetSearch", "conditional_prior", "search_subsets", "single_delta_f"]

MAX_EXHAUSTIVE = 16
"""Parameters up to which all subsets are visited."""


@dataclass(frozen=True)
class SubsetSearch:
    """The models a search visited; the full model, nothing removed, is always the first.

    Attributes:
        removed: Which parameters each model lacks, shape (num_models, n).
        delta_f: Joint log evidence of each model against the full one, nats.
        probability: Posterior probability of each model among those visited.
        best_removed: Which parameters the most probable model lacks.
        keep_probability: For each parameter, the probability of the visited models that keep it.
        method: How models were visited.
    """

    removed: Bool[Tensor, "num_models n"]
    delta_f: Float[Tensor, " num_models"]
    probability: Float[Tensor, " num_models"]
    best_removed: Bool[Tensor, " n"]
    keep_probability: Float[Tensor, " n"]
    method: Literal["exhaustive", "greedy"]


def single_delta_f(
    mean: Values,
    precision: Values,
    *,
    prior_precision: Values,
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> Float[Tensor, "..."]:
    """Return the log evidence of removing each parameter alone, under full covariances.

    Args:
        mean: Posterior mean, shape (*b, n), or a number.
        precision: Posterior inverse covariance, shape (*b, n, n); positive definite. A number is that
            multiple of the identity.
        prior_precision: Prior inverse covariance, likewise.
        prior_mean: Prior mean.
        reduced_mean: Where a removed parameter is pinned.

    Returns:
        Nats, shape (*b, n): the Savage-Dickey ratio of marginals. They do not add up to the joint one.

    Raises:
        InvalidArgumentError: If shapes disagree or a precision is not symmetric positive definite.

    Example:
        >>> import torch
        >>> precision = torch.tensor([[4.0, 3.0], [3.0, 4.0]])
        >>> single_delta_f(torch.zeros(2), precision, prior_precision=torch.eye(2))
        tensor([0.2798, 0.2798])
    """
    values = common_tensors(precision=precision, prior_precision=prior_precision)
    own, prior = (_marginal_precision(name, value) for name, value in values.items())
    return delta_f(mean, own, prior_precision=prior, prior_mean=prior_mean, reduced_mean=reduced_mean)


def conditional_prior(
    removed: Bool[Tensor, "..."],
    *,
    prior_precision: Float[Tensor, "..."],
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Return the prior given that some parameters are pinned, as reduced mean and precision.

    Args:
        removed: Which parameters are pinned, shape (*b, n).
        prior_precision: Prior inverse covariance, shape (*b, n, n); positive definite.
        prior_mean: Prior mean, shape (*b, n) or a number.
        reduced_mean: Where removed parameters are pinned, shape (*b, n) or a number.

    Returns:
        Mean (*b, n): pinned values, and the conditional prior mean of the others given them. Precision
        (*b, n, n): the prior's, with `inf` on the diagonal where pinned.
    """
    size = removed.shape[-1]
    values = common_tensors(prior_precision=prior_precision, prior_mean=prior_mean, reduced_mean=reduced_mean)
    p0, m0, r0 = values["prior_precision"], values["prior_mean"], values["reduced_mean"]
    shift = torch.where(removed, r0 - m0, 0.0)
    pull = torch.where(removed, 0.0, (p0 @ shift.unsqueeze(-1)).squeeze(-1))
    block = identity_outside(p0, ~removed)
    moved = torch.linalg.solve(block, pull.unsqueeze(-1)).squeeze(-1)
    return torch.where(removed, r0, m0 - moved), torch.where(torch.diag_embed(removed), torch.inf, p0).expand(
        *removed.shape[:-1], size, size
    )


def search_subsets(
    mean: Float[Tensor, "..."],
    precision: Float[Tensor, "..."],
    *,
    prior_precision: Float[Tensor, "..."],
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
    log_odds: float | int = 0.0,
    method: Literal["exhaustive", "greedy"] | None = None,
) -> SubsetSearch:
    """Look for the subset of parameters whose removal the evidence favours most.

    Args:
        mean: Posterior mean, shape (n).
        precision: Posterior inverse covariance, shape (n, n); positive definite.
        prior_precision: Prior inverse covariance, shape (n, n); positive definite.
        prior_mean: Prior mean, shape (n) or a number.
        reduced_mean: Where removed parameters are pinned, shape (n) or a number.
        log_odds: Prior log odds of each parameter staying, nats; zero gives all subsets equal weight.
        method: "exhaustive" visits all 2^n subsets (n <= 16). "greedy" removes the parameter with the most
            evidence, updates all others, and goes on until none is left; it visits n + 1 subsets. By default
            exhaustive where possible.

    Returns:
        All visited models with evidence and probability, computed in float64.

    Raises:
        InvalidArgumentError: If shapes disagree, a precision is not symmetric positive definite, or there are
            too many parameters for an exhaustive search.

    References:
        Friston & Penny 2011, post-hoc Bayesian model selection.

    Example:
        >>> import torch
        >>> found = search_subsets(
        ...     torch.tensor([2.0, 0.1]), 50 * torch.eye(2), prior_precision=torch.eye(2)
        ... )
        >>> found.best_removed
        tensor([False,  True])
    """
    m, p, p0, m0, r0 = one_model(mean, precision, prior_precision, prior_mean, reduced_mean)
    size = m.shape[-1]
    if method is None:
        method = "exhaustive" if size <= MAX_EXHAUSTIVE else "greedy"
    if method == "exhaustive" and size > MAX_EXHAUSTIVE:
        raise InvalidArgumentError(
            f"mean must have at most {MAX_EXHAUSTIVE} entries to search exhaustively, got {size}; use greedy"
        )
    gaussians = (_Gaussian(m - r0, _covariance(p)), _Gaussian(m0 - r0, _covariance(p0)))
    removed, evidence = _exhaustive(*gaussians) if method == "exhaustive" else _greedy(*gaussians)
    probability = torch.softmax(evidence - log_odds * removed.sum(-1), 0)
    keep_probability = probability @ (~removed).to(m.dtype)
    return SubsetSearch(
        removed, evidence, probability, removed[probability.argmax()], keep_probability, method
    )


@dataclass(frozen=True)
class _Gaussian:
    """Marginal Gaussians measured from the reduced mean, one per model of a batch."""

    mean: Tensor
    covariance: Tensor

    def log_density_at_zero(self) -> Tensor:
        """Of each coordinate alone, without the constant that posterior and prior share."""
        variance = self.covariance.diagonal(dim1=-2, dim2=-1)
        return -0.5 * (variance.log() + self.mean.square() / variance)

    def given(self, k: int) -> "_Gaussian":
        """Condition on coordinate k being zero."""
        gain = self.covariance[..., :, k] / self.covariance[..., k : k + 1, k]
        return _Gaussian(
            self.mean - gain * self.mean[..., k : k + 1],
            self.covariance - gain.unsqueeze(-1) * self.covariance[..., k : k + 1, :],
        )

    def without(self, k: int) -> "_Gaussian":
        """Drop coordinate k, that is integrate over it."""
        rest = [i for i in range(self.mean.shape[-1]) if i != k]
        return _Gaussian(self.mean[..., rest], self.covariance[..., rest, :][..., rest])


def _exhaustive(posterior: _Gaussian, prior: _Gaussian) -> tuple[Tensor, Tensor]:
    """Decide one coordinate after another: models double while the undecided coordinates shrink."""
    size = posterior.mean.shape[-1]
    posterior, prior = (_Gaussian(g.mean[None], g.covariance[None]) for g in (posterior, prior))
    evidence = torch.zeros(1, dtype=posterior.mean.dtype, device=posterior.mean.device)
    removed = torch.zeros(1, 0, dtype=torch.bool, device=evidence.device)
    for _ in range(size):
        gain = posterior.log_density_at_zero()[:, 0] - prior.log_density_at_zero()[:, 0]
        evidence = torch.cat([evidence, evidence + gain])
        column = torch.zeros(2 * len(removed), 1, dtype=torch.bool, device=evidence.device)
        column[len(removed) :] = True
        removed = torch.cat([removed.repeat(2, 1), column], -1)
        posterior, prior = (_both_ways(g) for g in (posterior, prior))
    return removed, evidence


def _both_ways(gaussian: _Gaussian) -> _Gaussian:
    """The rest if the first coordinate stays (integrated over), and if it goes (conditioned on)."""
    stays, goes = gaussian.without(0), gaussian.given(0).without(0)
    return _Gaussian(torch.cat([stays.mean, goes.mean]), torch.cat([stays.covariance, goes.covariance]))


def _greedy(posterior: _Gaussian, prior: _Gaussian) -> tuple[Tensor, Tensor]:
    """Remove the parameter with the most evidence, condition on it, and look at all the others again."""
    size = posterior.mean.shape[-1]
    left = list(range(size))
    removed = torch.zeros(size + 1, size, dtype=torch.bool, device=posterior.mean.device)
    evidence = [torch.zeros((), dtype=posterior.mean.dtype, device=posterior.mean.device)]
    for step in range(1, size + 1):
        gains = posterior.log_density_at_zero() - prior.log_density_at_zero()
        k = int(gains.argmax())
        evidence.append(evidence[-1] + gains[k])
        removed[step] = removed[step - 1]
        removed[step, left.pop(k)] = True
        posterior, prior = posterior.given(k).without(k), prior.given(k).without(k)
    return removed, torch.stack(evidence)


def one_model(
    mean: Tensor, precision: Tensor, prior_precision: Tensor, prior_mean: Values, reduced_mean: Values
) -> tuple[Tensor, ...]:
    """Check the arguments that describe a single model.

    Args:
        mean: As for `search_subsets`.
        precision: As for `search_subsets`.
        prior_precision: As for `search_subsets`.
        prior_mean: As for `search_subsets`.
        reduced_mean: As for `search_subsets`.

    Returns:
        Mean, precision, prior precision, prior mean and reduced mean, shapes (n) and (n, n).

    Raises:
        InvalidArgumentError: If one does not fit.
    """
    values = common_tensors(
        mean=mean,
        precision=precision,
        prior_precision=prior_precision,
        prior_mean=prior_mean,
        reduced_mean=reduced_mean,
    )
    # Many rank-one updates follow one another; in float32 their rounding would add up.
    values = {name: value.to(torch.float64) for name, value in values.items()}
    m = values["mean"]
    if m.dim() != 1:
        raise InvalidArgumentError(f"mean must have shape (n,), got {tuple(m.shape)}")
    for name in ("precision", "prior_precision"):
        require_last_axes(name, values[name], len(m), len(m))
        require_symmetric(name, values[name])
        cholesky(name, values[name])
    for name in ("mean", "prior_mean", "reduced_mean"):
        if values[name].shape not in (torch.Size(), m.shape):
            raise InvalidArgumentError(f"{name} must have shape ({len(m)},), got {tuple(values[name].shape)}")
        require_finite(name, values[name])
    p, p0, m0, r0 = (values[name] for name in ("precision", "prior_precision", "prior_mean", "reduced_mean"))
    return m, p, p0, m0.expand_as(m), r0.expand_as(m)


def _covariance(precision: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(precision))


def _marginal_precision(name: str, precision: Tensor) -> Tensor:
    """Inverse variances of the marginals; a number is that of each."""
    if precision.dim() == 0:
        return precision
    require_last_axes(name, precision, *precision.shape[-1:] * 2)
    require_symmetric(name, precision.detach())
    return 1 / torch.cholesky_inverse(cholesky(name, precision)).diagonal(dim1=-2, dim2=-1)
