"""The data of several ranks as the parts of one loader, whose batches all ranks read at one pace."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from secateur.curvature.batches import Dealt, read_batch
from secateur.distributed import Share, gathered, num_ranks
from secateur.errors import InvalidArgumentError

__all__ = ["DealtLoader", "dealt_batches"]


@dataclass(frozen=True)
class DealtLoader:
    """A loader over a data set in this rank's memory, as the part of one over the data sets of all ranks.

    Attributes:
        loader: This rank's.
        order: Numbers of the data of all ranks, as they are dealt, in the order they are read in.
        own: Index in this rank's data set of those that it has, by number.
        batch_size: Data of a batch of all ranks.
        seed: Of the random state that workers draw from.
    """

    loader: "DataLoader[Any]"
    order: tuple[int, ...]
    own: Mapping[int, int]
    batch_size: int
    seed: int = 0

    @classmethod
    def of(cls, loader: "DataLoader[Any]") -> "DealtLoader":
        """Number the data of all ranks.

        Args:
            loader: This rank's, over a data set that can be indexed.

        Raises:
            InvalidArgumentError: If the data set is empty.
        """
        count = len(loader.dataset)  # type: ignore[arg-type]
        if not count:
            raise InvalidArgumentError("loader: expected at least one datum on every rank, got none on this")
        share = Share.dealt(gathered(count))
        own = {number: index for index, number in enumerate(share.places)}
        return cls(loader, tuple(range(share.size)), own, (loader.batch_size or 1) * num_ranks())

    @property
    def num_data(self) -> int:
        """Data of all ranks that are read."""
        return len(self.order)

    def part(self, indices: Iterable[int], seed: int) -> "DealtLoader":
        """Return a loader of some data.

        Args:
            indices: Positions in `order`.
            seed: Of the random state that workers draw from.
        """
        return replace(self, order=tuple(self.order[index] for index in indices), seed=seed)

    def __iter__(self) -> Iterator[Dealt]:
        """Read batch after batch; where this rank has none of a batch, a part without data."""
        loader = self.loader
        starts = range(0, len(self.order), self.batch_size)
        whole = [self.order[start : start + self.batch_size] for start in starts]
        parts = [
            {place: self.own[number] for place, number in enumerate(batch) if number in self.own}
            for batch in whole
        ]
        batches = iter(
            DataLoader(
                loader.dataset,
                batch_sampler=[list(part.values()) for part in parts if part],
                generator=torch.Generator().manual_seed(self.seed),
                num_workers=loader.num_workers,
                collate_fn=loader.collate_fn,
                pin_memory=loader.pin_memory,
                worker_init_fn=loader.worker_init_fn,
            )
        )
        for part, numbers in zip(parts, whole, strict=True):
            batch = next(batches) if part else loader.collate_fn([loader.dataset[0]])
            yield Dealt(batch, Share(tuple(part), len(numbers)))


def dealt_batches(batches: Iterable[Any]) -> list[Dealt]:
    """Return this rank's batches as parts of those that all ranks have together: first with first, and so on.

    Args:
        batches: As a loader gives them; they are kept in memory.

    Raises:
        InvalidArgumentError: If there is none.
    """
    own = list(batches)
    if not own:
        raise InvalidArgumentError("loader: expected at least one batch on every rank, got none on this")
    sizes = gathered([read_batch(batch, torch.device("cpu")).size for batch in own])
    shares = [
        Share.dealt([each[number] if number < len(each) else 0 for each in sizes])
        for number in range(max(map(len, sizes)))
    ]
    return [Dealt(own[min(number, len(own) - 1)], share) for number, share in enumerate(shares)]
