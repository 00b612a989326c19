"""The evidence for removing whole units: who is in use, what it costs, what its weights say together.

Sign: delta_f > 0 favours removal, in nats. A weight between two units counts for both when they are ranked.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction.units import Units
from secateur.errors import InvalidArgumentError
from secateur.inference.arguments import chosen
from secateur.posterior import Posterior
from secateur.pruning.masks import masks_of
from secateur.pruning.ranking import candidates
from secateur.reduction import delta_f, spike_and_slab

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
            network(*(example_input if isinstance(example_input, tuple) else (example_input,)))
    finally:
        for handle in handles:
            handle.remove()
    return found


@dataclass(frozen=True)
class UnitEvidence:
    """Units, and what each entry of the network would contribute to the evidence for removing them."""

    units: Units
    evidence: dict[str, Tensor]  # delta_f per entry, of parameters that have one
    keep: dict[str, Tensor]  # True where an entry is in, for every parameter of the model
    allowed: Tensor  # (units,)
    positions: dict[
        str, float
    ]  # multiply-adds that one entry of a weight takes part in; empty: all units cost 1

    @classmethod
    def of(
        cls,
        model: nn.Module,
        posterior: Posterior,
        units: Units,
        *,
        kinds: tuple[str, ...],
        exclude: Sequence[str] | None,
        positions: dict[str, float],
    ) -> "UnitEvidence":
        """Collect what is known of a model.

        Args:
            model: Network, masked or not.
            posterior: Posterior of its weights.
            units: Its units.
            kinds: Those that may go.
            exclude: Name patterns of layers whose units stay.
            positions: See the attribute.

        Raises:
            InvalidArgumentError: If the posterior is a point estimate, or of another network.
        """
        masks = masks_of(model)
        keep = {}
        for name, parameter in model.named_parameters():
            plain = name.removesuffix("_orig") if name.removesuffix("_orig") in masks else name
            keep[plain] = masks.get(plain, torch.ones_like(parameter, dtype=torch.bool)).clone()
        for name, mean in posterior.mean.items():
            if name not in keep or keep[name].shape != mean.shape:
                raise InvalidArgumentError(f"posterior: expected parameters of the model, got {name!r}")
            if torch.isinf(posterior.precision[name]).any():
                raise InvalidArgumentError(
                    f"posterior.precision[{name!r}]: expected finite values, got inf: a point estimate has "
                    "no evidence; use secateur.inference.laplace(model, loader) or a method with a posterior"
                )
            if name in posterior.keep:
                keep[name] &= posterior.keep[name].to(keep[name].device)
        evidence = {
            name: delta_f(
                posterior.mean[name],
                posterior.precision[name],
                prior_precision=posterior.prior_precision[name],
            )
            for names in candidates(posterior).values()  # scales of normalisation layers follow their unit
            for name in names
        }
        pairs = zip(units.kind, units.layer, strict=True)
        flags = [kind in kinds and chosen(layer, None, exclude) for kind, layer in pairs]
        allowed = torch.tensor(flags, dtype=torch.bool)
        return cls(units, evidence, keep, allowed, positions)

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

    def in_use(self, keep: dict[str, Tensor]) -> Tensor:
        """Return which units have weights that make them and weights that read them."""
        return (self._sums(keep, produces=True, least_dim=2) > 0) & (self._sums(keep, produces=False) > 0)

    def costs(self, in_use: Tensor) -> Tensor:
        """Return what each unit costs, relative to the mean of those in use, shape (units,)."""
        if not self.positions:
            return torch.ones(len(self.units), dtype=torch.float64)
        used = self._multiply_adds(in_use)
        total = self._sums(used, produces=True) + self._sums(used, produces=False)
        return total / total[in_use].mean().clamp_min(1e-30)

    def share_of_multiply_adds(self, keep: dict[str, Tensor]) -> float:
        """Return the multiply-adds of units in use over those of all units; known only with positions."""
        everything = torch.ones(len(self.units), dtype=torch.bool)
        used, every = (self._multiply_adds(each) for each in (self.in_use(keep), everything))
        return sum(float(each.sum()) for each in used.values()) / sum(float(e.sum()) for e in every.values())

    def _multiply_adds(self, in_use: Tensor) -> dict[str, Tensor]:
        """Return the multiply-adds of each entry of a weight, zero or not, while its units are in use."""
        used = {
            name: torch.full_like(self.keep[name], times, dtype=torch.float64)
            for name, times in self.positions.items()
        }
        marked = torch.cat([in_use, torch.ones(1, dtype=torch.bool)])  # the last stands for -1, no unit
        for axis in self.units.axes:
            if axis.parameter in used:
                each = used[axis.parameter]
                shape = [-1 if a == axis.axis else 1 for a in range(each.dim())]
                each *= marked[axis.unit].reshape(shape).to(each)
        return used

    def ranked(self, keep: dict[str, Tensor], price: float) -> Tensor:
        """Return the units that the evidence does not pay for, the clearest first."""
        present = {name: each * keep[name] for name, each in self.evidence.items()}
        evidence = self._sums(present, produces=True) + self._sums(present, produces=False)
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
            flag = marked[axis.unit].to(mask.device)
            masks[axis.parameter] = mask & ~flag.reshape([
                -1 if a == axis.axis else 1 for a in range(mask.dim())
            ])
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
