"""Prune the network of a finished run further, and write the result as a new run."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.compaction import plain_copy
from secateur.data import Dataset, Split
from secateur.data.examples import OwnExamples
from secateur.errors import InvalidArgumentError, UsageError
from secateur.likelihoods import Likelihood, resolve
from secateur.modules import evaluation_mode, held_masks, reestimate
from secateur.pruning import prune, prune_units
from secateur.runs.directory import RunDirectory
from secateur.training import Progress, Run, fit, load_run
from secateur.training.prediction import scores
from secateur.training.pruned_metrics import evidence_of_removal, pruned_metrics, shift_epochs
from secateur.training.run import example_images, run_data, versions

__all__ = ["GRANULARITIES", "PrunedRun", "prune_run"]

GRANULARITIES = ("weight", "neuron", "channel", "head", "unit")
_OBSERVED_DATA = 5000
_BATCH = 500


@dataclass(frozen=True)
class PrunedRun:
    """Loss, accuracy and number of weights before and after pruning a run.

    Attributes:
        directory: Of the new run.
        num_weights: Weights of the network.
        kept_before: Weights that were in.
        kept_after: Weights that are in.
        predicted_delta_f: Summed evidence for the removals, in nats.
        loss_before: Training loss before, in nats per datum.
        loss_after: The same afterwards.
        accuracy_before: Of the averaged prediction, before.
        accuracy_after: The same afterwards.
    """

    directory: Path
    num_weights: int
    kept_before: int
    kept_after: int
    predicted_delta_f: float
    loss_before: float
    loss_after: float
    accuracy_before: float
    accuracy_after: float


def prune_run(
    directory: Path,
    *,
    out: Path,
    sparsity: float | None = None,
    granularity: str = "weight",
    max_loss_rise: float | None = None,
    cost: str = "unit",
    multiply_adds: float | None = None,
    recover: int = 0,
    num_samples: int = 100,
    data_dir: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    model: nn.Module | None = None,
    data: Dataset | OwnExamples | str | None = None,
) -> PrunedRun:
    """Prune the network of a finished run further, and write the result as a new run.

    Args:
        directory: Of a finished run; nothing of it is changed.
        out: Directory of the new run, new or empty.
        sparsity: Exact fraction of the posterior's entries to be out; the evidence decides when None.
        granularity: "weight"; or "neuron", "channel", "head", or "unit" for all three, to remove these
            whole and then to ask for single weights again.
        max_loss_rise: Remove whole units past what the evidence asks for, those it misses least first, until
            the training loss has risen by this, in nats per datum.
        cost: What the ranking of whole units saves: "unit", or "multiply-adds".
        multiply_adds: Remove whole units until this share of the network's multiply-adds is left, and then no
            single weights; within `max_loss_rise`, where that is given too.
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
        InvalidArgumentError: If an argument is out of range, or the run has no posterior.
        DataError: If the data set cannot be found.
    """
    if granularity not in GRANULARITIES:
        raise UsageError(f"granularity: expected one of {', '.join(GRANULARITIES)}, got {granularity!r}")
    for name, value in (("max_loss_rise", max_loss_rise), ("multiply_adds", multiply_adds)):
        if value is not None and (granularity == "weight" or sparsity is not None):
            raise InvalidArgumentError(
                f"{name}: expected whole units and no sparsity beside it, got "
                f"granularity {granularity!r} and sparsity {sparsity}"
            )
    if recover < 0:
        raise InvalidArgumentError(f"recover: expected at least 0 epochs, got {recover}")
    run = load_run(directory, model=model)
    target = RunDirectory(out)
    target.check(resume=False)
    train, test = (run_data(run, split, data_dir, data) for split in ("train", "test"))
    observed = _some(train, run.config["seed"])
    before = run.posterior
    loss_before = _loss(plain_copy(run.model), observed, run.likelihood)
    _remove(run, sparsity, granularity, max_loss_rise, cost, multiply_adds, observed)
    reestimate(run.model, train.images)
    loss_after = _loss(plain_copy(run.model), observed, run.likelihood)
    keep = before.keep | held_masks(run.model)
    after = before.given({name: mask for name, mask in keep.items() if name in before.mean})
    evidence = evidence_of_removal(before, keep)
    removal = {
        "epoch": len(run.history),
        "num_removed": sum(int(mask.numel() - mask.sum()) for mask in keep.values())
        - (run.metrics["num_weights"] - run.metrics["num_kept"]),
        "predicted_delta_f": math.fsum(evidence.values()),
        "observed_delta_f": len(train) * (loss_before - loss_after)
        + float(before.kl_divergence() - after.kl_divergence()),
    }
    end = replace(run, posterior=after, metrics=run.metrics | {"reductions": [], "seconds": 0.0}, history=[])
    if recover:
        end = _recovered(run, train, test, recover, num_samples, progress)
    else:
        end.metrics.update(_judged(end, test, num_samples))
    keep = end.posterior.keep | held_masks(end.model)
    metrics = pruned_metrics(run, end, keep, evidence, removal)
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
            "recover": recover,
        },
        "command": command,
        "versions": versions(),
    }
    _write(target, config, metrics, [*run.history, *shift_epochs(end.history, len(run.history))], end)
    return PrunedRun(
        directory=out,
        num_weights=run.metrics["num_weights"],
        kept_before=run.metrics["num_kept"],
        kept_after=metrics["num_kept"],
        predicted_delta_f=removal["predicted_delta_f"],
        loss_before=loss_before,
        loss_after=loss_after,
        accuracy_before=run.metrics.get("accuracy", math.nan),
        accuracy_after=metrics.get("accuracy", math.nan),
    )


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


def _some(train: Split, seed: int) -> Split:
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:_OBSERVED_DATA]
    return Split(train.images[chosen], train.labels[chosen])


@torch.no_grad()
def _loss(network: nn.Module, data: Split, likelihood: Likelihood) -> float:
    """Return the mean loss, in nats per datum; the network's batch norm gets its own moments."""
    reestimate(network, data.images)  # those it has are of the weights before the removal
    total = 0.0
    with evaluation_mode(network):
        for images, labels in zip(data.images.split(_BATCH), data.labels.split(_BATCH), strict=True):
            total += float(likelihood.loss(network(images), labels).sum())
    return total / len(data)


def _remove(
    run: Run,
    sparsity: float | None,
    granularity: str,
    max_loss_rise: float | None,
    cost: str,
    multiply_adds: float | None,
    observed: Split,
) -> None:
    """Prune the run's model in place."""
    if granularity == "weight" or (sparsity is not None and granularity in {"neuron", "channel"}):
        prune(run.model, run.posterior, sparsity=sparsity, granularity=granularity)
        return
    if sparsity is not None:
        raise InvalidArgumentError(
            f"sparsity: expected none for granularity {granularity!r}, got {sparsity}; use max_loss_rise, "
            "or weight, neuron or channel"
        )
    kinds = ("neuron", "channel", "head") if granularity == "unit" else (granularity,)
    prune_units(
        run.model,
        run.posterior,
        example_images(run),
        kinds=kinds,
        price=0.0 if max_loss_rise is None else math.inf,
        observe=None if max_loss_rise is None else lambda network: _loss(network, observed, run.likelihood),
        max_loss_rise=max_loss_rise or 0.0,
        cost=cost,
        multiply_adds=multiply_adds,
        reduce_again=multiply_adds is None,  # which could take more units than the share allows
    )
