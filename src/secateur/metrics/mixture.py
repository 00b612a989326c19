"""Log densities under a mixture of posterior samples: of each datum, and of all data jointly."""

import math

from jaxtyping import Float
from torch import Tensor

__all__ = ["joint_log_density", "mixture_log_density"]


def mixture_log_density(log_densities: Float[Tensor, "*n s"]) -> Float[Tensor, "*n"]:
    """Return the log of the density averaged over samples, ln [1/S sum_s p_s], of each datum.

    Args:
        log_densities: Log density under each sample, samples in the last axis.
    """
    return log_densities.logsumexp(-1) - math.log(log_densities.shape[-1])


def joint_log_density(log_likelihoods: Float[Tensor, "*s n"]) -> float:
    """Return the log density of all data jointly, averaged over samples, divided by n.

    Args:
        log_likelihoods: ln p(datum) under each sample; without the leading axis, of one sample.

    Returns:
        1/n ln [1/S sum_s prod_i p(y_i | w_s)], in nats per datum.
    """
    joint = log_likelihoods.double().sum(-1).reshape(-1)
    return ((joint.logsumexp(0) - math.log(len(joint))) / log_likelihoods.shape[-1]).item()
