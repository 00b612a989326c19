"""Evidence change when a multivariate Gaussian prior is replaced, under a full covariance.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: means (*b, n), precisions (*b, n, n); one result per batch entry.
Theory: Friston & Penny 2011; Friston, Parr & Zeidman 2018, arXiv:1805.07092.

Posterior N(m, P^-1), prior N(m0, P0^-1), reduced prior N(r0, R0^-1), all measured from the reduced mean:
a = m - r0, b = m0 - r0. Some coordinates S may be pinned, w_S = r0_S exactly; F are the others. Completing
the square over the free coordinates alone,

    P' = (P + R0 - P0)_FF,    x_F = P'^-1 (P a - P0 b)_F,    x_S = 0,
    delta_f = 1/2 [ln|P| - ln|P0| + ln|R0_FF| - ln|P'|] - 1/2 [(P a).(a - x) - (P0 b).(b - x)],

and r0 + x is the reduced posterior mean. Point masses enter as the absence of rows, not as large numbers,
and each batch entry may pin coordinates of its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import NotNestedError
from secateur.reduction._linear_algebra import (
    cholesky,
    identity_outside,
    log_determinant,
    quadratic,
    require_symmetric,
    solve,
)
from secateur.reduction._validation import (
    Values,
    broadcast_shape,
    common_tensors,
    require_finite,
    require_last_axes,
)
from secateur.shapes import Float

__all__ = ["dense_delta_f", "dense_reduced_posterior"]

NESTED = "large enough for precision + reduced_precision - prior_precision to be positive definite"


def dense_delta_f(
    mean: Float[Tensor, "..."],
    precision: Float[Tensor, "..."],
    *,
    prior_precision: Float[Tensor, "..."],
    reduced_precision: Float[Tensor, "..."],
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> Float[Tensor, "..."]:
    """Return the log evidence of the reduced over the full model, per batch entry.

    Args:
        mean: Posterior mean, shape (*b, n).
        precision: Posterior inverse covariance, shape (*b, n, n); positive definite.
        prior_precision: Inverse covariance of the full prior, shape (*b, n, n); positive definite.
        reduced_precision: Inverse covariance of the reduced prior, shape (*b, n, n). A diagonal entry `inf`
            pins its coordinate to `reduced_mean`; the rest of its row and column is not read.
        prior_mean: Mean of the full prior, shape (*b, n) or a number.
        reduced_mean: Mean of the reduced prior, shape (*b, n) or a number.

    Returns:
        Nats, shape (*b).

    Raises:
        InvalidArgumentError: If shapes disagree, a value is not finite, or a precision is not symmetric
            positive definite.
        NotNestedError: If the reduced posterior does not exist.

    References:
        arXiv:1805.07092, the Gaussian case of Bayesian model reduction.

    Example:
        >>> import torch
        >>> precision = torch.tensor([[4.0, 1.0], [1.0, 4.0]])
        >>> drop_first = torch.tensor([[torch.inf, 0.0], [0.0, 1.0]])
        >>> dense_delta_f(
        ...     torch.zeros(2), precision, prior_precision=torch.eye(2), reduced_precision=drop_first
        ... )
        tensor(0.6609)
    """
    step = complete_square(mean, precision, prior_precision, reduced_precision, prior_mean, reduced_mean)
    return 0.5 * (step.volume - step.misfit)


def dense_reduced_posterior(
    mean: Float[Tensor, "..."],
    precision: Float[Tensor, "..."],
    *,
    prior_precision: Float[Tensor, "..."],
    reduced_precision: Float[Tensor, "..."],
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Return mean and precision of the posterior under the reduced prior.

    Args:
        mean: As for `dense_delta_f`.
        precision: As for `dense_delta_f`.
        prior_precision: As for `dense_delta_f`.
        reduced_precision: As for `dense_delta_f`.
        prior_mean: As for `dense_delta_f`.
        reduced_mean: As for `dense_delta_f`.

    Returns:
        Mean (*b, n) and precision (*b, n, n). A pinned coordinate has its reduced mean, `inf` on the
        diagonal and zeros beside it; to reduce further, go on with the free coordinates.

    Raises:
        InvalidArgumentError: As for `dense_delta_f`.
        NotNestedError: As for `dense_delta_f`.
    """
    step = complete_square(mean, precision, prior_precision, reduced_precision, prior_mean, reduced_mean)
    return step.mean, with_pins(step.precision, step.free)


@dataclass(frozen=True)
class CompletedSquare:
    """What completing the square over the free coordinates leaves.

    Attributes:
        volume: Difference of log determinants, shape (*b).
        misfit: Difference of quadratic forms, shape (*b).
        mean: Reduced posterior mean, shape (*b, n).
        precision: Reduced posterior precision; the identity where pinned, shape (*b, n, n).
        free: False where pinned, shape (*b, n).
    """

    volume: Tensor
    misfit: Tensor
    mean: Tensor
    precision: Tensor
    free: Tensor


def complete_square(
    mean: Tensor,
    precision: Tensor,
    prior_precision: Tensor,
    reduced_precision: Tensor,
    prior_mean: Values,
    reduced_mean: Values,
) -> CompletedSquare:
    """Check the arguments and complete the square of the module header.

    Args:
        mean: As for `dense_delta_f`.
        precision: As for `dense_delta_f`.
        prior_precision: As for `dense_delta_f`.
        reduced_precision: As for `dense_delta_f`.
        prior_mean: As for `dense_delta_f`.
        reduced_mean: As for `dense_delta_f`.

    Returns:
        The terms of delta_f, and the reduced posterior.
    """
    values = common_tensors(
        mean=mean,
        precision=precision,
        prior_precision=prior_precision,
        reduced_precision=reduced_precision,
        prior_mean=prior_mean,
        reduced_mean=reduced_mean,
    )
    m, p, p0, r, m0, r0 = values.values()
    require_last_axes("mean", m, m.shape[-1] if m.dim() else 1)
    size = m.shape[-1]
    for name in ("precision", "prior_precision", "reduced_precision"):
        require_last_axes(name, values[name], size, size)
    broadcast_shape(
        mean=m.shape[:-1],
        precision=p.shape[:-2],
        prior_precision=p0.shape[:-2],
        reduced_precision=r.shape[:-2],
        prior_mean=m0.shape[:-1],
        reduced_mean=r0.shape[:-1],
    )
    for name in ("prior_mean", "reduced_mean"):
        broadcast_shape(mean=torch.Size([size]), **{name: values[name].shape[-1:]})
        require_finite(name, values[name])
    require_finite("mean", m)

    free = r.diagonal(dim1=-2, dim2=-1) != torch.inf
    r = identity_outside(r, free)
    for name, matrix in (("precision", p), ("prior_precision", p0), ("reduced_precision", r)):
        require_symmetric(name, matrix.detach())
    after = identity_outside(p + (r - p0), free)
    volume = log_determinant(cholesky("precision", p)) - log_determinant(cholesky("prior_precision", p0))
    volume = volume + log_determinant(cholesky("reduced_precision", r))
    factor = cholesky("reduced_precision", after, NESTED, NotNestedError)
    volume = volume - log_determinant(factor)

    from_mean, from_prior = m - r0, m0 - r0
    from_prior = from_prior.expand(*from_prior.shape[:-1], size)
    own, prior_own = _apply(p, from_mean), _apply(p0, from_prior)
    moved = solve(*_batched(factor, torch.where(free, own - prior_own, 0.0)))
    misfit = quadratic(own, from_mean - moved) - quadratic(prior_own, from_prior - moved)
    return CompletedSquare(volume, misfit, r0 + moved, after, free)


def with_pins(precision: Tensor, free: Tensor) -> Tensor:
    """Write `inf` on the diagonal where a coordinate is not free.

    Args:
        precision: The identity where pinned, shape (*b, n, n).
        free: Boolean, shape (*b, n).

    Returns:
        Shape (*b, n, n).
    """
    pinned = torch.diag_embed(~free)
    return torch.where(pinned, torch.inf, precision)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _batched(factor: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the same batch axes, as a Cholesky solve wants them."""
    batch = torch.broadcast_shapes(factor.shape[:-2], vector.shape[:-1])
    return factor.expand(*batch, *factor.shape[-2:]), vector.expand(*batch, vector.shape[-1])
