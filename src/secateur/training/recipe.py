"""Everything that decides how a fit goes, as one validated value."""

import math
from dataclasses import dataclass

from secateur.errors import InvalidArgumentError
from secateur.pruning import Schedule

__all__ = ["Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: epochs, steps, temperatures, reductions.

    A fit has one or two stretches. In each the learning rate falls along a half cosine; the second, with
    masks fixed, is where what is left settles, warmer and from its own initial rate.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Examples per step.
        learning_rate: Step size at the start of the first stretch.
        floor: Fraction of it left at the end of the first stretch; 1 keeps it constant.
        settle_epoch: Epochs completed when the second stretch begins; None for one stretch.
        settle_learning_rate: Step size at the start of the second stretch, which ends at 0.
        temperature: Training temperature of the first stretch, where the method has one.
        settle_temperature: Training temperature of the second stretch.
        predictive_temperature: Temperature of the posterior that predictions are averaged over.
        schedule: When and how much to reduce; None for never.
        dropout: Dropout of the network, where it takes any.
    """

    epochs: int
    batch_size: int = 120
    learning_rate: float
    floor: float = 1.0
    settle_epoch: int | None = None
    settle_learning_rate: float = 0.0
    temperature: float = 1.0
    settle_temperature: float = 1.0
    predictive_temperature: float = 1.0
    schedule: Schedule | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name}: expected at least 1, got {getattr(self, name)}")
        positive = ("learning_rate", "temperature", "settle_temperature", "predictive_temperature")
        for name in positive:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise InvalidArgumentError(f"{name}: expected a positive finite number, got {value}")
        if self.settle_epoch is not None and not 0 < self.settle_epoch < self.epochs:
            raise InvalidArgumentError(
                f"settle_epoch: expected between 1 and {self.epochs - 1}, got {self.settle_epoch}"
            )

    def learning_rate_at(self, progress: float) -> float:
        """Return the step size after `progress` epochs.

        Args:
            progress: Epochs completed, with the part of the current one.
        """
        end = self.epochs if self.settle_epoch is None else self.settle_epoch
        if progress < end:
            return self.learning_rate * (self.floor + (1 - self.floor) * _half_cosine(progress / end))
        return self.settle_learning_rate * _half_cosine((progress - end) / (self.epochs - end))

    def temperature_at(self, epoch: int) -> float:
        """Return the training temperature of the epoch that begins after `epoch` complete ones."""
        settling = self.settle_epoch is not None and epoch >= self.settle_epoch
        return self.settle_temperature if settling else self.temperature


def _half_cosine(progress: float) -> float:
    """Fall from 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
