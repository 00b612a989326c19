"""Other weights in a network for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["with_weights"]


@contextmanager
def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a network other weights; its own values return on exit, also on an error.

    Args:
        model: Any module.
        weights: Values by parameter name, of the parameters' shapes.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    before = {name: parameters[name].detach().clone() for name in weights}

    def write(values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value)

    try:
        write(weights)
        yield
    finally:
        write(before)
