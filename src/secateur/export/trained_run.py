"""Prune a trained network, judge it on held-out data, and write it to a new directory with its numbers."""

import copy
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compaction import CompactionWarning, compact, plain_copy
from secateur.curvature.batches import learned_likelihood, read_batch
from secateur.errors import ArtifactError, SecateurError
from secateur.export.timing import alternating_medians
from secateur.likelihoods import Likelihood, resolve
from secateur.modules import batch_size, call
from secateur.pruning import PruneResult, prune_trained
from secateur.pruning.calibration import CalibrationData
from secateur.pruning.measuring import judged
from secateur.runs import as_json, write_whole
from secateur.training.recovery import recover
from secateur.training.run import versions

__all__ = [
    "FORMAT", "RESULT", "PrunedNetwork", "TrainedCosts", "check_new", "csr_bytes", "held_out_scores",
    "measure_costs", "prune_to_directory",
]  # fmt: skip

RESULT = "result.json"
FORMAT = "secateur-prune-trained"
VERSION = 1
INDEX_BYTES = 4
SECONDS = 2.0  # spent on timing
LARGEST = 1 << 28  # bytes of weights, above which no second copy is made to be timed, and none compact
SLOWEST_CALL = 20.0  # seconds; what takes longer is not timed
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


@dataclass(frozen=True)
class TrainedCosts:
    """Bytes of a network and time of a batch, before and after a removal.

    Attributes:
        dense_bytes: All parameters, zeros included: as before.
        sparse_bytes: The same where each pruned matrix is stored as CSR, if that is smaller.
        compact_bytes: Parameters of the compact network; None where no whole unit went.
        batch: Data of the batch that was timed.
        seconds_before: Median time of a batch; None where it was not timed.
        seconds_after: The same with zeros in place.
        seconds_compact: The same of the compact network.
        remarks: What could not be measured, and why.
    """

    dense_bytes: int
    sparse_bytes: int
    compact_bytes: int | None = None
    batch: int = 0
    seconds_before: float | None = None
    seconds_after: float | None = None
    seconds_compact: float | None = None
    remarks: tuple[str, ...] = ()


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
    example = read_batch(next(iter(data.held_out)), device).example
    before = plain_copy(model).eval() if _bytes(model) <= LARGEST else _seconds(model, example)
    scores_before = held_out_scores(model, data.held_out, kind)
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
    scores_after = held_out_scores(model, data.held_out, kind)
    costs = measure_costs(before, model, result.masks, example)
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
        "scores": {"before": scores_before, "after": scores_after},
        "costs": asdict(costs),
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
        "num_weights": result.num_weights,
        "num_kept": result.num_kept,
        "num_removed": result.num_removed,
        "sparsity": result.sparsity,
        "predicted_delta_f": result.predicted_delta_f,
        "observed_delta_f": result.observed_delta_f,
        "loss_before": result.loss_before,
        "loss_after": result.loss_after,
        "held_out_before": result.held_out_before,
        "chosen_round": len(result.rounds),
        "stopped_by": result.stopped_by,
        "num_data": result.num_data,
        "units_before": result.units_before,
        "units_after": result.units_after,
        "layers": [asdict(row) for row in result.layers],
        "trace": [asdict(row) for row in result.trace],
    }


def csr_bytes(weight: Tensor) -> int:
    """Return the bytes of a weight as a CSR matrix of its output units, or dense if that is fewer.

    CSR keeps a value and a column number of four bytes for each kept entry, and a place for each row.

    Args:
        weight: Weight with exact zeros.

    >>> csr_bytes(torch.eye(8)), csr_bytes(torch.ones(8, 8))
    (100, 256)
    """
    kept = int(weight.count_nonzero())
    return min(weight.nbytes, kept * (weight.element_size() + INDEX_BYTES) + (len(weight) + 1) * INDEX_BYTES)


def measure_costs(
    before: nn.Module | float, model: nn.Module, masks: Mapping[str, Tensor], example: Any
) -> TrainedCosts:
    """Measure bytes and times of a network before and after a removal.

    Args:
        before: Copy of the network before; where it is too large for two, the seconds that a batch took.
        model: Network with its zeros, in evaluation mode.
        masks: True where an entry stays, of the weights that were looked at.
        example: Batch to time, as the network is called, on its device.
    """
    matrices = {name for name, mask in masks.items() if mask.dim() > 1}
    sparse = sum(
        csr_bytes(value.detach()) if name in matrices else value.nbytes
        for name, value in model.named_parameters()
    )
    remarks: list[str] = []
    small = None
    if any((~masks[name].flatten(1).any(1)).any() for name in matrices):  # a unit of which nothing is left
        if isinstance(before, nn.Module):
            small = _compacted(model, example, remarks)
        else:
            remarks.append(
                "Units of which nothing is left were not taken out here: secateur.compact does that."
            )
    seconds: list[float] = []
    if (once := _seconds(before, example) if isinstance(before, nn.Module) else before) > SLOWEST_CALL:
        remarks.append("Times were not measured: a batch takes too long.")
    elif isinstance(before, nn.Module):
        networks = [before, plain_copy(model).eval(), *([] if small is None else [small])]
        calls = [partial(call, network) for network in networks]
        with torch.no_grad():
            seconds = alternating_medians(calls, (example,), seconds=SECONDS)
    else:
        remarks.append("The times before and after were measured one after the other.")
        seconds = [once, _seconds(model, example)]
    times = dict(zip(("seconds_before", "seconds_after", "seconds_compact"), seconds, strict=False))
    return TrainedCosts(
        dense_bytes=_bytes(model),
        sparse_bytes=sparse,
        compact_bytes=None if small is None else _bytes(small),
        batch=batch_size(example),
        remarks=tuple(remarks),
        **times,
    )


def _bytes(model: nn.Module) -> int:
    return sum(value.nbytes for value in model.parameters())


def _compacted(model: nn.Module, example: Any, remarks: list[str]) -> nn.Module | None:
    """Return the compact network; None where it is no smaller."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CompactionWarning)
        try:
            small = compact(model, example)
        except SecateurError as error:
            remarks.append(f"The network was not compacted: {error}")
            return None
    remarks += [f"{each.message}." for each in said if issubclass(each.category, CompactionWarning)]
    return small.eval() if _bytes(small) < _bytes(model) else None


@torch.no_grad()
def _seconds(model: nn.Module, example: Any) -> float:
    """Return the time of the shortest of three calls, of one where that takes too long."""
    shortest = math.inf
    for _ in range(3):
        start = time.perf_counter()
        call(model, example)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        shortest = min(shortest, time.perf_counter() - start)
        if shortest > SLOWEST_CALL:
            break
    return shortest


@torch.no_grad()
def held_out_scores(model: nn.Module, batches: Iterable[Any], likelihood: Likelihood) -> dict[str, float]:
    """Return a network's scores; means per datum, or per token where the targets are tokens.

    Scores that need the predictions of all data at once are left out where those are too many to be kept,
    as with the vocabulary of a language model.

    Args:
        model: The network.
        batches: With targets.
        likelihood: Distribution of the targets.
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
