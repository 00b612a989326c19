"""Read and check the files of a finished run, as values and tables: the only input of reports.

A run directory holds `config.json`, `metrics.json`, `history.jsonl`, `model.safetensors`, and `bench.json`
once it was measured. Nothing here runs code from them. A number that could not be computed is null in the
files and nan here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pandas import DataFrame, Series
from safetensors import SafetensorError, safe_open

from secateur.errors import ArtifactError
from secateur.export.codec import entropy_bits
from secateur.reports.reading import Fields, kinds_of, parsed, parsed_lines, table_of, values_of

__all__ = ["SCORES", "Bench", "Record", "Scores", "read"]

_VALUE_BYTES = 4


@dataclass(frozen=True)
class Scores:
    """Scores of one kind of prediction; log scores in nats, means over examples."""

    accuracy: float
    negative_log_likelihood: float
    expected_calibration_error: float
    brier_score: float
    log_predictive_density: float


SCORES = tuple(kinds_of(Scores))


@dataclass(frozen=True, eq=False)
class Bench:
    """Measurements of all forms of one network; the first form is the dense one.

    Attributes:
        variants: A row per form, by its name: `file_bytes`, `num_parameters`, `num_macs`, `peak_memory`,
            `accuracy`, `largest_difference`.
        timings: `variant`, `batch`, and `median`, `lower` and `upper` in seconds.
        kernels: `batch`, `layer`, `sparsity`, `dense_seconds`, `sparse_seconds`, `kernel`.
        dense_run: The run that the dense form is of, where it is another one.
        entropy_bound: Bytes that the kept weights need at least if which they are was random.
    """

    variants: DataFrame
    timings: DataFrame
    kernels: DataFrame
    remarks: tuple[str, ...]
    machine: str
    num_threads: int
    torch: str
    dense_run: str | None
    entropy_bound: float

    @property
    def batches(self) -> list[int]:
        """Batch sizes, in the order they were measured."""
        return list(dict.fromkeys(self.timings["batch"]))

    def milliseconds(self, variant: str, batch: int) -> float:
        """Return the median time of a call; nan where it was not measured."""
        found = self.timings.query("variant == @variant and batch == @batch")["median"]
        return 1e3 * float(found.iloc[0]) if len(found) else math.nan


@dataclass(frozen=True, eq=False)
class Record:
    """Everything that is read from a run directory.

    Attributes:
        averaged: Scores of the prediction averaged over posterior samples.
        mean_network: Scores of the one-pass network at the posterior mean; None where there is no other.
        evaluated_on: Which data the scores are from, `test` or `train`.
        layers: A row per parameter: `name`, `shape`, `num_weights`, `num_kept`, `delta_f` (summed evidence
            for what was removed, in nats), `prunable`, `kept` (share).
        reliability: Bins of equal size: `confidence`, `accuracy`, `count`.
        reductions: `epoch`, `num_removed`, `predicted_delta_f`, `observed_delta_f`.
        history: A row per epoch, scores of the posterior-mean network: `epoch`, `seconds`, `accuracy`,
            `negative_log_likelihood`, `expected_calibration_error`, `sparsity`, `num_removed`.
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
    layers: DataFrame
    reliability: DataFrame
    reductions: DataFrame
    history: DataFrame
    bench: Bench | None

    @property
    def device(self) -> str:
        """Kind of device it ran on; times compare only within one kind."""
        return str(self.config.get("device", "cpu")).partition(":")[0]

    @property
    def chance(self) -> float:
        """Accuracy of a guess; nan where the number of classes is not known."""
        classes = self.config.get("num_classes")
        return 1 / classes if isinstance(classes, int) and classes > 1 else math.nan

    @property
    def dense_bytes(self) -> float:
        """Bytes of all weights in single precision."""
        return float(_VALUE_BYTES * self.num_weights)

    @property
    def least_bytes(self) -> float:
        """Bytes that the kept weights need at least if which they are was random."""
        masks = sum(map(entropy_bits, self.layers["num_weights"], self.layers["num_kept"]))
        return _VALUE_BYTES * self.num_kept + masks / 8

    @property
    def last_dense_epoch(self) -> Series | None:
        """Row of the history before anything was removed; None for a network that is dense, or never was."""
        dense = self.history[self.history["sparsity"] == 0]
        return None if dense.empty or self.num_kept >= self.num_weights else dense.iloc[-1]

    def weights(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return tensors of the posterior-mean network in single precision; removed entries are exact zeros.

        Args:
            names: Of parameters; those that the file lacks are left out.
        """
        with safe_open(self.directory / "model.safetensors", framework="pt") as tensors:
            there = set(tensors.keys())
            return {name: tensors.get_tensor(name).float().numpy() for name in names if name in there}

    @property
    def first_layer(self) -> str | None:
        """Name of the first weight that is a matrix or the kernels of images; None where there is none."""
        with safe_open(self.directory / "model.safetensors", framework="pt") as tensors:
            there = set(tensors.keys())
        for name, shape in zip(self.layers["name"], self.layers["shape"], strict=True):
            if name in there and name.endswith("weight") and len(shape) in {2, 4}:
                return str(name)
        return None


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
    config = parsed(directory / "config.json")
    for key in ("network", "data", "method"):
        config.text(key)
    metrics = parsed(directory / "metrics.json")
    plain = ("evaluated_on", "sparsity", "num_weights", "num_kept", "num_samples", "seconds")
    kinds = kinds_of(Record)
    values = values_of(metrics, {key: kinds[key] for key in (*plain, "seconds_per_iteration")})
    single = metrics.optional("mean_network") if values["num_samples"] > 1 else None
    layers = _layers(metrics)
    _check_tensors(directory / "model.safetensors", layers)
    return Record(
        directory=directory,
        config=config.values,
        averaged=Scores(**values_of(metrics, kinds_of(Scores))),
        mean_network=None if single is None else Scores(**values_of(single, kinds_of(Scores))),
        layers=layers,
        reliability=_reliability(metrics),
        reductions=table_of(
            metrics.rows("reductions"),
            {"epoch": int, "num_removed": int, "predicted_delta_f": float, "observed_delta_f": float},
        ),
        history=_history(directory / "history.jsonl"),
        bench=_bench(directory / "bench.json"),
        **values,
    )


def _layers(metrics: Fields) -> DataFrame:
    kinds = {
        "name": str, "shape": tuple[int, ...], "num_weights": int, "num_kept": int, "delta_f": float,
        "prunable": bool,
    }  # fmt: skip
    table = table_of(metrics.rows("layers"), kinds)
    if (table["num_kept"] > table["num_weights"]).any():
        raise metrics.damaged("expected layers that keep at most their weights, got one that keeps more")
    return table.assign(kept=table["num_kept"] / table["num_weights"].clip(lower=1))


def _history(path: Path) -> DataFrame:
    kinds = {"epoch": int} | dict.fromkeys(("seconds", *SCORES[:3], "sparsity", "num_removed"), float | None)
    return table_of(parsed_lines(path), kinds).astype(float).fillna({"num_removed": 0})


def _reliability(metrics: Fields) -> DataFrame:
    bins = metrics.optional("reliability")
    if bins is None:
        return DataFrame({"confidence": [], "accuracy": [], "count": []}, dtype=float)
    kinds = {"confidence": tuple[float, ...], "accuracy": tuple[float, ...], "count": tuple[int, ...]}
    columns = values_of(bins, kinds)
    if len(set(map(len, columns.values()))) > 1:
        raise bins.damaged("expected lists of one length in 'reliability', got different ones")
    return DataFrame(columns, dtype=float)


def _check_tensors(path: Path, layers: DataFrame) -> None:
    """Refuse a file that is no safetensors file, or in which a layer has another shape."""
    if not path.is_file():
        raise ArtifactError(f"expected {path.name} in {path.parent}, got no such file; fit again")
    advice = "fit again, or take the file from an intact copy of the run"
    try:
        with safe_open(path, framework="pt") as tensors:
            there = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        raise ArtifactError(
            f"{path} is damaged: expected a whole safetensors file, got another; {advice}"
        ) from None
    for name, shape in zip(layers["name"], layers["shape"], strict=True):
        if there.get(name, shape) != shape:
            raise ArtifactError(
                f"{path} is damaged: expected {name} of shape {shape}, got {there[name]}; {advice}"
            )


def _bench(path: Path) -> Bench | None:
    if not path.exists():
        return None
    file = parsed(path)
    rows, machine = file.rows("rows"), file.optional("machine")
    if not rows or machine is None:
        raise file.damaged("expected rows and a machine, got none")
    sizes = ("file_bytes", "num_parameters", "num_macs", "peak_memory", "largest_difference")
    variants = table_of(rows, {"variant": str} | dict.fromkeys((*sizes, "accuracy"), float | None))
    times = {"batch": int, "median": float, "lower": float, "upper": float}
    timings = [{"variant": row.text("variant"), **values_of(each, times)} for row in rows
               for each in row.rows("latencies")]  # fmt: skip
    if len({tuple(each.count("batch") for each in row.rows("latencies")) for row in rows}) > 1:
        raise file.damaged("expected the same batch sizes in every row, got different ones")
    choice = {"layer": str, "sparsity": float, "dense_seconds": float, "sparse_seconds": float, "kernel": str}
    kernels = [{"batch": row.count("batch"), **values_of(each, choice)}
               for row in (file.rows("kernels") if "kernels" in file.values else ())
               for each in row.rows("layers")]  # fmt: skip
    dense = machine.values.get("dense_run")
    return Bench(
        variants=variants.set_index("variant"),
        timings=DataFrame(timings, columns=["variant", *times]),
        kernels=DataFrame(kernels, columns=["batch", *choice]),
        remarks=tuple(map(str, file.items("remarks"))),
        machine=machine.text("machine"),
        num_threads=machine.count("num_threads"),
        torch=machine.text("torch"),
        dense_run=None if dense is None else str(dense),
        entropy_bound=file.number("entropy_bound"),
    )
