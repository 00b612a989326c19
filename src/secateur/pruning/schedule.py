"""When to reduce, and how much at once.

Removing all that the evidence allows in one go costs accuracy, because the summed evidence of many weights
is optimistic: they are not independent. A cap per reduction, best evidence first, lets the rest adapt.
"""

import math
from dataclasses import dataclass

from secateur.errors import InvalidArgumentError

__all__ = ["MAX_LOSS_RISE", "SHAPES", "Schedule"]

SHAPES = ("geometric", "cubic")
MAX_LOSS_RISE = 0.25  # nats per datum
STEPS_BETWEEN_REDUCTIONS = 500  # for the curvature of what is left to be felt
STEPS_OF_WARM_UP = 1000  # the running Hessian forgets its initial value at a rate of 1e-3 per step


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Gradual reduction between two epochs.

    Attributes:
        first_epoch: Epochs completed before the first reduction, the warm-up.
        last_epoch: Epoch after which masks are fixed.
        every: Epochs between reductions.
        max_fraction: Largest fraction of what is left to remove in one reduction.
        max_sparsity: Sparsity at which removal ends even if the evidence would go on.
        max_loss_rise: How far a reduction may raise the training loss above the best seen, in nats per
            datum, before it is cut back; `inf` trusts the evidence alone.
        count_removed: Whether what is already out makes a layer's prior expect more to go; see `reduce`.
        num_iterations: Steps of each layer's spike-and-slab iteration; None iterates until it has settled.
        shape: How a target sparsity is approached, over the fraction t of the reductions: "geometric", where
            what stays falls by one factor each time, or "cubic", s (1 - (1 - t)^3) of arXiv:1710.01878.
    """

    first_epoch: int
    last_epoch: int
    every: int = 1
    max_fraction: float = 1.0
    max_sparsity: float = 1.0
    max_loss_rise: float = math.inf
    count_removed: bool = True
    num_iterations: int | None = None
    shape: str = "geometric"

    def __post_init__(self) -> None:
        if not 1 <= self.first_epoch <= self.last_epoch:
            raise InvalidArgumentError(
                "first_epoch, last_epoch: expected 1 <= first <= last, got "
                f"{self.first_epoch}, {self.last_epoch}"
            )
        if self.every < 1:
            raise InvalidArgumentError(f"every: expected at least 1 epoch, got {self.every}")
        for name in ("max_fraction", "max_sparsity"):
            if not 0 < getattr(self, name) <= 1:
                raise InvalidArgumentError(
                    f"{name}: expected a fraction in (0, 1], got {getattr(self, name)}"
                )
        if not self.max_loss_rise > 0:
            raise InvalidArgumentError(f"max_loss_rise: expected a positive number, got {self.max_loss_rise}")
        if self.shape not in SHAPES:
            raise InvalidArgumentError(f"shape: expected one of {', '.join(SHAPES)}, got {self.shape!r}")

    def due(self, epoch: int) -> bool:
        """Return whether to reduce once `epoch` epochs are complete."""
        inside = self.first_epoch <= epoch <= self.last_epoch
        return inside and (epoch - self.first_epoch) % self.every == 0

    @property
    def num_reductions(self) -> int:
        """Number of reductions between the first and the last epoch."""
        return (self.last_epoch - self.first_epoch) // self.every + 1

    def target(self, sparsity: float, *, number: int) -> float:
        """Return the sparsity that a reduction is to reach.

        Args:
            sparsity: What the last reduction is to reach.
            number: Which reduction, counted from 1.
        """
        done = min(1.0, number / self.num_reductions)
        if self.shape == "cubic":
            return sparsity * (1 - (1 - done) ** 3)
        return 1 - (1 - sparsity) ** done

    @staticmethod
    def warm_up(epochs: int, *, steps_per_epoch: float | int) -> int:
        """Return the epochs to wait before the first reduction, for a running curvature to mean something.

        Args:
            epochs: Epochs of the run.
            steps_per_epoch: Optimiser steps per epoch.
        """
        return max(1, round(epochs * 0.1), math.ceil(STEPS_OF_WARM_UP / steps_per_epoch))

    @classmethod
    def over(cls, epochs: int, *, steps_per_epoch: float | int) -> "Schedule | None":
        """Return a schedule for a training run, None where the run is too short to prune in.

        The first reduction waits for a running curvature to forget its initial value (1,000 steps). The last
        is at seven tenths of the run, so that the rest can adapt. Reductions are at least 500 steps apart.
        The cap on each lets all but 1.4 % be out by six tenths of the run, and is at most 35 %. A reduction
        that would raise the loss by more than 0.25 nats per datum is cut back.

        Args:
            epochs: Epochs of the run.
            steps_per_epoch: Optimiser steps per epoch.

        >>> Schedule.over(40, steps_per_epoch=100).first_epoch
        10
        """
        first = cls.warm_up(epochs, steps_per_epoch=steps_per_epoch)
        settle = max(1, round(epochs * 0.6))
        if first > settle or settle == epochs:
            return None
        every = math.ceil(STEPS_BETWEEN_REDUCTIONS / steps_per_epoch)
        return cls(
            first_epoch=first,
            # the last reductions fall into the settling stretch: warmer weights give up a little more
            last_epoch=max(settle, min(max(1, round(epochs * 0.7)), epochs - 1)),
            every=every,
            max_fraction=min(0.35, 1 - 0.014 ** (1 / ((settle - first) // every + 1))),
            max_loss_rise=MAX_LOSS_RISE,
        )
