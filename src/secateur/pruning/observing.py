"""The observed loss of a network in training, as it is and as a removal would leave it."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.distributed import averaged
from secateur.modules import evaluation_mode, masked, reestimate, with_weights
from secateur.posterior import Posterior

__all__ = ["Observe", "Observer"]

Observe = Callable[..., float]


@dataclass(frozen=True)
class Observer:
    """Measures the loss of a network under weights that it does not have yet, averaged over ranks.

    Attributes:
        model: The network; as before after every look.
        observe: Returns a loss in nats per datum, called with the model in evaluation mode, or with nothing.
            None measures nothing, and every loss is nan.
        calibration: Inputs to take the moments of batch normalisation from first.
    """

    model: nn.Module
    observe: Observe | None
    calibration: Tensor | None

    def loss(self, values: Mapping[str, Tensor]) -> float:
        """Return the loss with other values of some parameters, in nats per datum.

        Args:
            values: By parameter name; of the others their own.
        """
        if self.observe is None:
            return math.nan
        arguments = [self.model] if inspect.signature(self.observe).parameters else []
        with torch.no_grad(), evaluation_mode(self.model), self._buffers(), with_weights(self.model, values):
            if self.calibration is not None:
                reestimate(self.model, self.calibration)
            loss = float(self.observe(*arguments))
        return averaged(loss)

    def loss_of_removal(self, posterior: Posterior, masks: Mapping[str, Tensor]) -> float:
        """Return the loss as a removal by a posterior would leave the network, in nats per datum.

        Args:
            posterior: Of the network's weights; one with structure moves what stays.
            masks: True where an entry stays, by parameter name.
        """
        if not posterior.is_diagonal:
            return self.loss(posterior.given(dict(masks)).point())
        with masked(self.model, masks):
            return self.loss({})

    @contextmanager
    def _buffers(self) -> Iterator[None]:
        """Bring back on exit the buffers that calibration changes."""
        kept = () if self.calibration is None else self.model.named_buffers()
        before = {name: buffer.clone() for name, buffer in kept}
        try:
            yield
        finally:
            for name, buffer in self.model.named_buffers():
                if name in before:
                    buffer.copy_(before[name])
