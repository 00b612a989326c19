"""Removal by a posterior's own ranking: under the caps of a schedule, or to a share of the network."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from secateur.distributed import from_first
from secateur.modules import matching, prunable_exclude
from secateur.posterior import Posterior
from secateur.pruning.observing import Observer
from secateur.pruning.ranking import reduce
from secateur.pruning.result import PruneResult
from secateur.pruning.schedule import Schedule

__all__ = ["NUM_HALVINGS", "IndependentRemoval"]

NUM_HALVINGS = 3


@dataclass(frozen=True)
class IndependentRemoval:
    """How entries are chosen by a posterior alone, and the choice observed.

    Attributes:
        model: The network.
        schedule: Caps of one removal.
        criterion: What a target sparsity ranks by.
        include: Name patterns of parameters that may go.
        exclude: Name patterns of parameters that stay.
    """

    model: nn.Module
    schedule: Schedule
    criterion: str
    include: Sequence[str] | None
    exclude: Sequence[str] | None

    def spared(self, posterior: Posterior) -> list[str] | None:
        """Return name patterns of what stays, the output layer among them unless it is included.

        Args:
            posterior: Of the network's weights.
        """
        matching(posterior.mean, self.include, self.exclude)
        return prunable_exclude(self.model, posterior.mean, self.include, self.exclude)

    def to_sparsity(self, posterior: Posterior, sparsity: float) -> PruneResult:
        """Return a removal to a share of all the network's weights.

        Args:
            posterior: Before the removal.
            sparsity: The share.
        """
        num_weights = sum(parameter.numel() for parameter in self.model.parameters())
        of_posterior = sum(mean.numel() for mean in posterior.mean.values())
        result = reduce(
            posterior,
            sparsity=sparsity * num_weights / of_posterior,
            criterion=self.criterion,
            include=self.include,
            exclude=self.spared(posterior),
        )
        from_first(list(result.masks.values()))
        return result

    def within(self, before: Posterior, observer: Observer, *, best_loss: float) -> PruneResult:
        """Return a removal whose loss stays within the schedule's bound; it may remove nothing.

        Args:
            before: Posterior before the removal.
            observer: Measures the loss.
            best_loss: Lowest loss seen so far.
        """
        loss_before = observer.loss_of_removal(before, before.keep)
        ceiling = min(best_loss, loss_before) + self.schedule.max_loss_rise
        for halving in range(NUM_HALVINGS + 1):
            result = self._capped(before, self.schedule.max_fraction / 2**halving)
            loss_after = observer.loss_of_removal(before, result.masks)
            if observer.observe is None or loss_after <= ceiling or result.num_removed == 0:
                return result.measured(loss_before, loss_after)
        return self._capped(before, 0.0).measured(loss_before, loss_before)

    def _capped(self, posterior: Posterior, max_fraction: float) -> PruneResult:
        result = reduce(
            posterior,
            max_fraction=max_fraction,
            max_sparsity=self.schedule.max_sparsity,
            count_removed=self.schedule.count_removed,
            num_iterations=self.schedule.num_iterations,
            include=self.include,
            exclude=self.spared(posterior),
        )
        from_first(list(result.masks.values()))
        return result
