"""Structured finishing: from scattered zeros to whole units gone, by joint evidence and observed loss.

Removing single weights leaves most units with a few of theirs, so there is little for `compact` to remove.
This step asks for each neuron, channel and head that is left what the evidence says of it as a whole:

    delta_f(unit) = sum of delta_f over its weights still in, those that make it and those that read it

(mean-field weights are independent, so evidence adds up; in nats, > 0 favours removal). Where every weight
has just been found worth its place, so is every unit. A *price* then says how many nats a unit must be worth
beyond that, as a prior that favours whole units; with an infinite price the observed loss alone decides how
far down the ranking to go.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction.permanent import permanent
from secateur.compaction.units import KINDS, find_units
from secateur.errors import InvalidArgumentError
from secateur.posterior import Posterior
from secateur.pruning.masks import apply_masks, output_parameters
from secateur.pruning.ranking import reduce
from secateur.pruning.unit_evidence import UnitEvidence, uses_of_weights

__all__ = ["FinishingReport", "FinishingRound", "finish_structured"]

COSTS = ("unit", "multiply-adds")
_LEAST_FRACTION = 1e-3  # of the weights, in the last reduction


@dataclass(frozen=True)
class FinishingRound:
    """One removal of several units, or the last reduction of single weights.

    Attributes:
        num_units: Units removed; 0 where single weights were.
        num_weights: Weights removed, those that had no reader left included.
        predicted_delta_f: Their summed evidence, in nats.
        loss_before: Observed loss before, in nats per datum; nan where none is observed.
        loss_after: The same afterwards.
    """

    num_units: int
    num_weights: int
    predicted_delta_f: float
    loss_before: float
    loss_after: float


@dataclass(frozen=True)
class FinishingReport:
    """What was decided.

    Attributes:
        masks: True where an entry stays, for every parameter of which one went.
        rounds: The removals, in order.
        units_before: Units in use before, by the layer that makes them.
        units_after: The same afterwards.
    """

    masks: dict[str, Tensor]
    rounds: tuple[FinishingRound, ...]
    units_before: dict[str, int]
    units_after: dict[str, int]

    @property
    def num_units_removed(self) -> int:
        """Units removed, those included that nothing read any more."""
        return sum(self.units_before.values()) - sum(self.units_after.values())

    @property
    def num_weights_removed(self) -> int:
        """Weights removed."""
        return sum(each.num_weights for each in self.rounds)

    @property
    def predicted_delta_f(self) -> float:
        """Summed evidence of all removals, in nats: optimistic, since weights are not independent."""
        return math.fsum(each.predicted_delta_f for each in self.rounds)


def finish_structured(
    model: nn.Module,
    posterior: Posterior,
    example_input: Any,
    *,
    kinds: tuple[str, ...] = KINDS,
    exclude: Sequence[str] | None = None,
    price: float = 0.0,
    cost: str = "unit",
    loss: Callable[[nn.Module], float] | None = None,
    max_loss_rise: float = 0.01,
    multiply_adds: float | None = None,
    max_fraction: float = 0.2,
    reduce_again: bool = True,
) -> FinishingReport:
    """Remove whole units from a masked model, in place, then reduce its weights once more.

    Units with the most evidence for removal go first, in rounds. With `loss`, a round that would raise it
    too far is halved until it fits, down to a single unit; so is one that would save more than was asked.

    Args:
        model: The network the posterior belongs to, masked or not.
        posterior: Posterior of its weights, with a finite precision.
        example_input: A batch, or the tuple of positional arguments of a call; only its shape matters.
        kinds: Which units may go: "neuron", "channel", "head".
        exclude: Name patterns (`fnmatch`) of layers whose units stay, as the report names them: where many
            layers add to one residual stream, its units depend on each other most and their summed evidence
            is the most optimistic.
        price: Nats that a unit has to be worth, beyond its layer's spike-and-slab threshold, to stay.
        cost: What a unit's price is for: "unit" lets all units cost the same; "multiply-adds" in proportion
            to those it causes now, so that the ranking is by evidence per operation saved.
        loss: Returns the loss of a network in evaluation mode on some training data, in nats per datum.
        max_loss_rise: How far all removals together may raise it, in nats per datum.
        multiply_adds: Share of the whole network's multiply-adds to stop at, the first time that no more are
            left; the ranking is then followed as with an infinite price, per operation saved.
        max_fraction: Largest fraction of the units still in use to remove in one round.
        reduce_again: Whether to ask for single weights again once the units are gone.

    Returns:
        What was decided; the model is masked accordingly.

    Raises:
        InvalidArgumentError: If an argument is out of range, or the posterior is a point estimate or of
            another network; the model is then unchanged.
    """
    if multiply_adds is not None:
        price, cost = math.inf, "multiply-adds"
    _check(kinds, price, cost, loss, max_loss_rise, multiply_adds, max_fraction)
    network = permanent(model).eval()
    positions = uses_of_weights(network, example_input) if cost == "multiply-adds" else {}
    units = find_units(model, example_input)
    state = UnitEvidence.of(model, posterior, units, kinds=kinds, exclude=exclude, positions=positions)
    observe = _observer(model, loss)
    ceiling = observe({}) + max_loss_rise
    keep = state.without_readers(state.keep)
    before = state.in_use(keep)
    rounds: list[FinishingRound] = []

    def accept(after: dict[str, Tensor], num_units: int, now: float) -> dict[str, Tensor]:
        gone = {name: keep[name] & ~mask for name, mask in after.items()}
        count = sum(int(flag.sum()) for flag in gone.values())
        evidence = math.fsum(
            float(state.evidence[name][flag].sum(dtype=torch.float64))
            for name, flag in gone.items()
            if name in state.evidence
        )
        last = rounds[-1].loss_after if rounds else ceiling - max_loss_rise
        rounds.append(FinishingRound(num_units, count, evidence, last, now))
        return after

    def saved_enough(after: dict[str, Tensor]) -> bool:
        return multiply_adds is not None and state.share_of_multiply_adds(after) <= multiply_adds

    while not saved_enough(keep) and len(ranked := state.ranked(keep, price)):
        count = max(1, math.floor(max_fraction * int(state.in_use(keep).sum())))
        count = min(count, len(ranked))
        while count:
            trial = state.without_readers(state.without(keep, ranked[:count]))
            now = observe(trial)
            fits = loss is None or now <= ceiling
            if fits and (count == 1 or not saved_enough(trial)):
                break
            count //= 2
        if not count:
            break
        keep = accept(trial, count, now)
    if reduce_again:
        exclude = output_parameters(model)
        fraction = 1.0
        while fraction > _LEAST_FRACTION:
            known = replace(posterior, keep={n: keep[n] for n in posterior.mean})
            report = reduce(known, max_fraction=fraction, exclude=exclude or None)
            trial = state.without_readers(keep | report.masks)
            now = observe(trial)
            if report.num_removed == 0:
                break
            if loss is None or now <= ceiling:
                keep = accept(trial, 0, now)
                break
            fraction /= 2
    masks = {name: mask for name, mask in keep.items() if not mask.all()}
    apply_masks(model, masks)
    return FinishingReport(masks, tuple(rounds), state.by_layer(before), state.by_layer(state.in_use(keep)))


def _check(
    kinds: tuple[str, ...],
    price: float,
    cost: str,
    loss: object,
    max_loss_rise: float,
    multiply_adds: float | None,
    max_fraction: float,
) -> None:
    if not kinds or set(kinds) - set(KINDS):
        raise InvalidArgumentError(f"kinds: expected some of {', '.join(KINDS)}, got {kinds}")
    if cost not in COSTS:
        raise InvalidArgumentError(f"cost: expected one of {', '.join(COSTS)}, got {cost!r}")
    if not price >= 0:
        raise InvalidArgumentError(f"price: expected at least 0 nats, got {price}")
    if multiply_adds is not None and not 0 < multiply_adds <= 1:
        raise InvalidArgumentError(f"multiply_adds: expected a share in (0, 1], got {multiply_adds}")
    if math.isinf(price) and loss is None and multiply_adds is None:
        raise InvalidArgumentError("price: expected a finite one without a loss to observe, got inf")
    if not max_loss_rise >= 0:
        raise InvalidArgumentError(f"max_loss_rise: expected at least 0 nats per datum, got {max_loss_rise}")
    if not 0 < max_fraction <= 1:
        raise InvalidArgumentError(f"max_fraction: expected a fraction in (0, 1], got {max_fraction}")


def _observer(
    model: nn.Module, loss: Callable[[nn.Module], float] | None
) -> Callable[[dict[str, Tensor]], float]:
    """Return the loss of the model under masks, in evaluation mode; the model itself is not touched."""
    if loss is None:
        return lambda _: math.nan
    plain = permanent(model).eval()
    weights = {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}

    @torch.no_grad()
    def observe(masks: dict[str, Tensor]) -> float:
        for name, parameter in plain.named_parameters():
            parameter.copy_(weights[name] * masks[name] if name in masks else weights[name])
        return float(loss(plain))

    return observe
