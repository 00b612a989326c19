"""The evidence for removing whole units: who is in use, what it costs, what its weights say together.

Sign: delta_f > 0 favours removal, in nats. A weight between two units counts for both when they are ranked.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction.units import UnitAxis, Units
from secateur.errors import InvalidArgumentError
from secateur.modules import call, chosen, held_masks
from secateur.posterior import Block, Posterior
from secateur.pruning.criteria import scores
from secateur.pruning.prune import with_masks
from secateur.pruning.ranking import candidates
from secateur.reduction import spike_and_slab

__all__ = ["UnitEvidence", "uses_of_weights"]


def uses_of_weights(network: nn.Module, example_input: Any) -> dict[str, float]:
    """Return how many multiply-adds of one example each entry of a weight takes part in, by parameter name.

    Args:
        network: Without masks, in evaluation mode.
        example_input: A batch, or the tuple of positional arguments of a call.
    """
    found: dict[str, float] = {}
    handles = []

    def remember(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            units = output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1]
            times = output.numel() / units / len(inputs[0])
            found[f"{name}.weight"] = found.get(f"{name}.weight", 0.0) + times

        return hook

    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            handles.append(layer.register_forward_hook(remember(name)))
    try:
        with torch.no_grad():
            call(network, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return found


@dataclass(frozen=True)
class UnitEvidence:
    """The units of a network, and the evidence for removing each.

    Attributes:
        units: Where their weights are.
        blocks: Posteriors of the layers whose entries count as evidence.
        evidence: delta_f of single entries, by parameter, in nats.
        keep: True where an entry is in, for every parameter of the model.
        allowed: Which units may go, shape (units,).
        macs_per_entry: Multiply-adds that one entry of a weight takes part in, by parameter; empty where all
            units cost the same.
    """

    units: Units
    blocks: dict[str, Block]
    evidence: dict[str, Tensor]
    keep: dict[str, Tensor]
    allowed: Tensor
    macs_per_entry: dict[str, float]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        posterior: Posterior,
        units: Units,
        *,
        kinds: tuple[str, ...],
        exclude: Sequence[str] | None,
        macs_per_entry: dict[str, float],
    ) -> "UnitEvidence":
        """Collect what is known of a model.

        Args:
            model: Network, masked or not.
            posterior: Posterior of its weights.
            units: Its units.
            kinds: Those that may go.
            exclude: Name patterns of layers whose units stay.
            macs_per_entry: See the attribute.

        Raises:
            InvalidArgumentError: If the posterior is a point estimate, or of another network.
        """
        known = with_masks(posterior, held_masks(model))
        keep = {
            name: torch.ones_like(parameter, dtype=torch.bool) for name, parameter in model.named_parameters()
        }
        for name, mean in known.mean.items():
            if name not in keep or keep[name].shape != mean.shape:
                raise InvalidArgumentError(f"posterior: expected parameters of the model, got {name!r}")
        keep |= {name: mask.to(keep[name].device) for name, mask in held_masks(model).items() if name in keep}
        keep |= {name: mask.to(keep[name].device) for name, mask in known.keep.items()}
        for block in known.blocks.values():
            scores(block)  # refuses a point estimate
        # scales of normalisation layers follow their unit
        blocks = {layer: known.blocks[layer] for layer in candidates(known)}
        evidence = {name: each for block in blocks.values() for name, each in scores(block).items()}
        pairs = zip(units.kind, units.layer, strict=True)
        flags = [kind in kinds and chosen(layer, None, exclude) for kind, layer in pairs]
        allowed = torch.tensor(flags, dtype=torch.bool)
        return cls(units, blocks, evidence, keep, allowed, macs_per_entry)

    def _sums(self, entries: dict[str, Tensor], *, produces: bool, least_dim: int = 1) -> Tensor:
        """Add up entries by unit, on one side of it, shape (units,)."""
        total = torch.zeros(len(self.units), dtype=torch.float64)
        for axis in self.units.axes:
            values = entries.get(axis.parameter)
            if values is None or axis.produces != produces or values.dim() < least_dim:
                continue
            others = [other for other in range(values.dim()) if other != axis.axis]
            each = values.sum(others, dtype=torch.float64) if others else values.double()
            inside = axis.unit >= 0
            total.index_add_(0, axis.unit[inside], each.cpu()[inside])
        return total

    def _of_units(self, keep: dict[str, Tensor], *, produces: bool) -> Tensor:
        """Return the evidence for removing each unit's entries on one side of it, shape (units,)."""
        total = torch.zeros(len(self.units), dtype=torch.float64)
        for block in self.blocks.values():
            inside = block.given({name: keep[name] for name in block.mean})
            waiting = [
                axis for axis in self.units.axes if axis.parameter in block.mean and axis.produces == produces
            ]
            while waiting:  # almost always once: an entry belongs to one unit on each side
                now = {axis.parameter: axis for axis in reversed(waiting)}
                waiting = [axis for axis in waiting if now[axis.parameter] is not axis]
                labels = {
                    name: _along(now[name], now[name].unit, mean).expand(mean.shape).to(mean.device)
                    if name in now
                    else torch.full(mean.shape, -1, device=mean.device)
                    for name, mean in block.mean.items()
                }
                found = inside.delta_f(labels)
                assert isinstance(found, Tensor)
                total[: len(found)] += found.nan_to_num().double().cpu()
        return total

    def predicted(self, keep: dict[str, Tensor], after: dict[str, Tensor]) -> float:
        """Return the evidence for a removal, layer by layer, in nats.

        Args:
            keep: True where an entry was in before.
            after: True where it still is.
        """
        total = []
        for block in self.blocks.values():
            inside = block.given({name: keep[name] for name in block.mean})
            labels = {name: -(after[name] | ~keep[name]).to(torch.int64) for name in block.mean}
            if any(bool((label == 0).any()) for label in labels.values()):
                found = inside.delta_f(labels)
                assert isinstance(found, Tensor)
                total.append(float(found))
        return math.fsum(total)

    def in_use(self, keep: dict[str, Tensor]) -> Tensor:
        """Return which units have weights that make them and weights that read them."""
        return (self._sums(keep, produces=True, least_dim=2) > 0) & (self._sums(keep, produces=False) > 0)

    def costs(self, in_use: Tensor) -> Tensor:
        """Return what each unit costs, relative to the mean of those in use, shape (units,)."""
        if not self.macs_per_entry:
            return torch.ones(len(self.units), dtype=torch.float64)
        used = self._multiply_adds(in_use)
        total = self._sums(used, produces=True) + self._sums(used, produces=False)
        return total / total[in_use].mean().clamp_min(1e-30)

    def share_of_multiply_adds(self, keep: dict[str, Tensor]) -> float:
        """Return the multiply-adds of units in use over those of all units; needs `macs_per_entry`."""
        everything = torch.ones(len(self.units), dtype=torch.bool)
        used, every = (self._multiply_adds(each) for each in (self.in_use(keep), everything))
        return sum(float(each.sum()) for each in used.values()) / sum(float(e.sum()) for e in every.values())

    def _multiply_adds(self, in_use: Tensor) -> dict[str, Tensor]:
        """Return the multiply-adds of each entry of a weight, zero or not, while its units are in use."""
        used = {
            name: torch.full_like(self.keep[name], times, dtype=torch.float64)
            for name, times in self.macs_per_entry.items()
        }
        marked = torch.cat([in_use, torch.ones(1, dtype=torch.bool)])  # the last stands for -1, no unit
        for axis in self.units.axes:
            if axis.parameter in used:
                each = used[axis.parameter]
                each *= _along(axis, marked[axis.unit], each).to(each)
        return used

    def ranked(self, keep: dict[str, Tensor], price: float) -> Tensor:
        """Return the units whose evidence favours removal, in order of evidence."""
        evidence = self._of_units(keep, produces=True) + self._of_units(keep, produces=False)
        in_use = self.in_use(keep)
        threshold = torch.full_like(evidence, math.inf)
        best = torch.zeros_like(in_use)  # a layer without any unit would not depend on the input
        layers = self.units.layer
        for layer in dict.fromkeys(layers):
            own = torch.tensor([name == layer for name in layers])
            if (own & in_use).any():
                odds = spike_and_slab(evidence[own & in_use], num_removed=int((own & ~in_use).sum())).log_odds
                threshold[own] = float(odds)
                best[torch.where(own & in_use, evidence, math.inf).argmin()] = True
        costs = self.costs(in_use).clamp_min(1e-9)
        wanted = in_use & self.allowed & ~best & (evidence > threshold - price * costs)
        order = (evidence / costs).argsort(descending=True, stable=True)
        return order[wanted[order]]

    def without(self, keep: dict[str, Tensor], gone: Tensor) -> dict[str, Tensor]:
        """Return the masks without these units: neither what makes nor what reads them."""
        marked = torch.zeros(len(self.units) + 1, dtype=torch.bool)  # the last stands for -1, no unit
        marked[gone] = True
        masks = dict(keep)
        for axis in self.units.axes:
            mask = masks[axis.parameter]
            masks[axis.parameter] = mask & ~_along(axis, marked[axis.unit], mask).to(mask.device)
        return masks

    def without_readers(self, keep: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the masks without the weights of units that nothing reads any more."""
        while True:
            makes, reads = (self._sums(keep, produces=side) > 0 for side in (True, False))
            unread = makes & ~reads
            if not unread.any():
                return keep
            keep = self.without(keep, unread.nonzero().flatten())

    def by_layer(self, flags: Tensor) -> dict[str, int]:
        """Count units by the layer that makes them."""
        counts = dict.fromkeys(self.units.layer, 0)
        for layer, flag in zip(self.units.layer, flags.tolist(), strict=True):
            counts[layer] += flag
        return counts


def _along(axis: UnitAxis, values: Tensor, like: Tensor) -> Tensor:
    """Return one value per position of an axis, shaped to broadcast over a parameter."""
    return values.reshape([-1 if other == axis.axis else 1 for other in range(like.dim())])
