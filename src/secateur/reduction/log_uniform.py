"""Evidence change for multiplicative noise: gates with a log-uniform prior.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours removing the gated unit.
Shapes: any; one gate per unit, all arguments broadcast.
Theory: Wright, Igel & Selvan 2024, arXiv:2406.01345 (BMRS); the gates, Neklyudov et al. 2017.

A gate θ in [a, b] multiplies a unit's output. With y = ln θ its prior is uniform on [ln a, ln b] and its
posterior is N(μ, σ²) cut to that interval. Two reduced priors shrink it to its lower end:

* log-normal (BMRS_N): y ~ N(μ1, σ1²) cut alike, by default all but a point at ln a. The product of the two
  normal densities is normal again, with mean (μ + r μ1) / (1 + r), variance σ1² r / (1 + r), r = σ² / σ1²:

      delta_f = ln(ln b - ln a) + ln Z' - ln Z1 - ln Z - 1/2 ln 2π(σ² + σ1²) - (μ - μ1)² / 2(σ² + σ1²)

  with Z, Z1, Z' the masses in [ln a, ln b] of posterior, reduced prior and product. It is the published
  formula, 2π included, without its differences of squares over σ1² (which is 1e-12).

* log-uniform (BMRS_U): y uniform on a shorter interval [ln a1, ln b1]:

      delta_f = ln (ln b - ln a) / (ln b1 - ln a1) + ln Z[a1, b1] - ln Z.
"""

import math

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._validation import (
    Values,
    broadcast_shape,
    common_tensors,
    require_finite,
    require_positive,
)
from secateur.shapes import Float

__all__ = ["LOWER", "UPPER", "log_normal_gate_delta_f", "log_uniform_gate_delta_f"]

LOWER = -20.0
"""ln a of the published gates."""
UPPER = 0.0
"""ln b of the published gates."""


def log_normal_gate_delta_f(
    log_mean: Values,
    log_std: Values,
    *,
    reduced_log_mean: Values = LOWER,
    reduced_log_std: Values = 1e-6,
    lower: float = LOWER,
    upper: float = UPPER,
) -> Float[Tensor, "..."]:
    """Return the log evidence of shrinking gates to a log-normal near their lower end (BMRS_N).

    Args:
        log_mean: μ, location of ln θ before it is cut to the interval; any real number.
        log_std: σ, its standard deviation before the cut; positive.
        reduced_log_mean: Location of the reduced prior of ln θ.
        reduced_log_std: Its standard deviation; positive. The published variance is 1e-12.
        lower: ln a.
        upper: ln b.

    Returns:
        Nats per gate; remove the unit where positive.

    Raises:
        InvalidArgumentError: If an argument is out of range.

    References:
        arXiv:2406.01345, the truncated log-normal reduction.

    Example:
        >>> bool(log_normal_gate_delta_f(-18.0, 2.0) > 0), bool(log_normal_gate_delta_f(-0.5, 0.2) > 0)
        (True, False)
    """
    _require_interval("lower", lower, "upper", upper)
    values = common_tensors(
        log_mean=log_mean, log_std=log_std, reduced_log_mean=reduced_log_mean, reduced_log_std=reduced_log_std
    )
    mean, std, target, width = _checked(values)
    total = std.square() + width.square()
    shift = (mean - target) * width.square() / total  # of the product's mean from the reduced mean
    joint_std = std * width / total.sqrt()
    gap = (mean - target) / total.sqrt()
    return (
        math.log(upper - lower)
        + log_normal_mass((lower - target - shift) / joint_std, (upper - target - shift) / joint_std)
        - log_normal_mass((lower - target) / width, (upper - target) / width)
        - log_normal_mass((lower - mean) / std, (upper - mean) / std)
        - 0.5 * (2 * math.pi * total).log()
        - 0.5 * gap.square()
    )


def log_uniform_gate_delta_f(
    log_mean: Values,
    log_std: Values,
    *,
    reduced_upper: float,
    reduced_lower: float = LOWER,
    lower: float = LOWER,
    upper: float = UPPER,
) -> Float[Tensor, "..."]:
    """Return the log evidence of confining gates to a shorter interval (BMRS_U).

    Args:
        log_mean: μ, location of ln θ before it is cut to the interval; any real number.
        log_std: σ, its standard deviation before the cut; positive.
        reduced_upper: ln b1, above which a gate counts as open: with k bits to store it, -k ln 2.
        reduced_lower: ln a1.
        lower: ln a.
        upper: ln b.

    Returns:
        Nats per gate; remove the unit where positive.

    Raises:
        InvalidArgumentError: If an argument is out of range or the reduced interval is not inside the full.

    References:
        arXiv:2406.01345, the truncated log-uniform reduction.

    Example:
        >>> round(log_uniform_gate_delta_f(-15.0, 1.0, reduced_upper=-10.0).item(), 4)  # ln 2: all inside
        0.6931
    """
    _require_interval("lower", lower, "upper", upper)
    _require_interval("reduced_lower", reduced_lower, "reduced_upper", reduced_upper)
    if reduced_lower < lower or reduced_upper > upper:
        raise InvalidArgumentError(
            f"reduced_lower and reduced_upper must lie in [{lower:g}, {upper:g}], "
            f"got [{reduced_lower:g}, {reduced_upper:g}]"
        )
    mean, std = _checked(common_tensors(log_mean=log_mean, log_std=log_std))
    return (
        math.log((upper - lower) / (reduced_upper - reduced_lower))
        + log_normal_mass((reduced_lower - mean) / std, (reduced_upper - mean) / std)
        - log_normal_mass((lower - mean) / std, (upper - mean) / std)
    )


def log_normal_mass(lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the log of a standard normal's mass in an interval, also far out in a tail.

    Args:
        lower: Standardised lower end.
        upper: Standardised upper end, above `lower`.

    Returns:
        ln [Φ(upper) - Φ(lower)].
    """
    mirrored = lower > 0  # of the two tails take the one below zero, where Φ is not rounded to one
    low, high = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return log_high + torch.log(-torch.expm1(log_low - log_high))


def _checked(values: dict[str, Tensor]) -> list[Tensor]:
    """The arguments broadcast, standard deviations positive and the rest finite."""
    shape = broadcast_shape(**{name: value.shape for name, value in values.items()})
    for name, value in values.items():
        (require_positive if name.endswith("std") else require_finite)(name, value)
    return [value.expand(shape) for value in values.values()]


def _require_interval(low_name: str, low: float, high_name: str, high: float) -> None:
    if not -math.inf < low < high < math.inf:
        raise InvalidArgumentError(f"{high_name} must be above {low_name}, got [{low:g}, {high:g}]")
