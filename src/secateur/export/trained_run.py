"""Prune a trained network, judge it on held-out data, and write it to a new directory with its numbers."""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature.batches import learned_likelihood, read_batch
from secateur.errors import ArtifactError
from secateur.export.trained_costs import baseline, measure_costs
from secateur.likelihoods import Likelihood, resolve
from secateur.pruning import PruneResult, prune_trained
from secateur.pruning.calibration import CalibrationData
from secateur.pruning.measuring import judged
from secateur.runs import as_json, write_whole
from secateur.training.recovery import recover
from secateur.training.run import versions

__all__ = ["FORMAT", "RESULT", "PrunedNetwork", "check_new", "prune_to_directory"]

RESULT = "result.json"
FORMAT = "secateur-prune-trained"
VERSION = 1
NUMBERS = (
    "num_weights", "num_kept", "num_removed", "sparsity", "predicted_delta_f", "observed_delta_f",
    "loss_before", "loss_after", "held_out_before", "stopped_by", "num_data", "units_before", "units_after",
)  # fmt: skip
MOST_OUTPUTS = 1 << 25  # numbers kept to score all data at once; a table of 128 MB
FEWEST_SAMPLES = "log_predictive_density"  # of several networks; that of one is its likelihood once more


@dataclass(frozen=True)
class PrunedNetwork:
    """A pruned network in its directory.

    Attributes:
        result: What was removed.
        weights: File with the weights.
        directory: Directory with all files.
    """

    result: PruneResult
    weights: Path
    directory: Path


def check_new(out: Path) -> None:
    """Refuse a directory that has files, or cannot be made; nothing is changed.

    Args:
        out: Directory to write to.

    Raises:
        ArtifactError: If it is not new or empty, or not writable.
    """
    try:
        if out.exists() and any(out.iterdir()):
            raise ArtifactError(f"--out {out}: expected a new or empty directory, got one with files")
        place = out
        while not place.exists():
            place = place.parent
    except OSError as error:
        raise ArtifactError(f"--out {out}: expected a new or empty directory, got: {error}") from error
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ArtifactError(
            f"--out {out}: expected a directory that can be written, got {place}, which cannot"
        )


def prune_to_directory(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    out: Path,
    write: Callable[[nn.Module, Path], Path],
    likelihood: str | Likelihood = "categorical",
    held_out: Iterable[Any] | None = None,
    seed: int = 0,
    recovery_epochs: int = 0,
    about: Mapping[str, Any] | None = None,
    **options: Any,
) -> PrunedNetwork:
    """Prune a trained network in place; write it, and `result.json` with all numbers, to a new directory.

    Args:
        model: Trained network.
        loader: Batches with targets.
        out: New or empty directory.
        write: Writes the network into the directory, and returns the file with its weights.
        likelihood: Distribution of the targets.
        held_out: Batches to judge by; None holds out a slice of the loader.
        seed: As for `prune_trained`.
        recovery_epochs: Passes over the loader in which the pruned network learns to answer as the network
            before did (`secateur.recover`).
        about: Further entries of `result.json`: where network and data came from.
        options: Of `secateur.prune_trained`.

    Raises:
        ArtifactError: If the directory is not new or empty, or cannot be written.
        InvalidArgumentError: As of `prune_trained`.
    """
    check_new(out)
    start = time.perf_counter()
    data = CalibrationData.of(loader, held_out=held_out, seed=seed)  # the slice that prune_trained would take
    device = next(model.parameters()).device
    model.eval()
    kind = learned_likelihood(resolve(likelihood), model, data.fit, device)
    example = read_batch(next(iter(data.held_out)), device, model).example
    before = baseline(model, example)
    scores_before = _scores(model, data.held_out, kind)
    teacher = copy.deepcopy(model) if recovery_epochs else None
    result = prune_trained(
        model, loader, held_out=held_out, likelihood=likelihood, seed=seed, progress=False, **options
    )
    divergences: tuple[float, ...] = ()
    if teacher is not None:
        divergences = recover(
            model, teacher, data.fit, likelihood=kind, epochs=recovery_epochs, progress=False
        )
        del teacher
    seconds = time.perf_counter() - start
    record = {
        "format": FORMAT,
        "version": VERSION,
        **(about or {}),
        "network": type(model).__name__,
        "likelihood": kind.describe(),
        "held_out_given": held_out is not None,
        "seed": seed,
        "options": {name: value for name, value in options.items() if not callable(value)},
        "versions": versions(),
        "num_threads": torch.get_num_threads(),
        "device": str(device),
        "seconds": seconds,
        "recovery": divergences,
        **_numbers(result),
        "scores": {"before": scores_before, "after": _scores(model, data.held_out, kind)},
        "costs": asdict(measure_costs(before, model, result.masks, example)),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"--out {out}: expected to make this directory, got: {error}") from error
    weights = write(model, out)
    write_whole(out / RESULT, json.dumps(as_json(record), indent=1).encode())
    return PrunedNetwork(result, weights, out)


def _numbers(result: PruneResult) -> dict[str, Any]:
    """Return all numbers of a result as JSON values; masks and evidence of single entries are left out."""
    return {
        **{name: getattr(result, name) for name in NUMBERS},
        "chosen_round": len(result.rounds),
        "layers": [asdict(row) for row in result.layers],
        "trace": [asdict(row) for row in result.trace],
    }


@torch.no_grad()
def _scores(model: nn.Module, batches: Iterable[Any], likelihood: Likelihood) -> dict[str, float]:
    """Return a network's held-out scores; means per datum, or per token where the targets are tokens.

    Scores that need the predictions of all data at once are left out where those are too many to be kept,
    as with the vocabulary of a language model.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    size, count, loss, right = 0, 0, 0.0, 0
    tokens, classes = False, likelihood.name == "categorical"
    for _, outputs, targets in judged(model, batches, likelihood, argument="held_out"):
        tokens = outputs.dim() > 2
        loss += float(likelihood.loss(outputs, targets).double().sum())
        count += likelihood.num_data(targets)
        if classes:
            right += int((outputs.argmax(-1) == targets).sum())
        size += outputs.numel()
        if size <= MOST_OUTPUTS:
            kept.append((outputs.cpu(), targets.cpu()))
        else:
            kept.clear()
    scores = {"negative_log_likelihood": loss / count}
    if size <= MOST_OUTPUTS:
        if tokens and all(outputs.shape[:-1] == targets.shape for outputs, targets in kept):
            kept = [
                (outputs.flatten(0, -2), targets.flatten()) for outputs, targets in kept
            ]  # lengths differ
        outputs, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
        scores |= likelihood.scores(outputs, targets)
        scores.pop(FEWEST_SAMPLES, None)
    elif classes:
        scores["accuracy"] = right / count
    if tokens and classes:
        scores["perplexity"] = math.exp(min(loss / count, 700.0))
    return {name: float(value) for name, value in scores.items()}
