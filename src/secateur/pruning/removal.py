"""Remove weights of a trained network round by round, with the evidence and the loss of each round."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor, nn

from secateur.curvature import CurvaturePass
from secateur.modules import carried, hold, layer_of, moments
from secateur.pruning.calibration import CalibrationData
from secateur.pruning.joint_round import JointRound
from secateur.pruning.measuring import Losses, measure
from secateur.pruning.patterns import Pattern
from secateur.pruning.result import PruneResult, PruneRound, summarise
from secateur.pruning.rounds import TrainedWeights, applied
from secateur.pruning.trained_units import TrainedUnits

__all__ = ["Removal", "State"]


@dataclass(frozen=True)
class State:
    """The network before any removal, or after a round.

    Attributes:
        weights: Which are in.
        loss: On the data that move the weights.
        held_out: On those that do not.
        evidence: Above that of the network before any removal, in nats.
        predicted: Predicted change of the evidence by the round, in nats, by layer.
        num_data: Data that the evidence counts.
        values: What changes, to come back to; emptied where there is no way back.
        moments: Batch norm's moments of some inputs under these weights.
    """

    weights: TrainedWeights
    loss: Losses
    held_out: Losses
    evidence: float
    predicted: dict[str, float]
    num_data: int
    values: dict[str, Tensor]
    moments: dict[str, Tensor]


@dataclass(frozen=True)
class Removal:
    """How weights are removed from a network.

    Attributes:
        model: The network, in evaluation mode; changed in place.
        data: What it is asked on.
        curvature: A pass over the network that has looked at it; each round begins one anew.
        spread: As for `prune_trained`.
        pattern: Zeros that are allowed; None allows all.
        units: What goes as a whole; None removes single weights.
        num_data: Size of the whole data; that of the calibration data when None.
        num_rows: Rows of a layer whose eigenvalues are computed for the evidence.
        max_batches: Batches of each round's curvature; None is all.
        seed: Of the sampled targets, and of those batches.
        inputs: What batch norm's moments are carried along on; None leaves them, where there are any.
    """

    model: nn.Module
    data: CalibrationData
    curvature: CurvaturePass
    spread: str | None
    pattern: Pattern | None
    units: TrainedUnits | None
    num_data: int | None
    num_rows: int
    max_batches: int | None
    seed: int
    inputs: Tensor | None

    def start(self, weights: TrainedWeights) -> State:
        """Return the network as it is.

        Args:
            weights: Which may go, and which are in.
        """
        loss, held_out = self._losses()
        num_data = self.num_data or loss.num_data + held_out.num_data
        found = self._moments({})
        return State(weights, loss, held_out, 0.0, {}, num_data, self._values(weights, found), found)

    def round(self, before: State, num_out: int) -> State:
        """Remove the cheapest entries that are in, and move the others.

        Args:
            before: The network now.
            num_out: Entries to be out afterwards.
        """
        weights = before.weights
        current = self.curvature.restarted(self.seed + weights.num_out)
        for batch in self.data.sample(self.seed + weights.num_out, self.max_batches):
            current.add(batch)
        curvature = current.result(before.num_data, ends=True)
        joint = JointRound.of(
            curvature,
            dict(self.model.named_parameters()),
            weights,
            spread=self.spread,
            pattern=self.pattern,
            units=self.units,
            num_rows=self.num_rows,
        )
        proposal = joint.proposal(joint.chosen(num_out))
        del curvature, joint  # as large as the network several times over; what follows needs room of its own
        values = dict(proposal.values)
        follow = self._moments(values)
        values |= carried(dict(self.model.named_buffers()), before.moments, follow)
        with applied(self.model, values):
            loss, held_out = self._losses()
        after = proposal.weights
        return State(
            after,
            loss,
            held_out,
            before.evidence + proposal.observed(before.num_data, loss.mean - before.loss.mean),
            proposal.predicted,
            before.num_data,
            self._values(after, follow),
            follow,
        )

    def row(self, first: State, before: State, after: State) -> PruneRound:
        """Return what a round removed and what was measured.

        Args:
            first: Before any removal.
            before: Before the round.
            after: After it.
        """
        rise = first.held_out.rise_to(after.held_out)
        return PruneRound(
            sparsity=after.weights.num_out / after.weights.num_weights,
            num_removed=after.weights.num_out - before.weights.num_out,
            predicted_delta_f=math.fsum(after.predicted.values()),
            observed_delta_f=after.evidence - before.evidence,
            loss=after.loss.mean,
            held_out_loss=after.held_out.mean,
            held_out_rise=rise.mean,
            held_out_error=rise.standard_error,
        )

    def put(self, state: State) -> None:
        """Put the network into a state, and hold its zeros.

        Args:
            state: Before any removal, or after a round; with its values.
        """
        with applied(self.model, state.values):
            hold(self.model, state.weights.keep)

    def finish(self, states: list[State], chosen: int | None, stopped_by: str) -> PruneResult:
        """Put the network into one of the states, hold its zeros, and say what was removed.

        Args:
            states: Before any removal, and after each round.
            chosen: Number of the state; the last when None.
            stopped_by: As `PruneResult` has it.
        """
        first, last = states[0], states[len(states) - 1 if chosen is None else chosen]
        self.put(last)
        rounds = tuple(self.row(first, before, after) for before, after in pairwise(states))
        result = summarise(first.weights.keep, {}, last.weights.keep)
        predicted: dict[str, float] = defaultdict(float)
        for state in states[1 : None if chosen is None else chosen + 1]:
            for name, value in state.predicted.items():
                # a module with several matrices has a prediction for each
                predicted[layer_of(name) if name in last.weights.keep else name] += value
        rows = tuple(replace(row, predicted_delta_f=predicted.get(row.name, 0.0)) for row in result.layers)
        return replace(
            result,
            layers=rows,
            trace=rounds,
            loss_before=first.loss.mean,
            held_out_before=first.held_out.mean,
            observed_delta_f=last.evidence,
            chosen_round=chosen,
            stopped_by=stopped_by,
            num_data=first.num_data,
            units_before={} if self.units is None else self.units.in_use(first.weights.keep),
            units_after={} if self.units is None else self.units.in_use(last.weights.keep),
        )

    def _losses(self) -> tuple[Losses, Losses]:
        likelihood, shift = self.curvature.likelihood, self.curvature.shift
        return (
            measure(self.model, self.data.fit, likelihood, shift=shift),
            measure(self.model, self.data.held_out, likelihood, argument="held_out", shift=shift),
        )

    def _values(self, weights: TrainedWeights, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        return {name: tensors[name].detach().clone() for name in (*weights.names, *weights.moving, *found)}

    def _moments(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {} if self.inputs is None else moments(self.model, self.inputs, weights)
