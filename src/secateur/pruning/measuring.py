"""Data of a trained network in two parts, and its loss on them: what a removal is asked of, and judged by.

One part moves the weights and gives their curvature. The other is held out, so that the loss on it says
whether a removal can be trusted. Losses are compared datum by datum: the standard error of a difference is
that of the differences.
"""

import math
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset

from secateur.curvature.batches import Batch, answers, label_shift, labelled, read_batch
from secateur.curvature.checks import require_finite_batch
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Likelihood
from secateur.likelihoods.finite import all_finite
from secateur.modules import call_arguments, evaluation_mode

__all__ = ["CalibrationData", "Difference", "Losses", "measure"]

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class CalibrationData:
    """A loader in two parts.

    Attributes:
        fit: Batches that give curvature; read once a round.
        held_out: Batches that only judge.
    """

    fit: Iterable[Any]
    held_out: Iterable[Any]

    @classmethod
    def of(
        cls,
        loader: Iterable[Any],
        *,
        held_out: Iterable[Any] | None,
        seed: int,
        share: float = HELD_OUT_SHARE,
    ) -> "CalibrationData":
        """Split a loader, by data where it has a data set that can be indexed, and else by batches.

        Such a loader is read in an order of the seed, whether it shuffles or not. Batches of any other loader
        are kept in memory: they are needed once a round, and the same ones.

        Args:
            loader: As for `secateur.curvature.estimate`, with targets.
            held_out: A second loader; the first is then used whole.
            seed: Of the choice.
            share: Of the data to hold out.

        Raises:
            InvalidArgumentError: If there are too few data to hold out any.
        """
        if held_out is not None:
            return cls(_readable(loader, seed), _readable(held_out, seed))
        generator = torch.Generator().manual_seed(seed)
        if _is_plain(loader):
            order = torch.randperm(len(loader.dataset), generator=generator).tolist()  # type: ignore[arg-type]
            count = max(1, round(share * len(order)))
            if count < len(order):
                return cls(*(_part(loader, part, seed) for part in (order[count:], order[:count])))
            batches: list[Any] = []
        else:
            batches = list(loader)
            chosen = set(torch.randperm(len(batches), generator=generator)[: _count(batches, share)].tolist())
            if 0 < len(chosen) < len(batches):
                fit = [batch for number, batch in enumerate(batches) if number not in chosen]
                return cls(fit, [batches[number] for number in sorted(chosen)])
        if not batches and not (isinstance(loader, Sized) and len(loader)):
            raise InvalidArgumentError("loader: expected at least one batch, got none")
        raise InvalidArgumentError(
            "loader: expected two batches or more, one of which is held out, got one; use smaller batches or "
            "give held_out"
        )

    def sample(self, seed: int, max_batches: int | None) -> Iterable[Any]:
        """Return batches of the first part: all of them, or so many drawn without replacement.

        Args:
            seed: Of the choice.
            max_batches: How many; None is all of them.
        """
        if max_batches is None:
            return self.fit
        generator = torch.Generator().manual_seed(seed)
        if _is_plain(self.fit):
            order = torch.randperm(len(self.fit.dataset), generator=generator).tolist()  # type: ignore[arg-type]
            return _part(self.fit, order[: max_batches * (self.fit.batch_size or 1)], seed)
        batches = self.fit if isinstance(self.fit, Sequence) else list(self.fit)
        order = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[number] for number in order[:max_batches]]

    def first(self, device: torch.device) -> Batch:
        """Return the first batch.

        Args:
            device: Where the network is.

        Raises:
            InvalidArgumentError: If there is none.
        """
        for batch in self.fit:
            return read_batch(batch, device)
        raise InvalidArgumentError("loader: expected at least one batch, got none")

    def inputs(self, count: int) -> Tensor | None:
        """Return the first inputs, None where there is one or the network is called with several tensors.

        Args:
            count: How many at most.
        """
        found: list[Tensor] = []
        for batch in self.fit:
            positional, named = call_arguments(read_batch(batch, torch.device("cpu")).example)
            if named or len(positional) != 1 or not isinstance(positional[0], Tensor):
                return None
            found.append(positional[0])
            if sum(map(len, found)) >= count:
                break
        return torch.cat(found)[:count] if sum(map(len, found)) > 1 else None  # one has no variance


def _count(batches: list[Any], share: float) -> int:
    return max(1, round(share * len(batches)))


def _readable(loader: Iterable[Any], seed: int) -> Iterable[Any]:
    """Return a loader that can be read again, with the same batches where that can be had."""
    if _is_plain(loader):
        generator = torch.Generator().manual_seed(seed)
        return _part(loader, torch.randperm(len(loader.dataset), generator=generator).tolist(), seed)  # type: ignore[arg-type]
    return list(loader) if iter(loader) is loader else loader


def _is_plain(loader: Iterable[Any]) -> "TypeGuard[DataLoader[Any]]":
    """Whether a loader reads a data set by index, each datum once, in batches of one size."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    if type(loader.batch_sampler) is not BatchSampler or not isinstance(loader.dataset, Sized):
        return False
    return type(loader.sampler).__name__ in ("SequentialSampler", "RandomSampler") and (
        len(loader.sampler) == len(loader.dataset)  # type: ignore[arg-type]
    )


def _part(loader: "DataLoader[Any]", indices: list[int], seed: int) -> "DataLoader[Any]":
    """Return a loader of some data in that order, which draws from no random state but its own."""
    return DataLoader(
        Subset(loader.dataset, indices),
        batch_size=loader.batch_size,
        generator=torch.Generator().manual_seed(seed),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


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
    """Measure the loss of a network in evaluation mode.

    Args:
        model: The network.
        batches: With targets.
        likelihood: Distribution of the targets.
        argument: What the user calls the batches, for messages.
        shift: By how many tokens labels lag behind the outputs (`label_shift`); None finds out.

    Raises:
        InvalidArgumentError: If there are no targets, no batch, or a loss that is not finite.
    """
    device = next(model.parameters()).device
    sums, counts, seen = [], [], False
    with evaluation_mode(model), torch.no_grad():
        for number, batch in enumerate(batches, 1):
            read = read_batch(batch, device)
            if read.targets is None:
                raise InvalidArgumentError(
                    f"{argument}: expected batches with targets, by which the loss is measured, got none; "
                    "give (inputs, targets) or dicts with labels"
                )
            require_finite_batch(read, f"batch {number}", argument)
            seen = True
            if shift is None:
                shift = label_shift(model, read, likelihood)
            outputs = answers(model, read, f"batch {number}", argument)
            judged = labelled(outputs, read, likelihood, shift)
            assert judged.targets is not None
            if not likelihood.num_data(judged.targets):
                continue  # nothing but padding, or ignored labels
            likelihood.check(judged.outputs, judged.targets)
            losses = likelihood.loss(judged.outputs, judged.targets)
            if not all_finite(losses):
                raise InvalidArgumentError(
                    f"{argument}: expected a finite loss, got {losses.sum().item()} in batch {number}; look "
                    "at the scale of the weights and inputs"
                )
            sums.append(losses.double().reshape(len(losses), -1).sum(1).cpu())
            counts.append(_counted(likelihood, judged.targets, losses).cpu())
    if not sums:
        missing = "batch" if not seen else "datum with a label"
        raise InvalidArgumentError(f"{argument}: expected at least one {missing}, got none")
    return Losses(torch.cat(sums), torch.cat(counts))


def _counted(likelihood: Likelihood, targets: Tensor, losses: Tensor) -> Tensor:
    """Return the number of labelled positions of each element of a batch."""
    ignored = getattr(likelihood, "ignore_label", None)
    labelled_ones = torch.ones_like(losses) if ignored is None else targets != ignored
    return labelled_ones.reshape(len(losses), -1).sum(1).double()
