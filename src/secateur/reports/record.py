"""A finished run as reports and summaries see it: its JSON files, and the weights of its first layer.

Nothing here runs code from the files. A number that could not be computed is null in the files and nan here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from secateur.errors import ArtifactError
from secateur.runs.files import open_ordinary
from secateur.runs.reading import read_run
from secateur.runs.records import Bench, Epoch, Layer, Reduction, ReliabilityBins, Scores

__all__ = ["FirstLayer", "Record", "read"]


@dataclass(frozen=True)
class FirstLayer:
    """Weights of the first linear or convolutional layer; removed entries are exactly zero."""

    name: str
    weight: np.ndarray


@dataclass(frozen=True)
class Record:
    """Everything that is read from a run directory.

    Attributes:
        averaged: Scores of the prediction averaged over posterior samples.
        mean_network: Scores of the one-pass network at the posterior mean; None where there is no other.
        evaluated_on: Which data the scores are from, `test` or `train`.
        bench: The network's forms measured side by side; None where nobody asked for it.
    """

    directory: Path
    config: Mapping[str, Any]
    averaged: Scores
    mean_network: Scores | None
    evaluated_on: str
    sparsity: float
    num_weights: int
    num_kept: int
    num_samples: int
    seconds: float
    seconds_per_iteration: float
    layers: tuple[Layer, ...]
    reliability: ReliabilityBins
    reductions: tuple[Reduction, ...]
    epochs: tuple[Epoch, ...]
    first_layer: FirstLayer | None
    bench: Bench | None = None


def read(directory: Path) -> Record:
    """Read a run directory.

    Args:
        directory: What `--out` of a finished fit names.

    Raises:
        ArtifactError: If the directory or one of its files is missing or damaged; the message names it.
    """
    run = read_run(directory)
    metrics = run.metrics
    has_two = metrics.num_samples > 1 and metrics.mean_network is not None
    return Record(
        directory=run.directory.path,
        config=run.config_values,
        averaged=run.scores(),
        mean_network=run.scores(of_mean_network=True) if has_two else None,
        evaluated_on=metrics.evaluated_on,
        sparsity=metrics.sparsity,
        num_weights=metrics.num_weights,
        num_kept=metrics.num_kept,
        num_samples=metrics.num_samples,
        seconds=metrics.seconds,
        seconds_per_iteration=metrics.seconds_per_iteration,
        layers=metrics.layers,
        reliability=metrics.reliability or ReliabilityBins(),
        reductions=metrics.reductions,
        epochs=run.epochs,
        first_layer=_first_layer(run.directory.model, metrics.layers),
        bench=run.bench,
    )


def _first_layer(path: Path, layers: tuple[Layer, ...]) -> FirstLayer | None:
    try:
        open_ordinary(path).close()
        with safe_open(path, framework="pt") as tensors:
            names = set(tensors.keys())
            for layer in layers:
                if layer.name in names and layer.name.endswith("weight") and len(layer.shape) in {2, 4}:
                    weight = tensors.get_tensor(layer.name).float().numpy()
                    if weight.shape != layer.shape:
                        raise ValueError(f"{layer.name} of shape {layer.shape}, got {weight.shape}")
                    return FirstLayer(layer.name, weight)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is damaged: expected the weights of a run, got {error}; "
            "fit again, or take the file from an intact copy of the run"
        ) from None
    return None
