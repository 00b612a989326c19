"""Prune a network that is already trained: joint evidence in rounds, and what stays moves.

Each round takes the curvature anew (`secateur.curvature`), lets the entries go whose removal costs least, and
moves the others to their mean given the removal (`secateur.pruning.joint_layer`). Then the loss is measured:
quadratic predictions of it are several times too small. So the evidence of a round is a measured likelihood,
with the layers' volumes in closed form (`secateur.pruning.stopping`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
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
from secateur.pruning.patterns import Pattern
from secateur.pruning.removal import Removal
from secateur.pruning.result import PruneResult, PruneRound
from secateur.pruning.rounds import TrainedWeights, removable_weights
from secateur.pruning.stopping import stop_at
from secateur.pruning.trained_units import TrainedUnits
from secateur.reduction.own_prior import MOST_ROWS

__all__ = ["prune_trained"]

STRUCTURES = ("kronecker", "row", "diagonal")
LOOKED_AT = 2  # rows a layer whose eigenvalues are computed where the evidence only reports
ROUNDS = 16
ROUNDS_UNTIL_STOP = 24
LAST_SHARE = 0.97  # of the weights, where a removal that stops by itself ends at the latest


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
    _check(structure, kinds, pattern, sparsity, rounds, max_loss_rise, spread, max_batches, num_data)
    wanted = None if pattern is None else Pattern.parse(pattern)
    model = unwrapped(model)
    require_whole(dict(model.named_parameters()))
    require_same(
        facts_of(model)
        | {"likelihood": str(likelihood), "structure": structure, "sparsity": sparsity, "spread": spread}
        | {"granularity": kinds, "pattern": pattern, "rounds": rounds, "max_loss_rise": max_loss_rise}
        | {"num_data": num_data, "include": include, "exclude": exclude, "seed": seed}
        | {"max_batches": max_batches, "presence of held_out": held_out is not None},
        advice="load the same model on all ranks, and give only the data in parts",
    )
    require_finite_weights(dict(model.named_parameters()))
    weights = removable_weights(model, include, exclude, output=kinds != ("weight",))
    data = CalibrationData.of(loader, held_out=held_out, seed=seed)
    device = weights.keep[weights.names[0]].device
    with evaluation_mode(model):
        if include is None:
            weights = weights.linear_maps(model, data.first(device))
        units = None
        if kinds != ("weight",):
            units = TrainedUnits.of(model, data.first(device).example, kinds, set(weights.names))
            weights = weights.of_units(units.parameters)
        target = _target(weights, sparsity, wanted, units)
        curvature = CurvaturePass(
            model,
            likelihood=learned_likelihood(resolve(likelihood), model, data.fit, device),
            structure=structure,
            diagonal=structure == "diagonal",
            include=list(weights.patterns),
        )
        curvature.look(data.first(device))
        removal = Removal(
            model=model,
            data=data,
            curvature=curvature,
            spread=spread,
            pattern=wanted,
            units=units,
            num_data=num_data,
            num_rows=LOOKED_AT if target is not None else MOST_ROWS,
            max_batches=max_batches,
            seed=seed,
            inputs=data.inputs(NUM_INPUTS) if has_batch_norm(model) else None,
        )
        states = [removal.start(weights)]
        steps = _steps(weights, target, rounds, to_the_end=wanted is not None)
        stopped_by, chosen = "rounds" if target is None else "target", None
        try:
            for num_out in _shown(steps, progress and not rank()):
                states.append(removal.round(states[-1], num_out))
                if on_round is not None:
                    on_round(removal.row(states[0], states[-2], states[-1]))
                if target is None:
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
            if target is None and chosen == len(states) - 1:
                stopped_by = "rounds"  # it might have gone on
        return removal.finish(states, chosen, stopped_by)


def _check(
    structure: str,
    kinds: tuple[str, ...],
    pattern: str | None,
    sparsity: float | None,
    rounds: int | Sequence[float] | None,
    max_loss_rise: float | None,
    spread: str | None,
    max_batches: int | None,
    num_data: int | None,
) -> None:
    for argument, value, valid in (
        ("structure", structure, STRUCTURES),
        *([] if spread is None else [("spread", spread, SPREADS)]),
        *(("granularity", kind, KINDS if len(kinds) > 1 else ("weight", *KINDS)) for kind in kinds),
    ):
        if value not in valid:
            raise InvalidArgumentError(f"{argument}: expected one of {', '.join(valid)}, got {value!r}")
    if sparsity is not None and not 0 <= sparsity <= 1:
        raise InvalidArgumentError(f"sparsity: expected a share between 0 and 1, got {sparsity}")
    if not kinds:
        raise InvalidArgumentError("granularity: expected at least one kind of unit, got none")
    if pattern is not None and kinds != ("weight",):
        raise InvalidArgumentError(
            f"granularity: expected 'weight' beside a pattern, got {' and '.join(kinds)}"
        )
    if pattern is not None and sparsity is not None:
        raise InvalidArgumentError(
            f"pattern: expected no sparsity beside it, since it has its own, got {sparsity}"
        )
    for argument, count in (("rounds", rounds), ("max_batches", max_batches), ("num_data", num_data)):
        if isinstance(count, int) and count < 1:
            raise InvalidArgumentError(f"{argument}: expected at least 1, got {count}")
    if isinstance(rounds, Sequence):
        shares = [0.0, *rounds]
        if len(shares) == 1 or any(not before < after <= 1 for before, after in pairwise(shares)):
            raise InvalidArgumentError(f"rounds: expected rising shares between 0 and 1, got {list(rounds)}")
        target = Pattern.parse(pattern).sparsity if pattern is not None else sparsity
        if target is not None and not math.isclose(rounds[-1], target, abs_tol=1e-3):
            raise InvalidArgumentError(
                f"rounds: expected the last share to be the sparsity {target:.4g}, got {rounds[-1]}"
            )
    if max_loss_rise is not None and not 0 <= max_loss_rise < math.inf:
        raise InvalidArgumentError(
            f"max_loss_rise: expected nats per datum, finite and at least 0, got {max_loss_rise}"
        )
    if max_loss_rise is not None and (sparsity is not None or pattern is not None):
        raise InvalidArgumentError(
            "max_loss_rise: expected no target beside it, since it bounds where the evidence stops, got "
            f"{max_loss_rise} with {'a pattern' if pattern else 'a sparsity'}"
        )


def _target(
    weights: TrainedWeights, sparsity: float | None, pattern: Pattern | None, units: TrainedUnits | None
) -> int | None:
    """Return how many entries are to be out, None where the evidence stops."""
    if pattern is not None:  # at least: some groups may have fewer in than the pattern keeps
        return max(round(pattern.sparsity * weights.num_weights), weights.num_out)
    if sparsity is None:
        return None
    target = round(sparsity * weights.num_weights)
    if target < weights.num_out:
        raise InvalidArgumentError(
            f"sparsity: expected at least {weights.num_out / weights.num_weights:.4f}, which is out already, "
            f"got {sparsity}"
        )
    most = weights.num_weights if units is None else units.most_out(weights.keep)
    if target > most:
        raise InvalidArgumentError(
            f"sparsity: expected at most {most / weights.num_weights:.4f}, since each layer keeps a unit, "
            f"got {sparsity}"
        )
    return target


def _steps(
    weights: TrainedWeights,
    target: int | None,
    rounds: int | Sequence[float] | None,
    *,
    to_the_end: bool = False,
) -> list[int]:
    """Return how many entries are out after each round, the last one removing all that may go if asked to."""
    total, out = weights.num_weights, weights.num_out
    if isinstance(rounds, Sequence):
        steps = [round(share * total) for share in rounds]
        steps[-1] = steps[-1] if target is None else target
    else:
        last = round(LAST_SHARE * total) if target is None else target
        count = rounds or (ROUNDS_UNTIL_STOP if target is None else ROUNDS)
        left, least = total - out, max(total - last, 1)
        steps = [total - round(left * (least / left) ** (number / count)) for number in range(1, count)]
        steps = [number for number in steps if number < last] + [last]
    if to_the_end:
        steps[-1] = total
    return sorted({number for number in steps if number > out})


def _shown(steps: list[int], progress: bool) -> Iterable[int]:
    if not progress:
        return steps
    from rich.progress import track

    return track(steps, description="pruning", transient=True)
