"""Prune a network that is already trained: joint evidence in rounds, and what stays moves.

Each round takes the curvature anew (`secateur.curvature`), lets the entries go whose removal costs least, and
moves the others to their mean given the removal (`secateur.pruning.joint_layer`). Then the loss is measured:
quadratic predictions of it are several times too small. So the evidence of a round is a measured likelihood,
with the layers' volumes in closed form (`secateur.pruning.stopping`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from secateur.compaction.units import KINDS
from secateur.curvature import CurvaturePass
from secateur.curvature.batches import learned_likelihood
from secateur.curvature.checks import require_finite_weights
from secateur.distributed import facts_of, num_ranks, rank, require_same, together
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Likelihood, resolve
from secateur.modules import evaluation_mode, has_batch_norm, require_whole, unwrapped
from secateur.modules.batch_norm import NUM_INPUTS
from secateur.pruning.calibration import CalibrationData
from secateur.pruning.joint_layer import SPREADS
from secateur.pruning.operations import operations_of_weights
from secateur.pruning.patterns import Pattern
from secateur.pruning.removal import Removal
from secateur.pruning.result import PruneResult, PruneRound
from secateur.pruning.rounds import removable_weights
from secateur.pruning.steps import Extent, Target
from secateur.pruning.stopping import stop_at
from secateur.pruning.trained_units import TrainedUnits
from secateur.reduction.own_prior import MOST_ROWS

__all__ = ["prune_trained"]

STRUCTURES = ("kronecker", "row", "diagonal")
COSTS = ("weights", "multiply-adds")
LOOKED_AT = 2  # rows a layer whose eigenvalues are computed where the evidence only reports


@together()
def prune_trained(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    likelihood: str | Likelihood = "categorical",
    structure: str = "kronecker",
    sparsity: float | None = None,
    granularity: str | Sequence[str] = "weight",
    pattern: str | None = None,
    multiply_adds: float | None = None,
    cost: str = "weights",
    rounds: int | Sequence[float] | None = None,
    max_loss_rise: float | None = None,
    num_data: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    held_out: Iterable[Any] | None = None,
    spread: str | None = None,
    max_batches: int | None = None,
    on_round: Callable[[PruneRound], None] | None = None,
) -> PruneResult:
    """Prune a trained network in place, without training: remove what the data do not pay for, move the rest.

    Removed weights are exact zeros under the parameters' own names, and stay zero if training goes on. What
    stays has moved to its mean given the removal, biases included. Embeddings, scales and shifts stay, and so
    does the output layer unless `include` names it. Moments of batch norm follow the removal. In a process
    group each rank gives its own part of the data, and all prune their copies of the network alike.

    Args:
        model: Trained network; any module whose linear maps and convolutions are used as such.
        loader: Batches `(inputs, targets)`, dicts as Transformers' networks take them with `labels`, or
            `(inputs, kwargs)`. A few hundred to a few thousand data. A slice of it is held out.
        likelihood: Distribution of the targets; a name or a value of `secateur.likelihoods`.
        structure: What depends on what: "kronecker" all weights of a layer, "row" those of an output unit,
            "diagonal" none.
        sparsity: Share of the weights that may go to be out afterwards. None lets the evidence stop.
        granularity: "weight", or whole units: "neuron", "channel", "head" (with all queries that share a key
            and value), or several of them.
        pattern: "2:4" or any "N:M": N of each M consecutive inputs of a unit stay.
        multiply_adds: Share of the network's multiply-adds to be left, to within a unit. Whole units go in
            the order of nats per multiply-add saved.
        cost: What whole units are ranked by, in nats for each that is saved: "weights" or "multiply-adds".
        rounds: How many, or the share to be out after each. Without a target the most of them. None: 16, and
            24 without a target, each removing the same share of what is left.
        max_loss_rise: How far the loss on held-out data may rise, in nats per datum, without a target. None:
            no further than one standard error from the best seen.
        num_data: Size of the data that the network was trained on; those of the loader when None.
        include: Name patterns (`fnmatch`) of weights that may go.
        exclude: Name patterns of weights that stay, and of biases that do not move.
        seed: Of the slice that is held out, and of the sampled targets.
        progress: Show a progress bar.
        held_out: Data to judge by in place of the slice; best such as the network has not been trained on.
        spread: "row" takes the variance of a weight given its whole row, one eigendecomposition a layer and
            round; "conditioned" given only what stays of it, a factor for each row. The latter is better
            (docs/lab.md) and dearer; None takes it where it is cheap: in small networks.
        max_batches: Batches that each round takes its curvature from, drawn anew; None is all of them.
        on_round: Called after each round, with the network as it then is.

    Returns:
        What was removed, round by round; printing it gives a table.

    Raises:
        InvalidArgumentError: If an argument is out of range, nothing may go, the data do not fit the network,
            or weights, data or losses are not finite. The model is then as before, or as after a whole round.

    References:
        arXiv:2309.12095 for the evidence; Hassibi & Stork 1993 for the move; Thodberg 1993 for evidence as a
        stop of Hessian-based pruning.
    """
    kinds = (granularity,) if isinstance(granularity, str) else tuple(granularity)
    _check(structure, kinds, spread, max_batches=max_batches, num_data=num_data)
    _check_units(kinds, cost, sparsity, multiply_adds)
    target = Target(sparsity, None if pattern is None else Pattern.parse(pattern), multiply_adds)
    target.check(kinds, rounds, max_loss_rise)
    model = unwrapped(model)
    require_whole(dict(model.named_parameters()))
    require_same(
        facts_of(model)
        | {"likelihood": str(likelihood), "structure": structure, "sparsity": sparsity, "spread": spread}
        | {"granularity": kinds, "pattern": pattern, "rounds": rounds, "max_loss_rise": max_loss_rise}
        | {"num_data": num_data, "include": include, "exclude": exclude, "seed": seed}
        | {"multiply_adds": multiply_adds, "cost": cost, "max_batches": max_batches}
        | {"presence of held_out": held_out is not None},
        advice="load the same model on all ranks, and give only the data in parts",
    )
    require_finite_weights(dict(model.named_parameters()))
    weights = removable_weights(model, include, exclude, output=kinds != ("weight",))
    data = CalibrationData.of(loader, held_out=held_out, seed=seed)
    device = weights.keep[weights.names[0]].device
    with evaluation_mode(model):
        if include is None:
            weights = weights.linear_maps(model, data.first(model))
        units = None
        if kinds != ("weight",):
            example = data.first(model).example
            by_work = cost == "multiply-adds" or multiply_adds is not None
            units = TrainedUnits.of(
                model,
                example,
                kinds,
                set(weights.names),
                operations=operations_of_weights(model, example) if by_work else None,
            )
            weights = weights.of_units(units.parameters)
        extent = Extent.of(model, weights, target, units)
        curvature = CurvaturePass(
            model,
            likelihood=learned_likelihood(resolve(likelihood), model, data.fit, device),
            structure=structure,
            diagonal=structure == "diagonal",
            include=list(weights.patterns),
        )
        curvature.look(data.first(model))
        removal = Removal(
            model=model,
            data=data,
            curvature=curvature,
            spread=spread,
            pattern=target.pattern,
            units=units,
            num_data=num_data,
            num_rows=MOST_ROWS if extent.target is None else LOOKED_AT,
            max_batches=max_batches,
            seed=seed,
            inputs=data.inputs(NUM_INPUTS) if has_batch_norm(model) else None,
        )
        states = [removal.start(weights)]
        steps = extent.steps(rounds)
        stopped_by, chosen = "rounds" if extent.target is None else "target", None
        try:
            for num_out in _shown(steps, progress and not rank()):
                states.append(removal.round(states[-1], num_out))
                if on_round is not None:
                    on_round(removal.row(states[0], states[-2], states[-1]))
                if extent.target is None:
                    stop = stop_at(
                        [each.evidence for each in states],
                        [each.held_out for each in states],
                        max_loss_rise=max_loss_rise,
                    )
                    chosen, stopped_by = stop.round, stop.by
                    for each in states[: stop.round]:
                        each.values.clear()  # there is no way back to it
                    if stop.settled:
                        break
                else:
                    states[-2].values.clear()
        except BaseException as error:
            if len(states) == 1 or num_ranks() > 1 or not isinstance(error, KeyboardInterrupt):
                removal.put(states[-1])
                raise
            chosen, stopped_by = len(states) - 1, "interruption"
        else:
            if extent.target is None and chosen == len(states) - 1:
                stopped_by = "rounds"  # it might have gone on
        return removal.finish(states, chosen, stopped_by)


def _check(structure: str, kinds: tuple[str, ...], spread: str | None, **counts: int | None) -> None:
    if not kinds:
        raise InvalidArgumentError("granularity: expected at least one kind of unit, got none")
    for argument, value, valid in (
        ("structure", structure, STRUCTURES),
        *([] if spread is None else [("spread", spread, SPREADS)]),
        *(("granularity", kind, KINDS if len(kinds) > 1 else ("weight", *KINDS)) for kind in kinds),
    ):
        if value not in valid:
            raise InvalidArgumentError(f"{argument}: expected one of {', '.join(valid)}, got {value!r}")
    for argument, count in counts.items():
        if count is not None and count < 1:
            raise InvalidArgumentError(f"{argument}: expected at least 1, got {count}")


def _check_units(
    kinds: tuple[str, ...], cost: str, sparsity: float | None, multiply_adds: float | None
) -> None:
    if cost not in COSTS:
        raise InvalidArgumentError(f"cost: expected one of {', '.join(COSTS)}, got {cost!r}")
    if kinds == ("weight",) and (multiply_adds is not None or cost == "multiply-adds"):
        raise InvalidArgumentError(
            "multiply_adds: expected whole units as granularity, since single weights save none, got weight"
        )
    if sparsity is not None and cost == "multiply-adds":
        raise InvalidArgumentError(
            f"cost: expected weights beside a sparsity, got {cost!r}; use multiply_adds= for a share of them"
        )


def _shown(steps: list[int], progress: bool) -> Iterable[int]:
    if not progress:
        return steps
    from rich.progress import track

    return track(steps, description="pruning", transient=True)
