"""Data of a trained network in two parts: what a removal is asked of, and what it is judged by.

One part moves the weights and gives their curvature. The other is held out, so that the loss on it says
whether a removal can be trusted. Among ranks both are parts of all ranks' data together, chosen as one
process with all of them chooses.
"""

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset

from secateur.curvature.batches import Batch, read_batch
from secateur.distributed import num_ranks, require_same, sum_in_place
from secateur.errors import InvalidArgumentError
from secateur.modules import call_arguments
from secateur.pruning.dealing import DealtLoader, dealt_batches

__all__ = ["CalibrationData"]

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
        if num_ranks() > 1:
            loader, held_out = _over_ranks(loader), None if held_out is None else _over_ranks(held_out)
        if held_out is not None:
            return cls(_readable(loader, seed), _readable(held_out, seed))
        generator = torch.Generator().manual_seed(seed)
        if _is_plain(loader):
            order = torch.randperm(_num_data(loader), generator=generator).tolist()
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
            order = torch.randperm(_num_data(self.fit), generator=generator).tolist()
            return _part(self.fit, order[: max_batches * (self.fit.batch_size or 1)], seed)
        batches = self.fit if isinstance(self.fit, Sequence) else list(self.fit)
        order = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[number] for number in order[:max_batches]]

    def first(self, model: nn.Module) -> Batch:
        """Return the first batch, where the network is; of this rank, where there are several.

        Args:
            model: The network.

        Raises:
            InvalidArgumentError: If there is none.
        """
        for batch in self.fit:
            if (read := read_batch(batch, next(model.parameters()).device, model)).size:
                return read
        raise InvalidArgumentError("loader: expected at least one batch, got none")

    def inputs(self, count: int) -> Tensor | None:
        """Return the first inputs, None where there is one or the network is called with several tensors.

        Args:
            count: How many at most.
        """
        found: list[Tensor] = []
        for batch in self.fit:
            read = read_batch(batch, torch.device("cpu"))
            positional, named = call_arguments(read.example)
            if named or len(positional) != 1 or not isinstance(positional[0], Tensor):
                return None
            found.append(positional[0] if read.share is None else read.share.spread(positional[0]))
            sum_in_place(found[-1:])
            if sum(map(len, found)) >= count:
                break
        return torch.cat(found)[:count] if sum(map(len, found)) > 1 else None  # one has no variance


def _count(batches: list[Any], share: float) -> int:
    return max(1, round(share * len(batches)))


def _readable(loader: Iterable[Any], seed: int) -> Iterable[Any]:
    """Return a loader that can be read again, with the same batches where that can be had."""
    if _is_plain(loader):
        generator = torch.Generator().manual_seed(seed)
        return _part(loader, torch.randperm(_num_data(loader), generator=generator).tolist(), seed)
    return list(loader) if iter(loader) is loader else loader


def _over_ranks(loader: Iterable[Any]) -> Iterable[Any]:
    """Return a loader as a part of one of all ranks."""
    plain = _is_plain(loader)
    size = loader.batch_size if plain else None  # type: ignore[attr-defined]
    require_same(
        {"kind of loader": "by index" if plain else "of batches", "batch size": size},
        advice="give every rank a part of the data in a loader of one kind",
    )
    return DealtLoader.of(loader) if plain else dealt_batches(loader)  # type: ignore[arg-type]


def _num_data(loader: "DataLoader[Any] | DealtLoader") -> int:
    return loader.num_data if isinstance(loader, DealtLoader) else len(loader.dataset)  # type: ignore[arg-type]


def _is_plain(loader: Iterable[Any]) -> "TypeGuard[DataLoader[Any] | DealtLoader]":
    """Whether a loader reads a data set by index, each datum once, in batches of one size."""
    if isinstance(loader, DealtLoader):
        return True
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    if type(loader.batch_sampler) is not BatchSampler or not isinstance(loader.dataset, Sized):
        return False
    return type(loader.sampler).__name__ in ("SequentialSampler", "RandomSampler") and (
        len(loader.sampler) == len(loader.dataset)  # type: ignore[arg-type]
    )


def _part(loader: "DataLoader[Any] | DealtLoader", indices: list[int], seed: int) -> Iterable[Any]:
    """Return a loader of some data in that order, which draws from no random state but its own."""
    if isinstance(loader, DealtLoader):
        return loader.part(indices, seed)
    return DataLoader(
        Subset(loader.dataset, indices),
        batch_size=loader.batch_size,
        generator=torch.Generator().manual_seed(seed),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )
