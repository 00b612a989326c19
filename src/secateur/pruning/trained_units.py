"""Whole neurons, channels and heads of a trained network: which weights each has, and which go first.

A unit is made by rows of some layers and read by columns of one. Without it the rows are of no use. So it
costs what its columns cost the layer that reads them, after those that went before it
(`secateur.pruning.unit_path`). Units go in the order of nats per weight, or per multiply-add, that is saved.
Those that several layers read (residual streams) stay: what they cost in each is not independent.
"""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction import find_units
from secateur.compaction.units import KINDS, UnitAxis
from secateur.errors import InvalidArgumentError
from secateur.pruning.joint_layer import JointLayer
from secateur.pruning.operations import dense_part
from secateur.pruning.unit_path import UnitPath

__all__ = ["TrainedUnits"]


@dataclass(frozen=True)
class TrainedUnits:
    """Units that may go.

    Attributes:
        axes: Which weights each is made of and read by; units that may not go are -1.
        count: How many units are numbered.
        readers: For each unit that may go, the weight that reads it.
        makers: The layer that makes each of those, the first one where several do.
        operations: Multiply-adds that an entry of each weight takes part in, by name; None where what counts
            are the weights themselves. An *amount* below is of one or the other.
    """

    axes: tuple[UnitAxis, ...]
    count: int
    readers: dict[int, str]
    makers: dict[int, str]
    operations: Mapping[str, float] | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example: Any,
        kinds: tuple[str, ...],
        names: set[str],
        *,
        operations: Mapping[str, float] | None = None,
    ) -> "TrainedUnits":
        """Find the units of some kinds, all of whose weights may go, and that one weight reads.

        Args:
            model: Network, held or not.
            example: Arguments of a call.
            kinds: Some of "neuron", "channel", "head".
            names: Parameters that may lose entries.
            operations: As the attribute.

        Raises:
            InvalidArgumentError: If there are none.
        """
        units = find_units(model, example)
        allowed = torch.tensor([kind in kinds for kind in units.kind], dtype=torch.bool)
        reads: dict[int, set[str]] = {}
        shapes = {name: parameter.dim() for name, parameter in model.named_parameters()}
        for axis in units.axes:
            of = axis.unit[axis.unit >= 0].unique()
            if shapes.get(axis.parameter, 0) > 1 and axis.parameter not in names:
                allowed[of] = False
            if not axis.produces:
                for unit in of.tolist():
                    reads.setdefault(unit, set()).add(axis.parameter)
        for unit in range(len(units)):
            allowed[unit] &= len(reads.get(unit, ())) == 1
        if not allowed.any():
            found = ", ".join(kind for kind in KINDS if kind in units.kind) or "no units that can be removed"
            raise InvalidArgumentError(
                f"granularity: expected {' or '.join(kinds)}s that one layer reads and that may go, got a "
                f"network with {found}; use 'weight'"
            )
        chosen = torch.cat([torch.where(allowed, torch.arange(len(units)), -1), torch.tensor([-1])])
        axes = tuple(
            UnitAxis(axis.parameter, axis.axis, chosen[axis.unit], axis.produces) for axis in units.axes
        )
        readers = {unit: next(iter(reads[unit])) for unit in allowed.nonzero().flatten().tolist()}
        makers = {unit: units.layer[unit] for unit in readers}
        axes = tuple(axis for axis in axes if (axis.unit >= 0).any())
        return cls(axes, len(units), readers, makers, operations)

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters that units are made of or read by."""
        return {axis.parameter for axis in self.axes}

    def _counted(self, name: str, mask: Tensor) -> tuple[Tensor, float]:
        """Return which entries of a parameter count, and as how much each."""
        if self.operations is None:
            return mask, 1.0
        return dense_part(mask), self.operations.get(name, 0.0)

    def sizes(self, keep: Mapping[str, Tensor]) -> Tensor:
        """Return the amount that each unit has of what is in.

        Args:
            keep: True where an entry is in; parameters that are not named do not count.
        """
        sizes = torch.zeros(self.count, dtype=torch.float64)
        for axis in self.axes:
            if axis.parameter not in keep:
                continue
            counts, each = self._counted(axis.parameter, keep[axis.parameter])
            others = [other for other in range(counts.dim()) if other != axis.axis]
            along = each * (counts.sum(others) if others else counts.long()).double().cpu()
            inside = axis.unit >= 0
            sizes.index_add_(0, axis.unit[inside], along[inside])
        return sizes

    def total(self, keep: Mapping[str, Tensor]) -> float:
        """Return the amount of all entries, those that are out included.

        Args:
            keep: Masks of the parameters that count.
        """
        rates = {name: self._counted(name, mask)[1] for name, mask in keep.items()}
        return math.fsum(rates[name] * mask.numel() for name, mask in keep.items())

    def out(self, keep: Mapping[str, Tensor]) -> float:
        """Return the amount that is out.

        Args:
            keep: True where an entry is in.
        """
        counted = [self._counted(name, mask) for name, mask in keep.items()]
        return math.fsum(each * (mask.numel() - int(mask.count_nonzero())) for mask, each in counted)

    def most_out(self, keep: Mapping[str, Tensor]) -> float:
        """Return the amount that can be out when each layer keeps one unit.

        Args:
            keep: True where an entry is in.
        """
        sizes = self.sizes(keep)
        gone = torch.zeros(self.count, dtype=torch.bool)
        gone[list(self.readers)] = True
        for reader in set(self.readers.values()):
            own = torch.tensor([unit for unit, name in self.readers.items() if name == reader])
            inside = own[sizes[own] > 0]
            if len(inside):
                gone[inside[sizes[inside].argmin()]] = False
        return self.out(self.without(keep, gone))

    def in_use(self, keep: Mapping[str, Tensor]) -> dict[str, int]:
        """Return how many units each layer makes that anything reads, by the layer's name.

        Args:
            keep: True where an entry is in.
        """
        read = torch.zeros(self.count, dtype=torch.bool)
        for axis in self.axes:
            if not axis.produces and axis.parameter in keep:
                mask = keep[axis.parameter]
                along = mask.movedim(axis.axis, 0).flatten(1).any(1).cpu()
                read[axis.unit[along & (axis.unit >= 0)]] = True
        counts = dict.fromkeys(self.makers.values(), 0)
        for unit, layer in self.makers.items():
            counts[layer] += int(read[unit])
        return counts

    def paths(self, layers: Mapping[str, JointLayer], keep: Mapping[str, Tensor]) -> list[UnitPath]:
        """Return what tells the costs of units, one for each layer that reads some.

        Args:
            layers: The layer of each weight that reads units, by the weight's name.
            keep: True where an entry is in.

        Raises:
            InvalidArgumentError: If the curvature has no factor of a layer that reads units.
        """
        found = []
        for axis in self.axes:
            if axis.produces or axis.parameter not in keep:
                continue
            if axis.parameter not in layers or layers[axis.parameter].column_curvature is None:
                raise InvalidArgumentError(
                    f"{axis.parameter}: expected joint curvature of the layer that reads units, got none; "
                    'use structure="kronecker" or "row", or exclude it'
                )
            found.append(UnitPath(axis.unit, layers[axis.parameter]))
        return found

    def without(self, keep: Mapping[str, Tensor], gone: Tensor) -> dict[str, Tensor]:
        """Return masks in which every weight that makes or reads one of these units is out.

        Args:
            keep: Masks before.
            gone: True for units to remove.
        """
        after = {name: mask.clone() for name, mask in keep.items()}
        flags = torch.cat([gone, torch.tensor([False])])
        for axis in self.axes:
            if axis.parameter in after:
                mask = after[axis.parameter]
                shape = [-1 if each == axis.axis else 1 for each in range(mask.dim())]
                mask &= ~flags[axis.unit].to(mask.device).view(shape)
        return after

    def cheapest(
        self, layers: Mapping[str, JointLayer], keep: Mapping[str, Tensor], most_out: float
    ) -> dict[str, Tensor]:
        """Return masks without the units that cost least for what they save, the last of no layer.

        Args:
            layers: As for `paths`.
            keep: Masks before.
            most_out: The largest amount to be out afterwards.
        """
        paths, after = self.paths(layers, keep), {name: mask.clone() for name, mask in keep.items()}
        while True:  # an entry that two units share is counted with both, so there may be room for more
            gone = self._cheapest(paths, self.sizes(after), most_out - self.out(after))
            if not gone.any():
                return after
            after = self.without(after, gone)

    def _cheapest(self, paths: list[UnitPath], sizes: Tensor, left: float) -> Tensor:
        """Take units out of their layers while they fit, the cheapest of all layers first; return which."""
        gone = torch.zeros(self.count, dtype=torch.bool)
        heads: list[tuple[float, int, int]] = []

        def look_at(number: int) -> None:
            if (found := paths[number].cheapest(sizes, left)) is not None:
                heapq.heappush(heads, (found[0], number, found[1]))

        for number in range(len(paths)):
            look_at(number)
        while heads:
            _, number, unit = heapq.heappop(heads)
            if float(sizes[unit]) <= left:  # there may be less room than when it was looked at
                paths[number].remove(unit)
                gone[unit] = True
                left -= float(sizes[unit])
            look_at(number)
        return gone
