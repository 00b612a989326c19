"""Predictions averaged over posterior samples, in batches: made, scored, and tempered on held-out data."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from secateur.data import Split
from secateur.likelihoods import Categorical, Likelihood
from secateur.modules import evaluation_mode, moments
from secateur.posterior import Posterior

__all__ = [
    "CATEGORICAL",
    "average_prediction",
    "best_temperature",
    "predictions",
    "score_once",
    "scores",
]

BATCH_SIZE = 500
OnPass = Callable[[int, int], None]
CATEGORICAL = Categorical()


@torch.no_grad()
def predictions(
    model: nn.Module,
    images: Tensor,
    weights: dict[str, Tensor] | None = None,
    *,
    likelihood: Likelihood = CATEGORICAL,
    calibration: Tensor | None = None,
) -> Tensor:
    """Return the predictions of one network; log class probabilities, shape (data, classes), for classes.

    Args:
        model: Network in evaluation mode.
        images: Inputs on the model's device or not.
        weights: Weights to use instead of the model's own, by parameter name.
        likelihood: Turns outputs into predictions (`Likelihood.predict`).
        calibration: Training images that batch norm's moments are taken from for these weights; None keeps
            the model's own.
    """
    device = next(model.parameters()).device
    if calibration is not None:
        weights = {**(weights or {}), **moments(model, calibration, weights)}
    predicted = []
    for batch in images.split(BATCH_SIZE):
        batch = batch.to(device)
        outputs = model(batch) if weights is None else functional_call(model, weights, (batch,))
        predicted.append(likelihood.predict(outputs))
    return torch.cat(predicted)


def average_prediction(
    model: nn.Module,
    images: Tensor,
    posterior: Posterior,
    *,
    num_samples: int,
    likelihood: Likelihood = CATEGORICAL,
    generator: torch.Generator | None = None,
    calibration: Tensor | None = None,
    labels: Tensor | None = None,
    on_pass: OnPass | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the prediction averaged over posterior samples, and each sample's log likelihoods.

    Args:
        model: Network in evaluation mode; its own weights are used where the posterior has none.
        images: Inputs on the model's device or not.
        posterior: Weights to average over.
        num_samples: Draws to average over.
        likelihood: Says what a prediction is.
        generator: Source of the draws, on the posterior's device.
        calibration: Training images to take batch norm's moments from, for each draw anew.
        labels: Targets whose log likelihood under each draw is wanted.
        on_pass: Called after each draw with the number of passes done and in all.

    Returns:
        The prediction on the CPU, and log likelihoods of shape (num_samples, data); None without labels.
    """
    each: list[Tensor] = []

    def drawn() -> Iterator[Tensor]:
        for done in range(1, num_samples + 1):
            weights = posterior.sample(generator=generator)
            predicted = predictions(
                model, images, weights, likelihood=likelihood, calibration=calibration
            ).cpu()
            if labels is not None:
                each.append(likelihood.log_likelihood(predicted, labels))
            yield predicted
            if on_pass is not None:
                on_pass(done, num_samples)

    averaged = likelihood.average(drawn())
    return averaged, torch.stack(each) if each else None


def score_once(
    model: nn.Module,
    split: Split,
    posterior: Posterior | None = None,
    *,
    likelihood: Likelihood = CATEGORICAL,
    num_samples: int = 100,
    generator: torch.Generator | None = None,
    calibration: Tensor | None = None,
    on_pass: OnPass | None = None,
) -> tuple[dict[str, float], Tensor]:
    """Return the scores of a prediction that fit the likelihood, and the prediction.

    Args:
        model: Network, masked or not; its own weights are used where the posterior has none.
        split: Data to judge by.
        posterior: Weights to average over; the model's own weights, in one pass, when None.
        likelihood: Distribution of the labels given the outputs.
        num_samples: Draws to average over.
        generator: Source of the draws, on the posterior's device.
        calibration: Training images to take batch norm's moments from, for each draw anew.
        on_pass: As for `average_prediction`.
    """
    labels = split.labels.cpu()
    with evaluation_mode(model):
        if posterior is None:
            predicted, each = predictions(model, split.images, likelihood=likelihood).cpu(), None
        else:
            predicted, each = average_prediction(
                model,
                split.images,
                posterior,
                num_samples=num_samples,
                likelihood=likelihood,
                generator=generator,
                calibration=calibration,
                labels=labels,
                on_pass=on_pass,
            )
    return likelihood.prediction_scores(predicted, labels, sample_log_likelihoods=each), predicted


def scores(
    model: nn.Module,
    posterior: Posterior,
    split: Split,
    *,
    temperature: float,
    num_samples: int,
    seed: int,
    likelihood: Likelihood = CATEGORICAL,
    calibration: Tensor | None = None,
    on_pass: OnPass | None = None,
) -> dict[str, Any]:
    """Score the averaged prediction, and beside it the posterior-mean network's.

    Args:
        model: Network at the posterior mean.
        posterior: Its posterior.
        split: Data to judge by.
        temperature: Temperature of the draws.
        num_samples: Draws to average over; a point posterior has one.
        seed: Seed of the draws.
        likelihood: Distribution of the labels given the outputs.
        calibration: Training images to take batch norm's moments from, for each draw anew.
        on_pass: As for `average_prediction`.
    """
    mean_scores, mean_predicted = score_once(model, split, likelihood=likelihood)
    if temperature == 0 or posterior.is_point:
        averaged, predicted, num_samples = mean_scores, mean_predicted, 1
    else:
        device = next(iter(posterior.mean.values())).device
        averaged, predicted = score_once(
            model,
            split,
            posterior.at_temperature(temperature),
            likelihood=likelihood,
            num_samples=num_samples,
            generator=torch.Generator(device).manual_seed(seed),
            calibration=calibration,
            on_pass=on_pass,
        )
    bins = likelihood.reliability(predicted, split.labels.cpu())
    intervals = likelihood.intervals(predicted, split.labels.cpu())
    found = {
        **averaged,
        "num_samples": num_samples,
        "temperature": temperature,
        "mean_network": mean_scores,
    }
    if bins is not None:
        found["reliability"] = {
            "confidence": bins.confidence.tolist(),
            "accuracy": bins.accuracy.tolist(),
            "count": bins.count.tolist(),
        }
    if intervals is not None:
        found["intervals"] = {
            "level": intervals.level.tolist(),
            "coverage": intervals.coverage.tolist(),
            "num_targets": intervals.num_targets,
        }
    return found


def best_temperature(
    model: nn.Module,
    posterior: Posterior,
    held_out: Split,
    temperatures: Sequence[float],
    *,
    num_samples: int = 32,
    seed: int = 0,
    likelihood: Likelihood = CATEGORICAL,
    calibration: Tensor | None = None,
    on_pass: OnPass | None = None,
) -> float:
    """Choose the temperature of the averaged prediction on held-out data.

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
        likelihood: Distribution of the labels given the outputs.
        calibration: Training images to take batch norm's moments from, for each draw anew.
        on_pass: Called after each temperature with the number of them done and in all.
    """
    losses = {}
    for done, temperature in enumerate(temperatures, start=1):
        drawn = None if temperature == 0 else posterior.at_temperature(temperature)
        generator = torch.Generator(next(iter(posterior.mean.values())).device).manual_seed(seed)
        _, predicted = score_once(
            model,
            held_out,
            drawn,
            likelihood=likelihood,
            num_samples=num_samples,
            generator=generator,
            calibration=calibration,
        )
        losses[temperature] = -likelihood.log_likelihood(predicted, held_out.labels.cpu()).double()
        if on_pass is not None:
            on_pass(done, len(temperatures))
    least = min(losses.values(), key=lambda loss: float(loss.mean()))

    def within_one_standard_error(temperature: float) -> bool:
        excess = losses[temperature] - least
        if len(excess) == 1:
            return bool(excess <= 0)
        return float(excess.mean()) <= float(excess.std()) / math.sqrt(len(excess))

    return max(filter(within_one_standard_error, losses))
