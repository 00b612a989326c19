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
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction import find_units, plain_copy
from secateur.compaction.units import KINDS
from secateur.errors import InvalidArgumentError
from secateur.modules import hold, masked, output_parameters
from secateur.posterior import Posterior
from secateur.pruning.ranking import reduce
from secateur.pruning.result import PruneResult, PruneRound, summarise
from secateur.pruning.unit_evidence import UnitEvidence, uses_of_weights

__all__ = ["prune_units"]

COSTS = ("unit", "multiply-adds")
_LEAST_FRACTION = 1e-3  # of the weights, in the last reduction


def prune_units(
    model: nn.Module,
    posterior: Posterior,
    example_input: Any,
    *,
    kinds: tuple[str, ...] = KINDS,
    exclude: Sequence[str] | None = None,
    price: float = 0.0,
    cost: str = "unit",
    observe: Callable[[nn.Module], float] | None = None,
    max_loss_rise: float = 0.01,
    multiply_adds: float | None = None,
    max_fraction: float = 0.2,
    reduce_again: bool = True,
) -> PruneResult:
    """Prune whole neurons, channels and heads of a model in place, then single weights once more.

    Units with the most evidence for removal go first, in rounds. With `observe`, a round that would raise it
    too far is halved until it fits, down to a single unit; so is one that would save more than was asked.

    Args:
        model: The network the posterior belongs to, held or not.
        posterior: Posterior of its weights, with a finite precision.
        example_input: A batch, or the tuple of positional arguments of a call; only its shape matters.
        kinds: Which units may go: "neuron", "channel", "head".
        exclude: Name patterns (`fnmatch`) of layers whose units stay, as the report names them: where many
            layers add to one residual stream, its units depend on each other most and their summed evidence
            is the most optimistic.
        price: Nats that a unit has to be worth, beyond its layer's spike-and-slab threshold, to stay.
        cost: What a unit's price is for: "unit" lets all units cost the same; "multiply-adds" in proportion
            to those it causes now, so that the ranking is by evidence per operation saved.
        observe: Returns the loss of a network in evaluation mode on some training data, in nats per datum.
        max_loss_rise: How far all removals together may raise it, in nats per datum.
        multiply_adds: Share of the whole network's multiply-adds to stop at, the first time that no more are
            left; the ranking is then followed as with an infinite price, per operation saved.
        max_fraction: Largest fraction of the units still in use to remove in one round.
        reduce_again: Whether to ask for single weights again once the units are gone.

    Returns:
        What was removed, one trace row per round; the model is held accordingly.

    Raises:
        InvalidArgumentError: If an argument is out of range, or the posterior is a point estimate or of
            another network; the model is then unchanged.
    """
    if multiply_adds is not None:
        price, cost = math.inf, "multiply-adds"
    _check(kinds, price, cost, observe, max_loss_rise, multiply_adds, max_fraction)
    network = plain_copy(model).eval()
    macs_per_entry = uses_of_weights(network, example_input) if cost == "multiply-adds" else {}
    units = find_units(model, example_input)
    state = UnitEvidence.of(
        model, posterior, units, kinds=kinds, exclude=exclude, macs_per_entry=macs_per_entry
    )
    loss_with = _observer(model, observe)
    loss_before = loss_with({})
    ceiling = loss_before + max_loss_rise
    keep = state.without_readers(state.keep)
    before = state.in_use(keep)
    num_weights = sum(mask.numel() for mask in keep.values())
    trace: list[PruneRound] = []

    def accept(after: dict[str, Tensor], num_units: int, loss: float) -> dict[str, Tensor]:
        gone = {name: keep[name] & ~mask for name, mask in after.items()}
        num_out = sum(int((~mask).sum()) for mask in after.values())
        trace.append(
            PruneRound(
                sparsity=num_out / num_weights,
                num_removed=sum(int(flag.sum()) for flag in gone.values()),
                predicted_delta_f=state.predicted(keep, after),
                loss=loss,
                num_units=num_units,
            )
        )
        return after

    def saved_enough(after: dict[str, Tensor]) -> bool:
        return multiply_adds is not None and state.share_of_multiply_adds(after) <= multiply_adds

    while not saved_enough(keep) and len(ranked := state.ranked(keep, price)):
        count = max(1, math.floor(max_fraction * int(state.in_use(keep).sum())))
        count = min(count, len(ranked))
        while count:
            trial = state.without_readers(state.without(keep, ranked[:count]))
            loss = loss_with(trial)
            fits = observe is None or loss <= ceiling
            if fits and (count == 1 or not saved_enough(trial)):
                break
            count //= 2
        if not count:
            break
        keep = accept(trial, count, loss)
    if reduce_again:
        spared = output_parameters(model)
        fraction = 1.0
        while fraction > _LEAST_FRACTION:
            known = posterior.given({name: keep[name] for name in posterior.mean})
            result = reduce(known, max_fraction=fraction, exclude=spared or None)
            trial = state.without_readers(keep | result.masks)
            loss = loss_with(trial)
            if result.num_removed == 0:
                break
            if observe is None or loss <= ceiling:
                keep = accept(trial, 0, loss)
                break
            fraction /= 2
    hold(model, keep)
    return replace(
        summarise(state.keep, state.evidence, keep),
        loss_before=loss_before,
        trace=tuple(trace),
        units_before=state.by_layer(before),
        units_after=state.by_layer(state.in_use(keep)),
    )


def _check(
    kinds: tuple[str, ...],
    price: float,
    cost: str,
    observe: object,
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
    if math.isinf(price) and observe is None and multiply_adds is None:
        raise InvalidArgumentError("price: expected a finite one without a loss to observe, got inf")
    if not max_loss_rise >= 0:
        raise InvalidArgumentError(f"max_loss_rise: expected at least 0 nats per datum, got {max_loss_rise}")
    if not 0 < max_fraction <= 1:
        raise InvalidArgumentError(f"max_fraction: expected a fraction in (0, 1], got {max_fraction}")


def _observer(
    model: nn.Module, observe: Callable[[nn.Module], float] | None
) -> Callable[[dict[str, Tensor]], float]:
    """Return what gives the loss of the network under masks, in evaluation mode; the model is not touched."""
    if observe is None:
        return lambda _: math.nan
    plain = plain_copy(model).eval()

    def loss_with(masks: dict[str, Tensor]) -> float:
        with torch.no_grad(), masked(plain, masks):
            return float(observe(plain))

    return loss_with
