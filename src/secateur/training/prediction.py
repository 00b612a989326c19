"""Predictions averaged over posterior samples, in batches."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from secateur.data import Split
from secateur.metrics import Metrics, evaluate, log_likelihoods
from secateur.posterior import Posterior
from secateur.pruning import masks_of

__all__ = ["evaluation_mode", "log_probabilities", "score"]

BATCH_SIZE = 500


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode; it returns to its own on exit."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def log_probabilities(model: nn.Module, images: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
    """Return log class probabilities of one network, shape (data, classes).

    Args:
        model: Network in evaluation mode.
        images: Inputs on the model's device or not.
        weights: Weights to use instead of the model's own, by plain parameter name.
    """
    device = next(model.parameters()).device
    if weights is not None:
        held = {f"{name}_orig" for name in masks_of(model)}
        weights = {f"{n}_orig" if f"{n}_orig" in held else n: value for n, value in weights.items()}
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
) -> tuple[Metrics, Tensor]:
    """Return the figures of a prediction, and its log probabilities.

    Args:
        model: Network, masked or not; its own weights are used where the posterior has none.
        split: Data to judge by.
        posterior: Weights to average over; the model's own weights, in one pass, when None.
        num_samples: Draws to average over.
        generator: Source of the draws, on the posterior's device.
    """
    labels = split.labels
    with evaluation_mode(model):
        if posterior is None:
            averaged = log_probabilities(model, split.images).cpu()
            return evaluate(averaged, labels.cpu()), averaged
        # A running log-sum keeps one (data, classes) table and not `num_samples` of them.
        total, likelihoods = None, []
        for _ in range(num_samples):
            drawn = log_probabilities(model, split.images, posterior.sample(generator=generator)).cpu()
            likelihoods.append(log_likelihoods(drawn, labels.cpu()))
            total = drawn if total is None else torch.logaddexp(total, drawn)
    assert total is not None
    averaged = total - torch.tensor(float(num_samples)).log()
    return evaluate(averaged, labels.cpu(), sample_log_likelihoods=torch.stack(likelihoods)), averaged
