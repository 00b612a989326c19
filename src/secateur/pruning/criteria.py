"""What a ranking ranks by: the evidence, or one of the criteria it is compared with.

A score is high where an entry should go first, so every ranking is cut the same way. The evidence alone has
a natural zero; the others say which entry goes before which, not how many.

    evidence          delta_f                                            (nats)
    magnitude         -|mean|
    signal-to-noise   -|mean| / std                                      Graves 2011; arXiv:1505.05424, 5.1
    obd               -(precision - prior_precision) mean^2 / 2          LeCun, Denker & Solla 1990, eq. 4

The last is the rise of the loss by the data's curvature alone, in nats, as optimal brain damage has it. With
the whole precision in its place it would rank single weights as the signal-to-noise ratio does.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from secateur.reduction import delta_f

__all__ = ["CRITERIA", "NEEDS_PRECISION"]


def _evidence(
    mean: Float[Tensor, "*n"], precision: Float[Tensor, "*n"], prior_precision: Float[Tensor, "*#n"]
) -> Float[Tensor, "*n"]:
    return delta_f(mean, precision, prior_precision=prior_precision)


def _magnitude(
    mean: Float[Tensor, "*n"], precision: Float[Tensor, "*n"], prior_precision: Float[Tensor, "*#n"]
) -> Float[Tensor, "*n"]:
    return -mean.abs()


def _signal_to_noise(
    mean: Float[Tensor, "*n"], precision: Float[Tensor, "*n"], prior_precision: Float[Tensor, "*#n"]
) -> Float[Tensor, "*n"]:
    return -mean.abs() * precision.sqrt()


def _obd(
    mean: Float[Tensor, "*n"], precision: Float[Tensor, "*n"], prior_precision: Float[Tensor, "*#n"]
) -> Float[Tensor, "*n"]:
    curvature = (precision - prior_precision).clamp(min=0)  # noise may leave an estimate below the prior's
    return -0.5 * curvature * mean.square()


CRITERIA: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "evidence": _evidence,
    "magnitude": _magnitude,
    "signal-to-noise": _signal_to_noise,
    "obd": _obd,
}
"""Criterion by name: scores from mean, precision and prior precision, each as its parameter is shaped."""

NEEDS_PRECISION = frozenset(CRITERIA) - {"magnitude"}
"""Criteria that a point estimate cannot be judged by."""
