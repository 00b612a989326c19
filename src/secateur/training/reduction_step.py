"""One reduction during training: what the evidence asks for, as far as the data bear it out.

delta_f rests on a Gaussian about the present weights and on weights being independent, so it is a local
claim and an optimistic one; with few data the mean-field evidence even favours the empty network. Each
reduction is therefore observed before it is made, on training data: if the loss would rise too far above
the best seen so far, the removal is halved, and after `NUM_HALVINGS` skipped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from secateur.posterior import Posterior
from secateur.pruning import Report, Schedule, reduce

__all__ = ["NUM_HALVINGS", "Reduction", "reduce_within"]

NUM_HALVINGS = 3


@dataclass(frozen=True)
class Reduction:
    """A reduction that was decided, and what was observed of it.

    Attributes:
        report: The decision.
        loss_before: Loss of the posterior-mean network before, in nats per datum.
        loss_after: The same with the report's masks.
    """

    report: Report
    loss_before: float
    loss_after: float


def reduce_within(
    posterior: Posterior,
    schedule: Schedule,
    loss_with: Callable[[dict[str, Tensor]], float],
    *,
    best_loss: float,
    exclude: Sequence[str] | None,
) -> Reduction:
    """Decide on a reduction whose observed loss stays within the schedule's `max_loss_rise`.

    Args:
        posterior: Posterior before; its `keep` says what is out.
        schedule: Caps on the removal, and on the rise of the loss.
        loss_with: Returns the loss of the posterior-mean network under masks, in nats per datum.
        best_loss: Lowest loss observed at earlier reductions, in nats per datum.
        exclude: Name patterns of parameters that stay.

    Returns:
        The decision; it may remove nothing.
    """
    loss_before = loss_with(posterior.keep)
    ceiling = min(best_loss, loss_before) + schedule.max_loss_rise
    for halving in range(NUM_HALVINGS + 1):
        report = reduce(
            posterior,
            max_fraction=schedule.max_fraction / 2**halving,
            max_sparsity=schedule.max_sparsity,
            exclude=exclude,
        )
        loss_after = loss_with(report.masks)
        if loss_after <= ceiling or report.num_removed == 0:
            return Reduction(report, loss_before, loss_after)
    return Reduction(reduce(posterior, max_fraction=0.0, exclude=exclude), loss_before, loss_before)
