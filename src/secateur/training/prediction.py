"""Predictions averaged over posterior samples, in batches."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from secateur.data import Split
from secateur.metrics import Metrics, evaluate, log_likelihoods
from secateur.modules import evaluation_mode, moments
from secateur.posterior import Posterior

__all__ = ["log_probabilities", "score"]

BATCH_SIZE = 500


@torch.no_grad()
def log_probabilities(
    model: nn.Module,
    images: Tensor,
    weights: dict[str, Tensor] | None = None,
    *,
    calibration: Tensor | None = None,
) -> Tensor:
    """Return log class probabilities of one network, shape (data, classes).

    Args:
        model: Network in evaluation mode.
        images: Inputs on the model's device or not.
        weights: Weights to use instead of the model's own, by parameter name.
        calibration: Training images that batch norm's moments are taken from for these weights; None keeps
            the model's own.
    """
    device = next(model.parameters()).device
    if calibration is not None:
        weights = {**(weights or {}), **moments(model, calibration, weights)}
    outputs = []
    for batch in images.split(BATCH_SIZE):
        batch = batch.to(device)
        logits = model(batch) if weights is None else functional_call(model, weights, (batch,))
        outputs.append(logits.float().log_softmax(-1))
    return torch.cat(outputs)


def score(
    model: nn.Module,
    split: Split,
    posterior: Posterior | None = None,
    *,
    num_samples: int = 100,
    generator: torch.Generator | None = None,
    calibration: Tensor | None = None,
) -> tuple[Metrics, Tensor]:
    """Return the figures of a prediction, and its log probabilities.

    Args:
        model: Network, masked or not; its own weights are used where the posterior has none.
        split: Data to judge by.
        posterior: Weights to average over; the model's own weights, in one pass, when None.
        num_samples: Draws to average over.
        generator: Source of the draws, on the posterior's device.
        calibration: Training images to take batch norm's moments from, for each draw anew.
    """
    labels = split.labels
    with evaluation_mode(model):
        if posterior is None:
            averaged = log_probabilities(model, split.images).cpu()
            return evaluate(averaged, labels.cpu()), averaged
        # A running log-sum keeps one (data, classes) table and not `num_samples` of them.
        total, likelihoods = None, []
        for _ in range(num_samples):
            weights = posterior.sample(generator=generator)
            drawn = log_probabilities(model, split.images, weights, calibration=calibration).cpu()
            likelihoods.append(log_likelihoods(drawn, labels.cpu()))
            total = drawn if total is None else torch.logaddexp(total, drawn)
    assert total is not None
    averaged = total - torch.tensor(float(num_samples)).log()
    return evaluate(averaged, labels.cpu(), sample_log_likelihoods=torch.stack(likelihoods)), averaged
