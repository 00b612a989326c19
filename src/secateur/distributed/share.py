"""Which data of a batch of all ranks a rank has."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from secateur.distributed.group import rank

__all__ = ["Share"]


@dataclass(frozen=True)
class Share:
    """A rank's part of a batch that all ranks have together.

    Attributes:
        places: Place in the whole batch of each datum of the part, rising.
        size: Data of the whole batch.
    """

    places: tuple[int, ...]
    size: int

    @classmethod
    def dealt(cls, counts: Sequence[int], of: int | None = None) -> "Share":
        """Return the part of a rank, as cards are dealt.

        Args:
            counts: Data of each rank.
            of: The rank; this one when None.

        >>> Share.dealt([3, 1], of=0), Share.dealt([3, 1], of=1)
        (Share(places=(0, 2, 3), size=4), Share(places=(1,), size=4))
        """
        own = rank() if of is None else of
        places = tuple(
            sum(min(count, turn + (other < own)) for other, count in enumerate(counts))
            for turn in range(counts[own])
        )
        return cls(places, sum(counts))

    def first(self, count: int) -> "Share":
        """Return the part of the first data of the whole batch.

        Args:
            count: How many; all where there are fewer.
        """
        return Share(tuple(place for place in self.places if place < count), min(self.size, count))

    def spread(self, rows: Tensor) -> Tensor:
        """Return a tensor for the whole batch that has this part's rows in their places, and zeros elsewhere.

        Args:
            rows: One for each datum of the part.
        """
        whole = rows.new_zeros(self.size, *rows.shape[1:])
        whole[list(self.places)] = rows
        return whole
