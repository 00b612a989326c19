"""Evidence change when the Gaussian prior of single weights is replaced: the mean-field case.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: any; all arguments broadcast. Results are per weight, never summed here.
Theory: Friston, Parr & Zeidman 2018, arXiv:1805.07092; pruning, Markovic, Friston & Kiebel 2023,
        arXiv:2309.12095.

With posterior N(m, 1/P), prior N(m0, 1/P0) and reduced prior N(r0, 1/R0), the data contributed the
likelihood factor of precision P - P0 and location P m - P0 m0, so the reduced posterior has

    P' = P + R0 - P0,    m' = (P m - P0 m0 + R0 r0) / P'.

Measured from the reduced mean, a = m - r0 and b = m0 - r0, completing the square leaves

    delta_f = 1/2 [ln P - ln P0 + ln R0 - ln P']
            - 1/2 [(R0 - P0) / P' * P a^2 - (R0 + P) / P' * P0 b^2 + 2 P0 / P' * P a b],

in which every ratio stays finite as R0 grows: a point mass is 1/2 [ln P - ln P0 - P a^2 + P0 b^2], the
log Savage-Dickey ratio. All four logarithms are taken apart, so ratios of precisions cannot overflow, and
a result that is finite proves that its arguments were valid.
"""

import math

import torch
from torch import Tensor

from secateur.errors import NotNestedError
from secateur.reduction import _streaming
from secateur.reduction._validation import (
    Values,
    broadcast_shape,
    common_tensors,
    require,
    require_finite,
    require_positive,
    require_positive_or_infinite,
)
from secateur.shapes import Float

__all__ = ["delta_f", "reduced_posterior"]


def delta_f(
    mean: Values,
    precision: Values,
    *,
    prior_precision: Values,
    reduced_precision: Values = math.inf,
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> Float[Tensor, "..."]:
    """Return the log evidence of the reduced over the full model, per weight.

    Args:
        mean: Posterior means under the full prior; any shape.
        precision: Posterior inverse variances under the full prior; positive.
        prior_precision: Inverse variances of the full prior; positive.
        reduced_precision: Inverse variances of the reduced prior; above `prior_precision - precision`.
            `inf`, the default, pins a weight to `reduced_mean`.
        prior_mean: Means of the full prior.
        reduced_mean: Means of the reduced prior.

    Returns:
        Nats per weight, in the shape the arguments broadcast to; positive favours the reduction.
        Without gradients, tensors on the CPU are streamed through in cache-sized chunks.

    Raises:
        InvalidArgumentError: If shapes do not broadcast, a precision is not positive, or a value is not
            finite; or if valid numbers overflow the dtype.
        NotNestedError: If `reduced_precision` is too small for the reduced posterior to exist.

    References:
        arXiv:1805.07092, the Gaussian case of Bayesian model reduction.

    Example:
        >>> import torch
        >>> delta_f(torch.tensor([0.0, 0.5]), 100.0, prior_precision=1.0)
        tensor([  2.3026, -10.1974])
    """
    values = common_tensors(
        mean=mean,
        precision=precision,
        prior_precision=prior_precision,
        reduced_precision=reduced_precision,
        prior_mean=prior_mean,
        reduced_mean=reduced_mean,
    )
    shape = broadcast_shape(**{name: value.shape for name, value in values.items()})
    if _streams(values, shape):
        result, finite = _streamed(values, shape)
    else:
        result = _evidence(**values).expand(shape)
        finite = math.isfinite(result.detach().sum().item())
    if not finite:
        _explain(values, result)
    return result


def reduced_posterior(
    mean: Values,
    precision: Values,
    *,
    prior_precision: Values,
    reduced_precision: Values = math.inf,
    prior_mean: Values = 0.0,
    reduced_mean: Values = 0.0,
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Return mean and precision of the posterior under the reduced prior, per weight.

    Args:
        mean: As for `delta_f`.
        precision: As for `delta_f`.
        prior_precision: As for `delta_f`.
        reduced_precision: As for `delta_f`.
        prior_mean: As for `delta_f`.
        reduced_mean: As for `delta_f`.

    Returns:
        Mean and precision in the shape the arguments broadcast to; `(reduced_mean, inf)` where the reduced
        prior is a point mass.

    Raises:
        InvalidArgumentError: As for `delta_f`.
        NotNestedError: As for `delta_f`.

    Example:
        >>> import torch
        >>> reduced_posterior(torch.tensor(0.5), 100.0, prior_precision=1.0, reduced_precision=101.0)
        (tensor(0.2500), tensor(200.))
    """
    values = common_tensors(
        mean=mean,
        precision=precision,
        prior_precision=prior_precision,
        reduced_precision=reduced_precision,
        prior_mean=prior_mean,
        reduced_mean=reduced_mean,
    )
    shape = broadcast_shape(**{name: value.shape for name, value in values.items()})
    m, p, p0, r, m0, r0 = values.values()
    after = _precision_after(p, p0, r)
    location = r0 + (p * (m - r0) - p0 * (m0 - r0)) / after
    _explain(values, location)  # here a valid result proves nothing: look at every argument
    return location.expand(shape), after.expand(shape)


def _precision_after(precision: Tensor, prior: Tensor, reduced: Tensor) -> Tensor:
    """P + R0 - P0, subtracting P0 first from the one of the others that it may nearly cancel."""
    return torch.where(reduced >= 0.5 * prior, precision + (reduced - prior), (precision - prior) + reduced)


def _evidence(
    mean: Tensor,
    precision: Tensor,
    prior_precision: Tensor,
    reduced_precision: Tensor,
    prior_mean: Tensor,
    reduced_mean: Tensor,
) -> Tensor:
    """The formula of the module, differentiable; where pinned, finite stand-ins keep gradients finite."""
    pinned = reduced_precision == math.inf
    reduced = torch.where(pinned, 1.0, reduced_precision)
    after = torch.where(pinned, 1.0, _precision_after(precision, prior_precision, reduced))
    from_mean, from_prior = mean - reduced_mean, prior_mean - reduced_mean
    both, own = precision * from_mean, prior_precision * from_prior
    misfit = (
        torch.where(pinned, 1.0, (reduced - prior_precision) / after) * both * from_mean
        - torch.where(pinned, 1.0, (reduced + precision) / after) * own * from_prior
        + torch.where(pinned, 0.0, 2 / after) * both * own
    )
    volume = (precision.log() - after.log()) + (reduced.log() - prior_precision.log())
    return 0.5 * (volume - misfit)


def _streams(values: dict[str, Tensor], shape: torch.Size) -> bool:
    """Whether the arguments are one flat run of memory each, need no gradient and exceed a chunk."""
    if shape.numel() <= _streaming.ROW_SIZE or any(v.device.type != "cpu" for v in values.values()):
        return False
    if torch.is_grad_enabled() and any(v.requires_grad for v in values.values()):
        return False
    return all(v.numel() == 1 or (v.shape == shape and v.is_contiguous()) for v in values.values())


def _streamed(values: dict[str, Tensor], shape: torch.Size) -> tuple[Tensor, bool]:
    """Evidence chunk by chunk, and whether all of it is finite: no temporary is larger than a chunk."""
    flat = [v.detach().reshape(()) if v.numel() == 1 else v.detach().reshape(-1) for v in values.values()]
    mean, precision, prior, reduced, prior_mean, reduced_mean = flat
    shared = (prior, reduced, prior_mean, reduced_mean)
    point_mass = all(v.dim() == 0 for v in shared) and reduced.item() == math.inf
    result = torch.empty(shape, dtype=mean.dtype)
    outputs = result.reshape(-1)
    at_prior = prior.log() - prior * (prior_mean - reduced_mean).square() if point_mass else prior

    def pruned(chunk: slice) -> Tensor:
        """The case of pruning: every weight pinned to one value, under one prior."""
        out = torch.log(precision[chunk], out=outputs[chunk])
        out.sub_((mean[chunk] - reduced_mean).square_().mul_(precision[chunk]))
        return out.sub_(at_prior).mul_(0.5)

    def general(chunk: slice) -> Tensor:
        outputs[chunk] = _evidence(*(v if v.dim() == 0 else v[chunk] for v in flat))
        return outputs[chunk]

    work = pruned if point_mass and mean.dim() == precision.dim() == 1 else general
    with torch.no_grad():
        sums = [work(chunk).sum() for chunk in _streaming.chunks(outputs.numel())]
    return result, math.isfinite(torch.stack(sums).sum().item())


def _explain(values: dict[str, Tensor], result: Tensor) -> None:
    """Find what made a result not finite: a bad argument, a prior not nested, or overflow.

    Raises:
        InvalidArgumentError: Naming the argument, or the overflow.
        NotNestedError: If the reduced posterior has no positive precision.
    """
    with torch.no_grad():
        for name in ("mean", "prior_mean", "reduced_mean"):
            require_finite(name, values[name])
        require_positive("precision", values["precision"])
        require_positive("prior_precision", values["prior_precision"])
        require_positive_or_infinite("reduced_precision", values["reduced_precision"])
        reduced = values["reduced_precision"]
        after = _precision_after(values["precision"], values["prior_precision"], reduced)
        require(
            "reduced_precision",
            reduced,
            after > 0,
            "above prior_precision - precision (the reduced posterior must exist)",
            NotNestedError,
        )
        require(
            "mean",
            values["mean"],
            ~result.isnan(),
            f"small enough for {result.dtype} (its misfit overflows; rescale the weights)",
        )
