"""Score a trained network on held-out batches by the metrics that fit its likelihood."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.likelihoods import Likelihood
from secateur.pruning.measuring import judged

__all__ = ["held_out_scores"]

MOST_OUTPUTS = 1 << 25  # numbers kept to score all data at once; a table of 128 MB
FEWEST_SAMPLES = "log_predictive_density"  # of several networks; that of one is its likelihood once more


@torch.no_grad()
def held_out_scores(model: nn.Module, batches: Iterable[Any], likelihood: Likelihood) -> dict[str, float]:
    """Return a network's scores; means per datum, or per token where the targets are tokens.

    Scores that need the predictions of all data at once are left out where those are too many to be kept,
    as with the vocabulary of a language model.

    Args:
        model: The network.
        batches: With targets.
        likelihood: Distribution of the targets.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    size, count, loss, right = 0, 0, 0.0, 0
    tokens, classes = False, likelihood.name == "categorical"
    for _, outputs, targets in judged(model, batches, likelihood, argument="held_out"):
        tokens = outputs.dim() > 2
        loss += float(likelihood.loss(outputs, targets).double().sum())
        count += likelihood.num_data(targets)
        if classes:
            right += int((outputs.argmax(-1) == targets).sum())
        size += outputs.numel()
        if size <= MOST_OUTPUTS:
            kept.append((outputs.cpu(), targets.cpu()))
        else:
            kept.clear()
    scores = {"negative_log_likelihood": loss / count}
    if size <= MOST_OUTPUTS:
        scores |= likelihood.scores(*_together(kept, tokens=tokens))
        scores.pop(FEWEST_SAMPLES, None)
    elif classes:
        scores["accuracy"] = right / count
    if tokens and classes:
        scores["perplexity"] = math.exp(min(loss / count, 700.0))
    return {name: float(value) for name, value in scores.items()}


def _together(kept: list[tuple[Tensor, Tensor]], *, tokens: bool) -> tuple[Tensor, Tensor]:
    """Return all outputs and targets, tokens in one row: batches may differ in length."""
    if tokens and all(outputs.shape[:-1] == targets.shape for outputs, targets in kept):
        kept = [(outputs.flatten(0, -2), targets.flatten()) for outputs, targets in kept]
    return torch.cat([outputs for outputs, _ in kept]), torch.cat([targets for _, targets in kept])
