"""How good predictions of numbers and counts are.

A prediction of a number is a mixture of Gaussians with a mean for each posterior sample and one or several
noise variances, all equally likely (several stand for the distribution of a learned noise).

Shapes: *n numbers to predict, s posterior samples, v noise variances.
Sign:   the errors, the deviance and the continuous ranked probability score fall as predictions improve; a
        coverage should be at its level.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Intervals",
    "continuous_ranked_probability_score",
    "coverage",
    "intervals",
    "mixture_rank",
    "poisson_deviance",
    "root_mean_squared_error",
]

PAIR_VARIANCES = 64  # kept of the v * v sums of two noise variances
NUMBERS_AT_ONCE = 1 << 22


def root_mean_squared_error(predicted: Float[Tensor, "*n"], targets: Float[Tensor, "*n"]) -> float:
    """Return the root of the mean squared difference, in the targets' unit.

    Args:
        predicted: Predicted means.
        targets: Observed numbers.
    """
    return (predicted - targets).square().mean().sqrt().item()


def poisson_deviance(rates: Float[Tensor, "*n"], counts: Float[Tensor, "*n"]) -> float:
    """Return the mean of 2 [y ln(y / rate) - (y - rate)], in nats per count; 0 for perfect rates.

    Args:
        rates: Predicted rates.
        counts: Observed counts.
    """
    return (2 * (torch.xlogy(counts, counts) - torch.xlogy(counts, rates) - counts + rates)).mean().item()


def mixture_rank(
    means: Float[Tensor, "*n s"], targets: Float[Tensor, "*n"], variances: Float[Tensor, " v"]
) -> Float[Tensor, "*n"]:
    """Return P(prediction <= target) of each number: uniform where predictions are calibrated.

    Args:
        means: Predicted mean of each posterior sample.
        targets: Observed numbers.
        variances: Equally likely noise variances.
    """
    distance = targets.unsqueeze(-1) - means
    ranks = [torch.special.ndtr(distance / variance.sqrt()).mean(-1) for variance in variances]
    return torch.stack(ranks).mean(0)


@dataclass(frozen=True)
class Intervals:
    """How often targets lie inside central intervals.

    Attributes:
        level: Probability of each interval.
        coverage: Share of the targets that lie inside.
        num_targets: Number of targets.
    """

    level: Float[Tensor, " l"]
    coverage: Float[Tensor, " l"]
    num_targets: int


def intervals(ranks: Float[Tensor, "*n"], num_levels: int = 19) -> Intervals:
    """Compare the probability of central intervals with the share of targets inside.

    Args:
        ranks: P(prediction <= target) of each number, from `mixture_rank`.
        num_levels: Number of levels, evenly spaced between 0 and 1.
    """
    levels = torch.arange(1, num_levels + 1, dtype=torch.float64) / (num_levels + 1)
    inside = torch.tensor([coverage(ranks, level) for level in levels.tolist()], dtype=torch.float64)
    return Intervals(levels, inside, ranks.numel())


def coverage(ranks: Float[Tensor, "*n"], level: float) -> float:
    """Return the fraction of numbers inside the central interval of a given probability.

    Args:
        ranks: P(prediction <= target) of each number, from `mixture_rank`.
        level: Probability of the interval, between 0 and 1.
    """
    return ((ranks - 0.5).abs() <= level / 2).double().mean().item()


def continuous_ranked_probability_score(
    means: Float[Tensor, "*n s"], targets: Float[Tensor, "*n"], variances: Float[Tensor, " v"]
) -> float:
    """Return the mean over numbers of E|X - y| - E|X - X'| / 2, in the targets' unit.

    X and X' are independent draws of the prediction, so without noise and samples this is the absolute error.

    Args:
        means: Predicted mean of each posterior sample.
        targets: Observed numbers.
        variances: Equally likely noise variances.

    References:
        Gneiting & Raftery 2007, doi:10.1198/016214506000001437, equation 21; Grimit et al. 2006,
        doi:10.1256/qj.05.235, for mixtures of Gaussians.
    """
    means, targets = means.reshape(-1, means.shape[-1]), targets.reshape(-1)
    between, shares = _pair_variances(variances)
    even = torch.full_like(variances, 1 / len(variances))
    total = means.new_zeros(())
    num_samples = means.shape[-1]
    size = max(1, NUMBERS_AT_ONCE // num_samples**2)
    for some, wanted in zip(means.split(size), targets.split(size), strict=True):
        distance = _mean_distance(wanted.unsqueeze(-1) - some, variances, even).sum() / num_samples
        apart = some.unsqueeze(-1) - some.unsqueeze(-2)
        spread = _mean_distance(apart, between, shares).sum() / num_samples**2
        total = total + distance - 0.5 * spread
    return (total / len(targets)).item()


def _mean_distance(shift: Tensor, variances: Tensor, probabilities: Tensor) -> Tensor:
    """Return E|shift + noise|, averaged over noise variances of given probabilities."""
    total = torch.zeros_like(shift)
    for variance, probability in zip(variances, probabilities, strict=True):
        std = variance.sqrt()
        scaled = shift / std
        density = (-0.5 * scaled.square()).exp() / math.sqrt(2 * math.pi)
        total = total + probability * (shift * torch.erf(scaled / math.sqrt(2)) + 2 * std * density)
    return total


def _pair_variances(variances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances of X - X' and their probabilities; neighbours are merged where there are many."""
    parts = (variances.unsqueeze(0) + variances.unsqueeze(1)).flatten().sort().values.chunk(PAIR_VARIANCES)
    # noise enters through its standard deviation, so that is what is averaged
    merged = torch.stack([part.sqrt().mean().square() for part in parts])
    return merged, merged.new_tensor([len(part) for part in parts]) / len(variances) ** 2
