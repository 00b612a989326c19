"""Finish a fit: evaluate it, write its files, hold its masks."""

from typing import Any

import torch

from secateur.data import Split
from secateur.modules import hold, prunable_exclude
from secateur.posterior import Posterior
from secateur.pruning.ranking import candidates
from secateur.runs.directory import RunDirectory
from secateur.training.loop import Trainer
from secateur.training.prediction import OnPass, scores
from secateur.training.run import Run

__all__ = ["finish"]


def finish(
    trainer: Trainer,
    config: dict[str, Any],
    judged: Split,
    num_samples: int,
    directory: RunDirectory | None,
    on_pass: OnPass | None = None,
) -> Run:
    """Evaluate the result, write the files of the run, hold the removed weights at zero.

    Args:
        trainer: A fit whose last epoch is done.
        config: What becomes `config.json`, with the predictive temperature.
        judged: Data to judge by.
        num_samples: Posterior samples to average over.
        directory: Where to write, if anywhere; `metrics.json` comes last and marks the run as finished.
        on_pass: Called after each draw with the number of passes done and in all.

    Raises:
        ArtifactError: If a file cannot be written.
    """
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.0)  # a removed weight may be -0.0, which it no longer is in a resumed run
    posterior, calibration = trainer.posterior(), trainer.calibration
    results = scores(
        trainer.model,
        posterior,
        judged,
        temperature=config["predictive_temperature"],
        num_samples=num_samples,
        seed=trainer.seed,
        likelihood=trainer.learned_likelihood(),
        calibration=calibration,
        on_pass=on_pass,
    )
    num_weights, num_kept = trainer.counts()
    layers = _rows(trainer, posterior)
    steps = trainer.epoch * trainer.steps_per_epoch
    metrics = {
        **results,
        "sparsity": 1 - num_kept / num_weights,
        "num_weights": num_weights,
        "num_kept": num_kept,
        "num_prunable": sum(row["num_weights"] for row in layers if row["prunable"]),
        "seconds": trainer.seconds,
        "seconds_per_iteration": trainer.training_seconds / steps,
        "evaluated_on": "train" if trainer.test is None else "test",
        "layers": layers,
        "reductions": trainer.reductions,
    }
    if directory is not None:
        metrics = directory.finish(
            config=config,
            metrics=metrics,
            history=trainer.history,
            model=trainer.model.state_dict(),
            save_posterior=posterior.save,
            calibration=calibration,
        )
    hold(trainer.model, posterior.keep)
    trainer.model.eval()
    return Run(
        model=trainer.model,
        posterior=posterior,
        metrics=metrics,
        config=config,
        history=trainer.history,
        out=None if directory is None else directory.path,
        calibration=calibration,
    )


def _rows(trainer: Trainer, posterior: Posterior) -> list[dict[str, Any]]:
    """Return sparsity and evidence of each parameter."""
    spared = prunable_exclude(trainer.model, posterior.mean, None, None)
    may_go = candidates(posterior, exclude=spared) if _has_layers(posterior) else {}
    prunable = {name for names in may_go.values() for name in names}
    removed = {} if trainer.pruner is None else trainer.pruner.removed_delta_f
    rows = []
    for name, parameter in trainer.model.named_parameters():
        num_weights = parameter.numel()
        num_kept = int(posterior.keep[name].sum()) if name in posterior.keep else num_weights
        rows.append({
            "name": name,
            "shape": list(parameter.shape),
            "num_weights": num_weights,
            "num_kept": num_kept,
            "sparsity": 1 - num_kept / num_weights,
            "delta_f": removed.get(name, 0.0),
            "prunable": name in prunable,
        })
    return rows


def _has_layers(posterior: Posterior) -> bool:
    return any(mean.dim() > 1 for mean in posterior.mean.values())
