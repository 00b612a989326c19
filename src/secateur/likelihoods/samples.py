"""Predictions of numbers: outputs of posterior samples, side by side in a last axis."""

from collections.abc import Iterable

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.likelihoods.base import widened

__all__ = ["mixed", "stacked"]


def stacked(outputs: Tensor) -> Tensor:
    """Return outputs of shape (*d, c) or (n,) in float32 or wider, as the only sample of a last axis.

    Args:
        outputs: Outputs of one network.
    """
    outputs = widened(outputs)
    return (outputs.unsqueeze(-1) if outputs.dim() == 1 else outputs).unsqueeze(-1)


def mixed(predictions: Iterable[Tensor]) -> Tensor:
    """Join the samples of several predictions along their last axis.

    Args:
        predictions: What `stacked` returned, for each sample.

    Raises:
        InvalidArgumentError: If there is none.
    """
    members = list(predictions)
    if not members:
        raise InvalidArgumentError("predictions: expected at least one sample, got none")
    return torch.cat(members, -1)
