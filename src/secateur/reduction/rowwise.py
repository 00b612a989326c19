"""Evidence change per output unit, each with a full covariance over its incoming weights.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: means (*b, rows, n), precisions (*b, rows, n, n); priors are diagonal, (*b, rows, n) or anything
        that broadcasts to it. One result per row, never summed here.
Theory: Markovic, Friston & Kiebel 2023, arXiv:2309.12095, the multivariate posterior per row.

Rows are independent, so each is the dense case with a diagonal prior; its log determinant is the sum of
the logs of prior precisions, and enters with the factor one half that all Gaussian volumes have.
"""

import math

import torch
from torch import Tensor

from secateur.reduction._validation import (
    Values,
    broadcast_shape,
    common_tensors,
    require_last_axes,
    require_positive,
    require_positive_or_infinite,
)
from secateur.reduction.dense import complete_square, with_pins
from secateur.shapes import Float

__all__ = ["rowwise_delta_f", "rowwise_reduced_posterior"]


def rowwise_delta_f(
    mean: Float[Tensor, "..."],
    precision: Float[Tensor, "..."],
    *,
    prior_precision: Values,
    reduced_precision: Values = math.inf,
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> Float[Tensor, "..."]:
    """Return the log evidence of the reduced over the full model, per row.

    Args:
        mean: Posterior means, shape (*b, rows, n).
        precision: Posterior inverse covariances, shape (*b, rows, n, n); positive definite.
        prior_precision: Inverse variances of the full prior; positive, broadcasts to (*b, rows, n).
        reduced_precision: Inverse variances of the reduced prior; `inf` pins a weight. The default removes
            whole rows; pin single weights by a tensor of shape (*b, rows, n).
        prior_mean: Means of the full prior.
        reduced_mean: Means of the reduced prior.

    Returns:
        Nats, shape (*b, rows).

    Raises:
        InvalidArgumentError: If shapes disagree, or a precision is not positive (definite).
        NotNestedError: If the reduced posterior of a row does not exist.

    References:
        arXiv:2309.12095; arXiv:1805.07092.

    Example:
        >>> import torch
        >>> precision = 9 * torch.eye(3).expand(2, 3, 3)
        >>> rowwise_delta_f(torch.zeros(2, 3), precision, prior_precision=1.0)
        tensor([3.2958, 3.2958])
    """
    step = complete_square(
        mean,
        precision,
        *_matrices(mean, precision, prior_precision, reduced_precision),
        prior_mean,
        reduced_mean,
    )
    return 0.5 * (step.volume - step.misfit)


def rowwise_reduced_posterior(
    mean: Float[Tensor, "..."],
    precision: Float[Tensor, "..."],
    *,
    prior_precision: Values,
    reduced_precision: Values = math.inf,
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Return means and precisions of the posterior under the reduced prior.

    Args:
        mean: As for `rowwise_delta_f`.
        precision: As for `rowwise_delta_f`.
        prior_precision: As for `rowwise_delta_f`.
        reduced_precision: As for `rowwise_delta_f`.
        prior_mean: As for `rowwise_delta_f`.
        reduced_mean: As for `rowwise_delta_f`.

    Returns:
        Means (*b, rows, n) and precisions (*b, rows, n, n), with `inf` on the diagonal where pinned.

    Raises:
        InvalidArgumentError: As for `rowwise_delta_f`.
        NotNestedError: As for `rowwise_delta_f`.
    """
    step = complete_square(
        mean,
        precision,
        *_matrices(mean, precision, prior_precision, reduced_precision),
        prior_mean,
        reduced_mean,
    )
    return step.mean, with_pins(step.precision, step.free)


def _matrices(mean: Tensor, precision: Tensor, prior: Values, reduced: Values) -> tuple[Tensor, Tensor]:
    """Diagonal priors as matrices over the last axis, after checking them."""
    values = common_tensors(mean=mean, precision=precision, prior_precision=prior, reduced_precision=reduced)
    require_last_axes("precision", values["precision"], *_last_two(mean))
    prior_precision, reduced_precision = values["prior_precision"], values["reduced_precision"]
    broadcast_shape(
        mean=mean.shape, prior_precision=prior_precision.shape, reduced_precision=reduced_precision.shape
    )
    require_positive("prior_precision", prior_precision)
    require_positive_or_infinite("reduced_precision", reduced_precision)
    size = mean.shape[-1]
    return _diagonal(prior_precision, size), _diagonal(reduced_precision, size)


def _diagonal(values: Tensor, size: int) -> Tensor:
    """Matrices with these values on the diagonal, repeated where the last axis is shared."""
    return torch.diag_embed(values.expand(*values.shape[:-1], size))


def _last_two(mean: Tensor) -> tuple[int, int]:
    """The sizes a row's precision must have."""
    size = mean.shape[-1] if mean.dim() else 1
    return size, size
