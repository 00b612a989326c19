"""Read and check the files of a finished run: the only input of reports and summaries.

A run directory holds `config.json`, `metrics.json`, `history.jsonl` and `model.safetensors`; nothing here
runs code from them. A number that could not be computed is null in the files and nan here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from secateur.errors import ArtifactError
from secateur.reports.bench import Bench, read_bench
from secateur.runs.fields import Fields, parse, read_text

__all__ = ["Epoch", "FirstLayer", "Layer", "Record", "ReductionRow", "ReliabilityBins", "Scores", "read"]


@dataclass(frozen=True)
class Scores:
    """Scores of one kind of prediction; log scores in nats, means over examples."""

    accuracy: float
    negative_log_likelihood: float
    expected_calibration_error: float
    brier_score: float
    log_predictive_density: float


@dataclass(frozen=True)
class Layer:
    """Sparsity and evidence of one parameter tensor.

    Attributes:
        delta_f: Summed evidence for what was removed, in nats; positive favours the removal.
        prunable: False for what the method never removes, such as the output layer.
    """

    name: str
    shape: tuple[int, ...]
    num_weights: int
    num_kept: int
    delta_f: float
    prunable: bool

    @property
    def kept(self) -> float:
        """Share of the weights that stayed, from 0 to 1."""
        return self.num_kept / max(self.num_weights, 1)


@dataclass(frozen=True)
class ReductionRow:
    """Predicted and observed delta_f of one removal, in nats."""

    epoch: int
    num_removed: int
    predicted_delta_f: float
    observed_delta_f: float


@dataclass(frozen=True)
class ReliabilityBins:
    """Mean confidence, accuracy and number of examples of each bin."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]


@dataclass(frozen=True)
class Epoch:
    """One line of the history; the scores are those of the posterior-mean network."""

    epoch: int
    accuracy: float
    negative_log_likelihood: float
    expected_calibration_error: float
    sparsity: float
    num_removed: int


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
    reductions: tuple[ReductionRow, ...]
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
    directory = Path(directory)
    if not directory.is_dir():
        raise ArtifactError(f"expected the directory of a run, got {directory}, which is not a directory")
    config = _object(directory / "config.json")
    for key in ("network", "data", "method"):
        config.text(key)
    metrics = _object(directory / "metrics.json")
    layers = tuple(map(_layer, metrics.rows("layers")))
    num_samples = metrics.count("num_samples")
    mean_network = metrics.optional("mean_network") if num_samples > 1 else None
    return Record(
        directory=directory,
        config=config.values,
        averaged=_scores(metrics),
        mean_network=None if mean_network is None else _scores(mean_network),
        evaluated_on=metrics.text("evaluated_on"),
        sparsity=metrics.number("sparsity"),
        num_weights=metrics.count("num_weights"),
        num_kept=metrics.count("num_kept"),
        num_samples=num_samples,
        seconds=metrics.number("seconds"),
        seconds_per_iteration=metrics.number("seconds_per_iteration"),
        layers=layers,
        reliability=_reliability(metrics),
        reductions=tuple(map(_reduction, metrics.rows("reductions"))),
        epochs=_history(directory / "history.jsonl"),
        first_layer=_first_layer(directory / "model.safetensors", layers),
        bench=read_bench(directory / "bench.json"),
    )


def _object(path: Path) -> Fields:
    return parse(path, read_text(path))


def _history(path: Path) -> tuple[Epoch, ...]:
    epochs = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        row = parse(path, line, f" in line {number}")
        epochs.append(
            Epoch(
                epoch=row.count("epoch"),
                accuracy=row.number("accuracy", math.nan),
                negative_log_likelihood=row.number("negative_log_likelihood", math.nan),
                expected_calibration_error=row.number("expected_calibration_error", math.nan),
                sparsity=row.number("sparsity", math.nan),
                num_removed=row.count("num_removed", 0),
            )
        )
    return tuple(epochs)


def _scores(fields: Fields) -> Scores:
    return Scores(
        fields.number("accuracy"),
        fields.number("negative_log_likelihood"),
        fields.number("expected_calibration_error"),
        fields.number("brier_score"),
        fields.number("log_predictive_density"),
    )


def _layer(fields: Fields) -> Layer:
    return Layer(
        name=fields.text("name"),
        shape=fields.counts("shape"),
        num_weights=fields.count("num_weights"),
        num_kept=fields.count("num_kept"),
        delta_f=fields.number("delta_f"),
        prunable=bool(fields.take("prunable")),
    )


def _reduction(fields: Fields) -> ReductionRow:
    return ReductionRow(
        epoch=fields.count("epoch"),
        num_removed=fields.count("num_removed"),
        predicted_delta_f=fields.number("predicted_delta_f"),
        observed_delta_f=fields.number("observed_delta_f"),
    )


def _reliability(metrics: Fields) -> ReliabilityBins:
    fields = metrics.optional("reliability")
    if fields is None:
        return ReliabilityBins((), (), ())
    bins = ReliabilityBins(fields.numbers("confidence"), fields.numbers("accuracy"), fields.counts("count"))
    if not len(bins.confidence) == len(bins.accuracy) == len(bins.count):
        raise fields.damaged("expected lists of one length in 'reliability', got different ones")
    return bins


def _first_layer(path: Path, layers: tuple[Layer, ...]) -> FirstLayer | None:
    if not path.is_file():
        raise ArtifactError(f"expected {path.name} in {path.parent}, got no such file; fit again")
    try:
        with safe_open(path, framework="pt") as tensors:
            names = set(tensors.keys())
            for layer in layers:
                if layer.name in names and layer.name.endswith("weight") and len(layer.shape) in {2, 4}:
                    return FirstLayer(layer.name, tensors.get_tensor(layer.name).float().numpy())
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} is damaged: expected a safetensors file, got {error}; "
            "fit again, or take the file from an intact copy of the run"
        ) from None
    return None
