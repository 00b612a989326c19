"""Figures of a finished fit: the averaged prediction beside the posterior-mean network's."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import Split
from secateur.metrics import log_likelihoods, reliability
from secateur.posterior import Posterior
from secateur.training.prediction import score

__all__ = ["best_temperature", "figures", "is_point"]


def is_point(posterior: Posterior) -> bool:
    """Return whether a posterior is a point estimate, without spread."""
    return any(bool(torch.isinf(precision).any()) for precision in posterior.precision.values())


def figures(
    model: nn.Module,
    posterior: Posterior,
    split: Split,
    *,
    temperature: float,
    num_samples: int,
    seed: int,
    calibration: Tensor | None = None,
) -> dict[str, Any]:
    """Return the figures of the averaged prediction, beside those of the posterior-mean network.

    Args:
        model: Network at the posterior mean.
        posterior: Its posterior.
        split: Data to judge by.
        temperature: Temperature of the draws.
        num_samples: Draws to average over; a point posterior has one.
        seed: Seed of the draws.
        calibration: Training images to take batch norm's moments from, for each draw anew.
    """
    mean_figures, mean_predicted = score(model, split)
    if temperature == 0 or is_point(posterior):
        averaged, predicted, num_samples = mean_figures, mean_predicted, 1
    else:
        device = next(iter(posterior.mean.values())).device
        averaged, predicted = score(
            model,
            split,
            posterior.at_temperature(temperature),
            num_samples=num_samples,
            generator=torch.Generator(device).manual_seed(seed),
            calibration=calibration,
        )
    bins = reliability(predicted, split.labels.cpu())
    return {
        **averaged.as_dict(),
        "num_samples": num_samples,
        "temperature": temperature,
        "mean_network": mean_figures.as_dict(),
        "reliability": {
            "confidence": bins.confidence.tolist(),
            "accuracy": bins.accuracy.tolist(),
            "count": bins.count.tolist(),
        },
    }


def best_temperature(
    model: nn.Module,
    posterior: Posterior,
    held_out: Split,
    temperatures: Sequence[float],
    *,
    num_samples: int = 32,
    seed: int = 0,
    calibration: Tensor | None = None,
) -> float:
    """Return the warmest temperature that held-out data do not speak against.

    Held-out data are few and their loss is flat about its minimum, so the least loss alone would be chance.
    Overconfidence being the dearer error, the choice is the warmest temperature whose loss, datum by datum,
    exceeds the least by no more than one standard error of that difference (the one-standard-error rule of
    Breiman et al. 1984, Classification and Regression Trees, section 3.4.3).

    Args:
        model: Network at the posterior mean.
        posterior: Its posterior.
        held_out: Data it was not trained on.
        temperatures: Temperatures to try; 0 is the posterior mean alone.
        num_samples: Draws to average over, the same ones at each temperature.
        seed: Seed of the draws.
        calibration: Training images to take batch norm's moments from, for each draw anew.
    """
    losses = {}
    for temperature in temperatures:
        drawn = None if temperature == 0 else posterior.at_temperature(temperature)
        generator = torch.Generator(next(iter(posterior.mean.values())).device).manual_seed(seed)
        _, predicted = score(
            model,
            held_out,
            drawn,
            num_samples=num_samples,
            generator=generator,
            calibration=calibration,
        )
        losses[temperature] = -log_likelihoods(predicted, held_out.labels.cpu()).double()
    least = min(losses.values(), key=lambda loss: float(loss.mean()))

    def within_one_standard_error(temperature: float) -> bool:
        excess = losses[temperature] - least
        if len(excess) == 1:
            return bool(excess <= 0)
        return float(excess.mean()) <= float(excess.std()) / math.sqrt(len(excess))

    return max(filter(within_one_standard_error, losses))
