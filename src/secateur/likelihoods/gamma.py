"""Quantiles of the Gamma distribution, which torch does not have."""

import torch
from torch import Tensor

__all__ = ["gamma_quantiles"]


def gamma_quantiles(concentration: float) -> Tensor:
    """Return equally likely values that stand for a Gamma distribution of rate 1, in double precision.

    Args:
        concentration: Shape of the distribution.
    """
    number = 64 if concentration < 100 else 8  # a narrow distribution needs few
    wanted = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    shape = torch.full_like(wanted, concentration)
    low, high = torch.zeros_like(wanted), shape + 10 * shape.sqrt() + 20  # the last quantile is below
    for _ in range(80):
        middle = (low + high) / 2
        below = torch.special.gammainc(shape, middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high
