"""One reduction during training: what the evidence asks for, as far as the data bear it out.

delta_f rests on a Gaussian about the present weights and on weights being independent, so it is a local
claim and an optimistic one; with few data the mean-field evidence even favours the empty network. Each
reduction is therefore observed before it is made, on training data: if the loss would rise too far above
the best seen so far, the removal is halved, and after `NUM_HALVINGS` skipped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.inference import FlatFF, PosteriorOptimizer
from secateur.posterior import Posterior
from secateur.pruning import Report, Schedule, reduce
from secateur.pruning.shrinkage import Shrinkage, shrink

__all__ = ["NUM_HALVINGS", "Reduction", "reduce_to", "reduce_within", "require_adaptive", "shrink_priors"]

NUM_HALVINGS = 3


@dataclass(frozen=True)
class Reduction:
    """A reduction that was decided, and what was observed of it.

    Attributes:
        report: The decision.
        loss_before: Loss of the posterior-mean network before, in nats per datum.
        loss_after: The same with the report's masks.
        predicted_delta_f: Evidence for it that was summed, in nats.
    """

    report: Report
    loss_before: float
    loss_after: float
    predicted_delta_f: float


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
            count_removed=schedule.count_removed,
            exclude=exclude,
        )
        loss_after = loss_with(report.masks)
        if loss_after <= ceiling or report.num_removed == 0:
            return Reduction(report, loss_before, loss_after, report.predicted_delta_f)
    nothing = reduce(posterior, max_fraction=0.0, exclude=exclude)
    return Reduction(nothing, loss_before, loss_before, 0.0)


def reduce_to(
    posterior: Posterior,
    sparsity: float,
    loss_with: Callable[[dict[str, Tensor]], float],
    *,
    criterion: str,
    exclude: Sequence[str] | None,
) -> Reduction:
    """Decide on a reduction to an exact sparsity.

    Args:
        posterior: Posterior before; its `keep` says what is out.
        sparsity: Fraction of the posterior's entries to be out afterwards.
        loss_with: Returns the loss of the posterior-mean network under masks, in nats per datum.
        criterion: What to rank by.
        exclude: Name patterns of parameters that stay.
    """
    report = reduce(posterior, sparsity=sparsity, criterion=criterion, exclude=exclude)
    return Reduction(report, loss_with(posterior.keep), loss_with(report.masks), report.predicted_delta_f)


def require_adaptive(optimizer: PosteriorOptimizer) -> FlatFF:
    """Return the optimizer as one whose priors a reduction can narrow.

    Args:
        optimizer: Of a recipe with a hyperprior.

    Raises:
        InvalidArgumentError: If it is none.
    """
    if isinstance(optimizer, FlatFF) and optimizer.adaptive:
        return optimizer
    raise InvalidArgumentError(
        f"hyperprior: expected FlatFF with adaptive=True, whose priors can be narrowed, got "
        f"{type(optimizer).__name__} without; set the recipe's hyperprior to None to remove weights instead"
    )


def shrink_priors(
    optimizer: FlatFF,
    schedule: Schedule,
    loss_with: Callable[[dict[str, Tensor]], float],
    *,
    hyperprior: str,
    best_loss: float,
    exclude: Sequence[str] | None,
) -> Reduction:
    """Narrow an optimiser's priors to a regularised horseshoe, and go on from the posterior under them.

    A layer's scale can take the whole layer out at once. Where all layers together would raise the loss by
    more than the schedule allows, they are taken one after the other, each only if the loss allows it.

    Args:
        optimizer: Adaptive; its generator is drawn from.
        schedule: Cap on the rise of the loss.
        loss_with: Returns the loss of the posterior-mean network under masks, in nats per datum.
        hyperprior: "tiered" or "full".
        best_loss: Lowest loss observed at earlier reductions, in nats per datum.
        exclude: Name patterns of parameters that keep their prior.
    """
    before = optimizer.posterior()
    loss_before = loss_with(before.keep)
    ceiling = min(best_loss, loss_before) + schedule.max_loss_rise

    def adopted(shrinkage: Shrinkage) -> float:
        optimizer.adopt(shrinkage.posterior)
        return loss_with(shrinkage.report.masks)

    done = shrink(before, hyperprior=hyperprior, exclude=exclude, generator=optimizer.generator)
    loss_after = adopted(done)
    if not loss_after <= ceiling:
        borne: list[str] = []
        for layer in done.evidence:
            if adopted(done.within([*borne, layer])) <= ceiling:
                borne.append(layer)
        done = done.within(borne)
        loss_after = adopted(done)
    return Reduction(done.report, loss_before, loss_after, done.predicted_delta_f)
