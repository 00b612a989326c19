"""Losses of a network on data, compared datum by datum.

The standard error of a difference of two networks is that of the differences of each datum.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature.batches import answers, label_shift, labelled, read_batch
from secateur.curvature.checks import require_finite_batch
from secateur.distributed import concatenated, num_ranks
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Likelihood
from secateur.likelihoods.finite import all_finite
from secateur.modules import evaluation_mode

__all__ = ["Difference", "Losses", "judged", "measure"]


@dataclass(frozen=True)
class Difference:
    """A difference of two mean losses, paired by datum.

    Attributes:
        mean: In nats per datum; above 0 where the second is larger.
        standard_error: Of the mean.
    """

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Losses:
    """Losses of a network on data.

    Attributes:
        sums: Loss of each element of the batches, summed over its labelled positions, in nats.
        counts: How many labelled positions each has.
    """

    sums: Tensor
    counts: Tensor

    @property
    def num_data(self) -> int:
        """Labelled data: tokens, where the targets are tokens."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """In nats per datum."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def standard_error(self) -> float:
        """Of the mean; infinite where there is a single element."""
        return Losses(torch.zeros_like(self.sums), self.counts).rise_to(self).standard_error

    def rise_to(self, other: "Losses") -> Difference:
        """Return how much higher the losses of another network are on the same data.

        Args:
            other: Its losses.
        """
        difference = other.sums - self.sums
        total = float(self.counts.sum())
        mean = float(difference.sum()) / total
        count = len(difference)
        spread = (difference - mean * self.counts).square().sum() * count / max(count - 1, 1)
        return Difference(mean, math.inf if count < 2 else float(spread.sqrt()) / total)


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    likelihood: Likelihood,
    *,
    argument: str = "loader",
    shift: int | None = None,
) -> Losses:
    """Measure the loss of a network in evaluation mode; among ranks, that on the data of all.

    Args:
        model: The network.
        batches: With targets.
        likelihood: Distribution of the targets.
        argument: What the user calls the batches, for messages.
        shift: By how many tokens labels lag behind the outputs (`label_shift`); None finds out.

    Raises:
        InvalidArgumentError: If there are no targets, no batch, or a loss that is not finite.
    """
    sums, counts = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.float64)]
    for number, outputs, targets in judged(model, batches, likelihood, argument=argument, shift=shift):
        losses = likelihood.loss(outputs, targets)
        if not all_finite(losses):
            raise InvalidArgumentError(
                f"{argument}: expected a finite loss, got {losses.sum().item()} in batch {number}; look "
                "at the scale of the weights and inputs"
            )
        sums.append(losses.double().reshape(len(losses), -1).sum(1).cpu())
        counts.append(_counted(likelihood, targets, losses).cpu())
    found = Losses(concatenated(torch.cat(sums)), concatenated(torch.cat(counts)))
    if not len(found.counts):
        raise InvalidArgumentError(f"{argument}: expected at least one datum with a label, got none")
    return found


def judged(
    model: nn.Module,
    batches: Iterable[Any],
    likelihood: Likelihood,
    *,
    argument: str = "loader",
    shift: int | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Give the number of each batch, a network's outputs in evaluation mode, and targets to judge them by.

    Batches in which nothing is labelled are left out.

    Args:
        model: The network.
        batches: With targets.
        likelihood: Distribution of the targets.
        argument: What the user calls the batches, for messages.
        shift: As for `measure`.

    Raises:
        InvalidArgumentError: If there are no targets, no batch, or outputs that do not fit the likelihood.
    """
    device = next(model.parameters()).device
    number = given = 0
    for number, batch in enumerate(batches, 1):
        with evaluation_mode(model), torch.no_grad():
            read = read_batch(batch, device, model)
            if not read.size:
                continue  # other ranks' alone
            if read.targets is None:
                raise InvalidArgumentError(
                    f"{argument}: expected batches with targets, by which the loss is measured, got none; "
                    "give (inputs, targets) or dicts with labels"
                )
            require_finite_batch(read, f"batch {number}", argument)
            if shift is None:
                shift = label_shift(model, read, likelihood)
            outputs = answers(model, read, f"batch {number}", argument)
            found = labelled(outputs, read, likelihood, shift)
            assert found.targets is not None
            if not likelihood.num_data(found.targets):
                continue  # nothing but padding, or ignored labels
            likelihood.check(found.outputs, found.targets)
        given += 1
        yield number, found.outputs, found.targets
    if not given and num_ranks() == 1:
        missing = "datum with a label" if number else "batch"
        raise InvalidArgumentError(f"{argument}: expected at least one {missing}, got none")


def _counted(likelihood: Likelihood, targets: Tensor, losses: Tensor) -> Tensor:
    """Return the number of labelled positions of each element of a batch."""
    ignored = getattr(likelihood, "ignore_label", None)
    labelled_ones = torch.ones_like(losses) if ignored is None else targets != ignored
    return labelled_ones.reshape(len(losses), -1).sum(1).double()
