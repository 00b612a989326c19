"""Where a removal in rounds stops by itself: at the peak of the evidence, within a bound on held-out data.

The evidence of round r is the measured log likelihood of all data, plus each layer's evidence under its own
prior (`secateur.reduction.own_prior`). On a network that fits its training data by heart, that likelihood is
too good, and the peak too late. So no round is chosen past the largest share whose held-out loss is within
one standard error of the best that was seen (the rule of Breiman et al. 1984); or, where a rise is allowed,
within that rise of the loss before.

The standard error is that of the best loss itself. That of the difference, paired by datum, is ten to a
hundred times smaller: it says whether a rise can be seen, not whether it matters. By it a LeNet stops at
14 %, where 5,000 images show a rise of .0004 nats of .2975 (docs/lab.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.pruning.measuring import Losses

__all__ = ["Stop", "stop_at"]

PATIENCE = 2
"""Rounds to look past the chosen one before it is believed."""


@dataclass(frozen=True)
class Stop:
    """Which round is chosen of those so far.

    Attributes:
        round: Its number; 0 is the network before any removal.
        by: What decided: "evidence" or "held-out loss".
        settled: Whether further rounds are not expected to change it.
    """

    round: int
    by: str
    settled: bool


def stop_at(
    evidence: Sequence[float], held_out: Sequence[Losses], *, max_loss_rise: float | None = None
) -> Stop:
    """Choose a round by evidence, bounded by the loss on held-out data.

    Args:
        evidence: Log evidence before any removal and after each round, in nats.
        held_out: Losses on held-out data, likewise.
        max_loss_rise: How far the mean held-out loss may rise over that before, in nats per datum. None
            bounds it by one standard error above the best.
    """
    known = [-math.inf if math.isnan(each) else each for each in evidence]
    peak = max(range(len(known)), key=known.__getitem__)
    best = min(range(len(held_out)), key=lambda number: held_out[number].mean)

    def within(number: int) -> bool:
        if max_loss_rise is not None:
            return held_out[0].rise_to(held_out[number]).mean <= max_loss_rise
        return held_out[best].rise_to(held_out[number]).mean <= held_out[best].standard_error

    bound = max((number for number in range(len(held_out)) if within(number)), default=0)
    chosen = min(peak, bound)
    by = "evidence" if peak <= bound else "held-out loss"
    return Stop(chosen, by, len(held_out) - 1 - chosen >= PATIENCE)
