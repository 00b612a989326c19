"""Hyper-parameters of training and pruning, validated."""

import math
from dataclasses import dataclass

from secateur.errors import InvalidArgumentError
from secateur.pruning import Schedule

__all__ = ["Recipe"]

MAX_HOLDOUT = 2000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyper-parameters: epochs, learning rates, temperatures, pruning schedule.

    A fit has one or two stretches. In each the learning rate falls along a half cosine; the second, with
    masks fixed, is where what is left settles, warmer and from its own initial rate.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Examples per step.
        learning_rate: Step size at the start of the first stretch.
        floor: Fraction of it left at the end of the first stretch; 1 keeps it constant.
        settle_epoch: Epochs completed when the second stretch begins; None for one stretch.
        settle_learning_rate: Step size at the start of the second stretch, which ends at 0.
        prior_precision: Inverse variance of the weights' prior, where the method does not learn it.
        temperature: Training temperature of the first stretch, where the method has one.
        settle_temperature: Training temperature of the second stretch.
        predictive_temperatures: Temperatures of the posterior that predictions may be averaged over; of
            several, held-out data choose (`prediction.best_temperature`). 0 is the posterior mean alone.
        holdout: Fraction of the training data held out for that choice, at most `MAX_HOLDOUT` of them.
        schedule: When and how much to reduce; None for never.
        criterion: What a reduction to a target sparsity ranks by (`secateur.pruning.criteria`).
        hyperprior: Which scales of a regularised horseshoe to reduce to, "full" or "tiered"; None to remove
            by spike and slab.
        dropout: Dropout of the network, where it takes any.
        steps_between_looks: Optimiser steps between looks at the curvature (`curvature.RunningCurvature`);
            None where the method follows none.
    """

    epochs: int
    batch_size: int = 120
    learning_rate: float
    floor: float = 1.0
    settle_epoch: int | None = None
    settle_learning_rate: float = 0.0
    prior_precision: float = 1.0
    temperature: float = 1.0
    settle_temperature: float = 1.0
    predictive_temperatures: tuple[float, ...] = (1.0,)
    holdout: float = 0.0
    schedule: Schedule | None = None
    criterion: str = "evidence"
    hyperprior: str | None = None
    dropout: float = 0.0
    steps_between_looks: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name}: expected at least 1, got {getattr(self, name)}")
        positive = ("learning_rate", "prior_precision", "temperature", "settle_temperature")
        for name in positive:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise InvalidArgumentError(f"{name}: expected a positive finite number, got {value}")
        if not self.predictive_temperatures or min(self.predictive_temperatures) < 0:
            raise InvalidArgumentError(
                f"predictive_temperatures: expected some, none negative, got {self.predictive_temperatures}"
            )
        if not 0 <= self.holdout < 1 or (len(self.predictive_temperatures) > 1) != (self.holdout > 0):
            raise InvalidArgumentError(
                "holdout: expected a fraction in (0, 1) for a choice of temperatures, and 0 without one, got "
                f"{self.holdout} for {len(self.predictive_temperatures)}"
            )
        if self.settle_epoch is not None and not 0 < self.settle_epoch < self.epochs:
            raise InvalidArgumentError(
                f"settle_epoch: expected between 1 and {self.epochs - 1}, got {self.settle_epoch}"
            )

    def num_held_out(self, num_data: int) -> int:
        """Return how many of `num_data` training examples are held out."""
        return min(MAX_HOLDOUT, round(self.holdout * num_data))

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
