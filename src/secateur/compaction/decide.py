"""Which slots a network needs.

A slot is needed if it is frozen, or if some needed output reads it and what it carries cannot be written
into that output's bias. This is the least fixed point, found by walking the sinks until nothing changes.

Constant channels before a zero-padded convolution are not a plain bias (the padding is zero, the constant is
not). They are all multiples of one another, though, so one of them can stand in for the rest:

    sum_j w[:, j] * (c_j 1) = (sum_j w[:, j] c_j / c_r) * (c_r 1)
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.compaction.flow import Analysis, Sink

__all__ = ["Decision", "decide"]


@dataclass(frozen=True)
class Decision:
    """Which slots stay.

    Attributes:
        kept: Whether each slot stays, shape (slots); equal for unified slots.
        needed: Whether anything depends on it. A slot that is kept without being needed only fills up its
            axis; what feeds it may be gone, so nothing may read it.
        roots: Representative of each slot, shape (slots).
        stand_ins: Slot that is not needed to the needed slot that takes over its contribution, both
            representatives.
    """

    kept: Tensor
    needed: Tensor
    roots: Tensor
    stand_ins: dict[int, int] = field(default_factory=dict)

    def keeps(self, ids: Tensor) -> Tensor:
        """Return whether each of these positions stays."""
        return self.kept[ids]


def decide(analysis: Analysis, *, multiple_of: int = 1) -> Decision:
    """Decide which slots stay.

    Args:
        analysis: Constants, slots and sinks of the graph.
        multiple_of: Each layer keeps a multiple of this many units, or all it has.

    Returns:
        The decision: a layer keeps at least one unit, so that it still runs.
    """
    roots = analysis.slots.roots()
    frozen = analysis.slots.frozen()
    needed = _needed(analysis.sinks, roots, frozen.clone(), {})
    stand_ins = _stand_ins(analysis.sinks, roots, frozen, needed)
    if stand_ins:
        seeds = frozen.clone()
        seeds[list(set(stand_ins.values()))] = True
        needed = _needed(analysis.sinks, roots, _spread(seeds, roots), stand_ins)
    kept = needed.clone()
    _keep_enough(analysis, roots, kept, multiple_of)
    return Decision(kept, needed, roots, stand_ins)


def _spread(marks: Tensor, roots: Tensor) -> Tensor:
    """Mark all slots unified with a marked one."""
    marked = torch.zeros_like(marks)
    marked[roots[marks]] = True
    return marked[roots]


def _needed(sinks: list[Sink], roots: Tensor, needed: Tensor, replaced: dict[int, int]) -> Tensor:
    is_replaced = torch.tensor([int(root) in replaced for root in roots], dtype=torch.bool)
    changed = True
    while changed:
        changed = False
        for sink in reversed(sinks):
            wanted = sink.reads[needed[sink.outputs]].any(0) & ~sink.foldable & ~is_replaced[sink.inputs]
            wanted &= ~needed[sink.inputs]
            if wanted.any():
                needed[sink.inputs[wanted]] = True
                needed = _spread(needed, roots)
                changed = True
    return needed


def _stand_ins(sinks: list[Sink], roots: Tensor, frozen: Tensor, needed: Tensor) -> dict[int, int]:
    """Pair each needed constant slot with the largest constant slot that reaches the same sinks."""
    appears: dict[int, list[tuple[int, float]]] = {}
    for number, sink in enumerate(sinks):
        for slot, constant in zip(roots[sink.inputs].tolist(), sink.constant.tolist(), strict=True):
            appears.setdefault(slot, []).append((number, constant))
    groups: dict[tuple[int, ...], list[int]] = {}
    for slot, uses in appears.items():
        numbers = tuple(number for number, _ in uses)
        constants = [constant for _, constant in uses]
        once = len(set(numbers)) == len(numbers)
        if needed[slot] and not frozen[slot] and once and all(constant == constant for constant in constants):
            groups.setdefault(numbers, []).append(slot)
    pairs = {}
    for slots in groups.values():
        best = max(slots, key=lambda slot: min(abs(constant) for _, constant in appears[slot]))
        if all(constant != 0 for _, constant in appears[best]):
            pairs.update({slot: best for slot in slots if slot != best})
    return pairs


def _keep_enough(analysis: Analysis, roots: Tensor, kept: Tensor, multiple_of: int) -> None:
    """Bring slots back until each axis has one at least, and a multiple where that is asked."""
    axes = [
        ids for layer in analysis.layers.values() for ids in (layer.inputs, layer.outputs) if ids is not None
    ]
    axes += [ids for axes in analysis.tensors.values() for ids in axes if ids is not None]
    axes += [
        pads for flow in analysis.flows.values() for pads in getattr(flow, "axes", ()) if pads is not None
    ]
    changed = True
    while changed:
        changed = False
        for ids in axes:
            own = torch.unique(roots[ids])
            count = int(kept[own].sum())
            target = max(1, -(-count // multiple_of) * multiple_of)
            gone = own[~kept[own]]
            if count < min(target, len(own)):
                kept |= _spread(torch.zeros_like(kept).index_fill_(0, gone[: target - count], True), roots)
                changed = True
