"""One step of joint pruning in training: the largest removal whose measured evidence is a gain.

The evidence of a removal is each layer's volume under its own prior, in closed form, plus the measured change
of the log likelihood. A removal that loses by it, or lifts the loss too far, is halved.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from secateur.modules import layer_of
from secateur.posterior import Posterior
from secateur.pruning.joint_round import JointRound, Proposal
from secateur.pruning.result import PruneResult, summarise
from secateur.pruning.rounds import TrainedWeights

__all__ = ["JointStep", "by_weight", "joint_step", "size_at"]


@dataclass(frozen=True)
class JointStep:
    """A removal that was measured.

    Attributes:
        result: What goes.
        values: What parameters will be, by name.
    """

    result: PruneResult
    values: dict[str, Tensor]


def joint_step(
    joint: JointRound,
    before: Posterior,
    sizes: Sequence[int],
    loss_of: Callable[[Mapping[str, Tensor]], float],
    *,
    num_data: int,
    best_loss: float,
    max_loss_rise: float,
    to_target: bool,
) -> JointStep:
    """Return the first of several removals whose measured evidence is a gain; it may remove nothing.

    Args:
        joint: Joint posteriors of the layers.
        before: Posterior before the removal.
        sizes: Entries to be out after each removal, the largest first.
        loss_of: Measured loss of the network with other values of some parameters, in nats per datum.
        num_data: Data that the evidence counts.
        best_loss: Lowest loss seen before.
        max_loss_rise: How far a removal may raise the loss above the best, this one's included.
        to_target: Take the first removal whatever it costs.
    """
    loss_before = loss_of({})
    max_loss = min(best_loss, loss_before) + max_loss_rise
    costs = joint.costs()
    for size in sizes:
        if size <= joint.weights.num_out:
            continue
        proposal = joint.proposal(joint.chosen(size, costs))
        loss = loss_of(proposal.values)
        gain = proposal.observed(num_data, loss - loss_before)
        if to_target or (gain > 0 and loss <= max_loss):
            return JointStep(_result(before, proposal, loss_before, loss, gain), proposal.values)
    nothing = Proposal(joint.weights, {}, {}, 0.0)
    return JointStep(_result(before, nothing, loss_before, loss_before, 0.0), {})


def size_at(sparsity: float, weights: TrainedWeights, model: nn.Module) -> int:
    """Return how many weights are to be out for a share of all of a network's.

    Args:
        sparsity: The share.
        weights: Which may go.
        model: The network.

    Raises:
        InvalidArgumentError: If fewer may go.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    if round(sparsity * total) > weights.num_weights:
        raise InvalidArgumentError(
            f"sparsity: expected at most {weights.num_weights / total:.4f} (everything that may go; biases "
            f"move), got {sparsity}"
        )
    return round(sparsity * total)


def by_weight(result: PruneResult) -> dict[str, float]:
    """Return the predicted evidence of each layer's removal, by the name of its weight.

    Args:
        result: Of a joint removal, whose evidence is known only by layer.
    """
    weights = {
        layer_of(name): name for name in sorted(result.masks, key=lambda name: result.masks[name].dim())
    }
    return {weights[row.name]: row.predicted_delta_f for row in result.layers}


def _result(
    before: Posterior, proposal: Proposal, loss_before: float, loss: float, gain: float
) -> PruneResult:
    masks = {name: before.present(name) for name in before.mean} | proposal.weights.keep
    plain = summarise(before.keep, {}, masks).measured(loss_before, loss)
    predicted: dict[str, float] = {}
    for name, value in proposal.predicted.items():
        # a module with several matrices has a prediction for each
        layer = layer_of(name) if name in masks else name
        predicted[layer] = predicted.get(layer, 0.0) + value
    rows = tuple(replace(row, predicted_delta_f=predicted.get(row.name, 0.0)) for row in plain.layers)
    (only,) = plain.trace
    done = replace(only, predicted_delta_f=math.fsum(predicted.values()), observed_delta_f=gain)
    return replace(plain, layers=rows, trace=(done,), observed_delta_f=gain)
