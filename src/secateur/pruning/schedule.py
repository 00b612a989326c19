"""When to reduce, and how much at once.

Removing all that the evidence allows in one go costs accuracy, because the summed evidence of many weights
is optimistic: they are not independent. A cap per reduction, best evidence first, lets the rest adapt.
"""

import math
from dataclasses import dataclass

from secateur.errors import InvalidArgumentError

__all__ = ["SHAPES", "Schedule"]

SHAPES = ("geometric", "cubic")


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

    def target(self, sparsity: float, *, epoch: int, epochs: int) -> float:
        """Return the sparsity that the reduction after an epoch is to reach.

        Args:
            sparsity: What the last reduction of the run is to reach.
            epoch: Epochs completed; a reduction is due.
            epochs: Epochs of the run.
        """
        due = [each for each in range(1, epochs + 1) if self.due(each)]
        done = (due.index(epoch) + 1) / len(due)
        if self.shape == "cubic":
            return sparsity * (1 - (1 - done) ** 3)
        return 1 - (1 - sparsity) ** done
