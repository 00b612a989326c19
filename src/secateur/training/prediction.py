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
from secateur.training.batch_norm import moments

__all__ = ["evaluation_mode", "log_probabilities", "score"]

BATCH_SIZE = 500


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode; each module returns to its own on exit."""
    were_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in were_training:
            module.training = True


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
        weights: Weights to use instead of the model's own, by plain parameter name.
        calibration: Training images that batch norm's moments are taken from for these weights; None keeps
            the model's own.
    """
    device = next(model.parameters()).device
    with _masked_under_their_names(model, weights) as given:
        if calibration is not None:
            given = {**(given or {}), **moments(model, calibration, given)}
        outputs = []
        for batch in images.split(BATCH_SIZE):
            batch = batch.to(device)
            logits = model(batch) if given is None else functional_call(model, given, (batch,))
            outputs.append(logits.float().log_softmax(-1))
    return torch.cat(outputs)


@contextmanager
def _masked_under_their_names(
    model: nn.Module, weights: dict[str, Tensor] | None
) -> Iterator[dict[str, Tensor] | None]:
    """Yield weights under the names that the parameters of a masked model have.

    The pruning hooks of a masked module leave the weights they computed last as an attribute of it; on
    exit that is the model's own again.
    """
    if weights is None:
        yield None
        return
    held = {}
    for qualified in masks_of(model):
        prefix, _, name = qualified.rpartition(".")
        module = model.get_submodule(prefix)
        held[qualified] = (module, name, getattr(module, name))
    try:
        yield {f"{name}_orig" if name in held else name: value for name, value in weights.items()}
    finally:
        for module, name, own in held.values():
            setattr(module, name, own)


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
