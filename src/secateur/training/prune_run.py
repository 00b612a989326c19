"""Prune the network of a finished run further, by joint evidence, and write the result as a new run."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from secateur.compaction import plain_copy
from secateur.data import Dataset, Split
from secateur.data.examples import OwnExamples
from secateur.errors import InvalidArgumentError, UsageError
from secateur.likelihoods import resolve
from secateur.modules import held_masks, reestimate
from secateur.posterior import Posterior
from secateur.pruning import PruneResult, prune_trained
from secateur.pruning.joint_step import by_weight
from secateur.pruning.rounds import removable_weights
from secateur.runs.directory import RunDirectory
from secateur.training import Progress, Run, fit, load_run
from secateur.training.prediction import scores
from secateur.training.problem import without_holdout
from secateur.training.pruned_metrics import pruned_metrics, shift_epochs
from secateur.training.run import run_data, versions

__all__ = ["GRANULARITIES", "PrunedRun", "prune_run"]

GRANULARITIES = ("weight", "neuron", "channel", "head", "unit")
UNITS = ("neuron", "channel", "head")
ASKED_DATA = 5000  # that curvature and losses are taken on
BATCH = 250
ROUNDS = 12  # half of what `prune_trained` takes for a network that nothing has been removed from


@dataclass(frozen=True)
class PrunedRun:
    """What pruning a run did to it.

    Attributes:
        directory: Of the new run.
        result: What went, round by round.
        accuracy_before: Of the averaged prediction, before.
        accuracy_after: The same afterwards, and after any recovery.
    """

    directory: Path
    result: PruneResult
    accuracy_before: float
    accuracy_after: float


def prune_run(
    directory: Path,
    *,
    out: Path,
    sparsity: float | None = None,
    granularity: str = "weight",
    max_loss_rise: float | None = None,
    cost: str = "weights",
    multiply_adds: float | None = None,
    rounds: int = ROUNDS,
    recover: int = 0,
    num_samples: int = 100,
    data_dir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    model: nn.Module | None = None,
    data: Dataset | OwnExamples | str | None = None,
) -> PrunedRun:
    """Prune the network of a finished run further, and write the result as a new run.

    It is `prune_trained` on the run's network and on its own training data. What the run held out judges.

    Args:
        directory: Of a finished run; nothing of it is changed.
        out: Directory of the new run, new or empty.
        sparsity: Share of all weights to be out; of whole units the share of the weights they are made of.
            The evidence stops when None.
        granularity: "weight"; or "neuron", "channel", "head", or "unit" for all three, to remove these whole.
        max_loss_rise: As for `prune_trained`.
        cost: As for `prune_trained`.
        multiply_adds: As for `prune_trained`.
        rounds: In how many steps, at most.
        recover: Epochs to train what is left, by the run's method; it removes nothing more.
        num_samples: Posterior samples to average over when the result is judged.
        data_dir: Where to look for the data set first.
        command: Command line to keep in `config.json`.
        progress: What to tell of each step and epoch of the recovery; nothing when None.
        model: Network of the run, if it is none of `secateur.networks`.
        data: The run's own data, if they are no longer where they were.

    Raises:
        UsageError: If there is no such granularity.
        ArtifactError: If the run is missing or damaged, or `out` is in use or cannot be written.
        InvalidArgumentError: If an argument is out of range.
        DataError: If the data set cannot be found.
    """
    if granularity not in GRANULARITIES:
        raise UsageError(f"granularity: expected one of {', '.join(GRANULARITIES)}, got {granularity!r}")
    if recover < 0:
        raise InvalidArgumentError(f"recover: expected at least 0 epochs, got {recover}")
    run = load_run(directory, model=model)
    target = RunDirectory(out)
    target.check(resume=False)
    train, test = (run_data(run, split, data_dir, data) for split in ("train", "test"))
    seed = run.config["seed"]
    known, held_out = without_holdout(train, run.config["num_held_out"], seed)
    result = prune_trained(
        run.model,
        _loader(known, seed),
        likelihood=run.likelihood,
        sparsity=_of_removable(run, sparsity) if granularity == "weight" else sparsity,
        granularity=UNITS if granularity == "unit" else granularity,
        multiply_adds=multiply_adds,
        cost=cost,
        rounds=rounds,
        max_loss_rise=max_loss_rise,
        num_data=len(known),
        seed=seed,
        held_out=None if held_out is None else _loader(held_out, seed),
        progress=progress is not None,
    )
    reestimate(run.model, train.images)
    keep = run.posterior.keep | held_masks(run.model)
    end = replace(
        run,
        posterior=_moved(run, keep),
        metrics=run.metrics | {"reductions": [], "seconds": 0.0},
        history=[],
    )
    if recover:
        end = _recovered(run, train, test, recover, num_samples, progress)
    else:
        end.metrics.update(_judged(end, test, num_samples))
    keep = end.posterior.keep | held_masks(end.model)
    removal = {
        "epoch": len(run.history),
        "num_removed": result.num_removed,
        "predicted_delta_f": result.predicted_delta_f,
        "observed_delta_f": result.observed_delta_f,
    }
    metrics = pruned_metrics(run, end, keep, by_weight(result), removal)
    config = run.config | {
        "predictive_temperature": end.config["predictive_temperature"],
        "predictive_likelihood": end.likelihood.describe(),
        "pruned": {
            "from": str(directory),
            "sparsity": sparsity,
            "granularity": granularity,
            "max_loss_rise": max_loss_rise,
            "cost": cost,
            "multiply_adds": multiply_adds,
            "rounds": rounds,
            "recover": recover,
        },
        "command": command,
        "versions": versions(),
    }
    _write(target, config, metrics, [*run.history, *shift_epochs(end.history, len(run.history))], end)
    accuracies = (found.get("accuracy", math.nan) for found in (run.metrics, metrics))
    return PrunedRun(out, result, *accuracies)


def _of_removable(run: Run, sparsity: float | None) -> float | None:
    """Return the share of the weights that may go which makes this share of all weights."""
    if sparsity is None:
        return None
    weights = removable_weights(run.model, None, None)
    others_out = run.metrics["num_weights"] - run.metrics["num_kept"] - weights.num_out
    found = (sparsity * run.metrics["num_weights"] - others_out) / weights.num_weights
    least, most = (
        (others_out + out) / run.metrics["num_weights"] for out in (weights.num_out, weights.num_weights)
    )
    if not least <= sparsity <= most:
        raise InvalidArgumentError(
            f"sparsity: expected between {least:.4f}, which is out already, and {most:.4f}, since biases and "
            f"the output layer stay, got {sparsity}"
        )
    return min(max(found, 0.0), 1.0)


def _loader(data: Split, seed: int) -> "DataLoader[Any]":
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:ASKED_DATA]
    return DataLoader(TensorDataset(data.images[chosen], data.labels[chosen]), batch_size=BATCH)


def _moved(run: Run, keep: dict[str, torch.Tensor]) -> Posterior:
    """Return the run's posterior at the network's new weights, without what has gone."""
    before, weights = run.posterior, dict(run.model.named_parameters())
    mean = {name: weights[name].detach().clone() for name in before.mean}
    moved = Posterior(mean, before.precision, before.prior_precision, before.keep)
    return moved.given({name: mask for name, mask in keep.items() if name in mean})


def _judged(run: Run, test: Split, num_samples: int) -> dict[str, Any]:
    return scores(
        run.model,
        run.posterior,
        test,
        temperature=run.config["predictive_temperature"],
        num_samples=num_samples,
        seed=run.config["seed"],
        likelihood=run.likelihood,
        calibration=run.calibration,
    )


def _recovered(
    run: Run, train: Split, test: Split, epochs: int, num_samples: int, progress: Progress | None
) -> Run:
    """Train the kept weights of the run's network; removed ones stay zero, no more are removed."""
    return fit(
        run.model,
        train,
        test,
        method=run.config["method"],
        likelihood=resolve(run.config.get("likelihood", "categorical")),
        epochs=epochs,
        seed=run.config["seed"],
        reduce=False,
        num_samples=num_samples,
        progress=progress,
    )


def _write(
    target: RunDirectory,
    config: dict[str, Any],
    metrics: dict[str, Any],
    history: list[dict[str, Any]],
    end: Run,
) -> None:
    with target.claimed(resume=False):
        target.finish(
            config=config,
            metrics=metrics,
            history=history,
            model=plain_copy(end.model).state_dict(),
            save_posterior=end.posterior.save,
            calibration=end.calibration,
        )
