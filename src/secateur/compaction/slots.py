"""Which positions along the axes of a network's tensors must go or stay together.

A *slot* is one unit as the whole network sees it: a neuron, a channel, a head. Each axis of each tensor is
either unlabelled (None: its size cannot change) or labelled by one slot per position. Adding two tensors
unifies their slots; flattening repeats them; splitting a labelled axis chooses one of the new axes to carry
the slots and unifies along the others, so that tensors stay rectangular.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Axes", "Slots", "indexed_axes", "reshaped_axes"]

Axes = list[Tensor | None]


class Slots:
    """Union-find over slots, with a mark for those that can never be removed."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._frozen: dict[int, str] = {}
        self.cause = ""  # what freezes slots just now

    def new(self, count: int) -> Tensor:
        """Return `count` new slots."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def _find(self, slot: int) -> int:
        root = slot
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[slot] != root:
            self._parent[slot], slot = root, self._parent[slot]
        return root

    def unify(self, first: Tensor, second: Tensor) -> None:
        """Let the slots of two equally long vectors go or stay together, pair by pair."""
        for a, b in set(zip(first.tolist(), second.tolist(), strict=True)):
            self._parent[self._find(a)] = self._find(b)

    def freeze(self, ids: Tensor | None) -> None:
        """Keep these slots in any case."""
        if ids is not None:
            for slot in ids.tolist():
                self._frozen.setdefault(slot, self.cause)

    @property
    def num_frozen(self) -> int:
        """How many were frozen by themselves."""
        return len(self._frozen)

    def freeze_all(self, axes: Iterable[Tensor | None]) -> None:
        """Keep every slot on these axes."""
        for ids in axes:
            self.freeze(ids)

    def roots(self) -> Tensor:
        """Return each slot's representative, shape (number of slots)."""
        return torch.tensor([self._find(slot) for slot in range(len(self._parent))], dtype=torch.long)

    def frozen(self) -> Tensor:
        """Return for each slot whether it, or one unified with it, is frozen."""
        roots = self.roots()
        frozen = torch.zeros(len(roots), dtype=torch.bool)
        frozen[roots[sorted(self._frozen)]] = True
        return frozen[roots]

    def reason(self, slot: int) -> str:
        """Return what froze a slot, or one unified with it; empty where nothing did."""
        root = self._find(slot)
        return next((why for other, why in self._frozen.items() if self._find(other) == root), "")

    def join(self, operands: Sequence[tuple[Axes, torch.Size]], shape: torch.Size) -> Axes:
        """Return the axes of a broadcast elementwise result, unifying its operands' slots."""
        joined: Axes = [None] * len(shape)
        for back in range(1, len(shape) + 1):
            present = [
                (axes[-back], size[-back])
                for axes, size in operands
                if len(size) >= back and size[-back] is not None
            ]
            full = [ids for ids, size in present if size == shape[-back]]
            for ids, size in present:
                if size != shape[-back]:
                    self.freeze(ids)
            labelled = [ids for ids in full if ids is not None]
            if not labelled:
                continue
            if len(labelled) < len(full):
                self.freeze_all(labelled)
            for other in labelled[1:]:
                self.unify(labelled[0], other)
            joined[-back] = labelled[0]
        return joined


def reshaped_axes(
    slots: Slots, axes: Axes, before: torch.Size, after: torch.Size, *, choice: int
) -> tuple[Axes, bool]:
    """Return the axes of a reshaped tensor.

    Args:
        slots: Unified or frozen where rectangles demand it.
        axes: Axes before.
        before: Shape before.
        after: Shape after.
        choice: Where a labelled axis is split so that several of the new axes could carry its slots, the
            number of the one that does (among those longer than one; the last if there are fewer).

    Returns:
        The axes, and whether `choice` mattered.
    """
    result: Axes = [None] * len(after)
    ambiguous = False
    for old, new in _blocks(before, after):
        labelled = [axis for axis in old if axes[axis] is not None]
        for axis in labelled[1:]:
            slots.freeze(axes[axis])
        if not labelled:
            continue
        ids = axes[labelled[0]]
        assert ids is not None
        after_it = math.prod(before[axis] for axis in old if axis > labelled[0])
        before_it = math.prod(before[axis] for axis in old if axis < labelled[0])
        grid = ids.repeat_interleave(after_it).repeat(before_it).reshape([after[axis] for axis in new])
        long = [i for i, axis in enumerate(new) if after[axis] > 1]
        if not long:
            slots.freeze(ids)
            continue
        carries = [i for i in long if _varies_only_along(grid, i)]
        if carries:
            carrier = carries[0]
        else:
            carrier = long[min(choice, len(long) - 1)]
            ambiguous = True
        rows = grid.movedim(carrier, 0).reshape(grid.shape[carrier], -1)
        for column in rows.T[1:]:
            slots.unify(rows[:, 0], column)
        result[new[carrier]] = rows[:, 0]
    return result, ambiguous


def _varies_only_along(grid: Tensor, axis: int) -> bool:
    rows = grid.movedim(axis, 0).reshape(grid.shape[axis], -1)
    return bool((rows == rows[:, :1]).all())


def _blocks(before: torch.Size, after: torch.Size) -> list[tuple[list[int], list[int]]]:
    """Split two shapes of equal product into the shortest runs of axes of equal product."""
    blocks = []
    i = j = 0
    while i < len(before) or j < len(after):
        old: list[int] = []
        new: list[int] = []
        left = right = 1
        while True:
            if (left < right or (left == right and not old)) and i < len(before):
                left *= before[i]
                old.append(i)
                i += 1
            elif j < len(after) and (left > right or not new):
                right *= after[j]
                new.append(j)
                j += 1
            elif left != right and i < len(before):
                left *= before[i]
                old.append(i)
                i += 1
            else:
                break
        blocks.append((old, new))
    return blocks


def indexed_axes(slots: Slots, axes: Axes, shape: torch.Size, index: tuple[object, ...]) -> Axes | None:
    """Return the axes of `x[index]`, or None if the index is more than integers, slices, None and `...`.

    A slot whose position is picked by an integer, or an axis of which a slice takes a part, is frozen: the
    literal position would mean another unit once some are gone.
    """
    if any(not (item is None or item is Ellipsis or isinstance(item, (int, slice))) for item in index):
        return None
    used = sum(isinstance(item, (int, slice)) for item in index)
    result: Axes = []
    axis = 0
    for item in index if Ellipsis in index else (*index, Ellipsis):
        if item is None:
            result.append(None)
        elif item is Ellipsis:
            count = len(shape) - used
            result.extend(axes[axis : axis + count])
            axis += count
        elif isinstance(item, slice):
            ids = axes[axis]
            if ids is not None and len(range(*item.indices(shape[axis]))) != shape[axis]:
                slots.freeze(ids)
                ids = ids[item] if item.step is None or item.step > 0 else None
            result.append(ids)
            axis += 1
        else:
            slots.freeze(axes[axis])
            axis += 1
    return result
