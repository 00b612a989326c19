"""One round of joint removal: what costs least goes, what stays moves, and what that should earn.

The same round serves a network at rest (`secateur.pruning.removal`) and one in training
(`secateur.pruning.gradual`): both measure the loss of a proposal before they make it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.curvature import Curvature, LayerCurvature
from secateur.distributed import from_first
from secateur.pruning.joint_layer import JointLayer, affordable_spread
from secateur.pruning.patterns import Pattern
from secateur.pruning.rounds import TrainedWeights, cheapest, joint_layers
from secateur.pruning.trained_units import TrainedUnits
from secateur.reduction.own_prior import OwnPrior

__all__ = ["JointRound", "Proposal"]


@dataclass(frozen=True)
class Proposal:
    """A removal that nobody has made yet.

    Attributes:
        weights: Which would be in.
        values: What parameters would be, by name.
        predicted: Predicted change of the evidence by layer, in nats.
        volume: Change of the layers' evidence without the likelihood, in nats; with a measured likelihood it
            makes the observed evidence.
    """

    weights: TrainedWeights
    values: dict[str, Tensor]
    predicted: dict[str, float]
    volume: float

    def observed(self, num_data: int, rise: float) -> float:
        """Return the change of the evidence with the measured loss in it, in nats.

        Args:
            num_data: Data that the evidence counts.
            rise: Of the loss, in nats per datum.
        """
        return self.volume - num_data * rise


@dataclass(frozen=True)
class JointRound:
    """The joint posteriors of all layers of a network at its present weights.

    Attributes:
        weights: Which may go, and which are in.
        layers: Name, curvature and joint posterior of each layer.
        priors: The prior that suits each layer best.
        parameters: The network's, by name.
        spread: As for `prune_trained`.
        pattern: Zeros that are allowed; None allows all.
        units: What goes as a whole; None removes single weights.
        num_rows: Rows of a layer whose eigenvalues are computed for the evidence.
    """

    weights: TrainedWeights
    layers: tuple[tuple[str, LayerCurvature, JointLayer], ...]
    priors: dict[str, OwnPrior]
    parameters: Mapping[str, Tensor]
    spread: str | None
    pattern: Pattern | None
    units: TrainedUnits | None
    num_rows: int

    @classmethod
    def of(
        cls,
        curvature: Curvature,
        parameters: Mapping[str, Tensor],
        weights: TrainedWeights,
        *,
        spread: str | None = None,
        pattern: Pattern | None = None,
        units: TrainedUnits | None = None,
        num_rows: int,
    ) -> "JointRound":
        """Make every layer's joint posterior, and find the prior that suits it.

        Args:
            curvature: Taken at the present weights.
            parameters: The network's, by name.
            weights: Which may go, and which are in.
            spread: As for `prune_trained`.
            pattern: Zeros that are allowed; None allows all.
            units: What goes as a whole; None removes single weights.
            num_rows: Rows of a layer whose eigenvalues are computed for the evidence.
        """
        layers = tuple(joint_layers(curvature, parameters, weights))
        priors = {
            name: layer.own_prior(layer.weights, layer.present, num_rows=num_rows)
            for name, _, layer in layers
        }
        return cls(weights, layers, priors, parameters, spread, pattern, units, num_rows)

    def costs(self) -> dict[str, Tensor]:
        """Return what the removal of each single entry costs, in nats, by parameter."""
        costs: dict[str, Tensor] = {}
        # of one kind in all layers: the two do not compare
        spread = self.spread or affordable_spread(layer for _, _, layer in self.layers)
        for name, own, layer in self.layers:
            found = own.matrix.unpack(layer.misfit(self.priors[name].precision, spread=spread))
            costs |= {each: cost for each, cost in found.items() if each in self.weights.keep}
        self.weights.require(costs)
        return costs

    def chosen(self, num_out: int, costs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the masks after the removal of what costs least.

        Args:
            num_out: Entries to be out afterwards; of whole units the amount that `TrainedUnits` counts.
            costs: From `costs`, where several removals are compared; None asks for them, and forgets them.
        """
        weights = self.weights
        if self.units is not None:
            by_weight = {each: layer for _, own, layer in self.layers for each in own.matrix.shapes}
            return self.units.cheapest(by_weight, weights.keep, float(num_out))
        matrices = {each: own.matrix for _, own, _ in self.layers for each in own.matrix.shapes}
        found = self.costs() if costs is None else costs
        return cheapest(found, weights, num_out, pattern=self.pattern, matrices=matrices)

    def proposal(self, keep: dict[str, Tensor]) -> Proposal:
        """Return a removal with the move of what stays; among ranks, rank 0's.

        Args:
            keep: Masks afterwards, from `chosen`.
        """
        from_first(list(keep.values()))
        after = replace(self.weights, keep=keep)
        values: dict[str, Tensor] = {}
        predicted: dict[str, float] = {}
        volumes = []
        for name, own, whole in self.layers:
            layer, present = whole, after.present(own.matrix)
            if self.units is not None:
                # rows that make a unit go at no cost, since nothing reads it; none need stand in for them
                read = present.any(1, keepdim=True)
                layer = replace(layer, weights=torch.where(read, layer.weights, 0.0))
            moved = layer.moved(present)
            prior = layer.own_prior(moved, present, num_rows=self.num_rows)
            volumes.append(prior.evidence - self.priors[name].evidence)
            predicted[name] = volumes[-1] - layer.rise(moved)
            new = own.matrix.unpack(moved)
            values |= {each: value.to(self.parameters[each].dtype) for each, value in new.items()}
        volume = torch.tensor(math.fsum(volumes), dtype=torch.float64)
        from_first([volume, *values.values()])
        return Proposal(after, values, predicted, float(volume))
