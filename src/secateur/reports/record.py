"""The files of a finished run as values and tables: the only input of reports.

A run directory holds `config.json`, `metrics.json`, `history.jsonl`, `model.safetensors`, and `bench.json`
once it was measured. Nothing here runs code from them. A number that could not be computed is null in the
files and nan here. Text that a terminal or a page could take for more has its control characters replaced.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from pandas import DataFrame, Series
from safetensors import SafetensorError, safe_open

from secateur.errors import ArtifactError
from secateur.export.codec import entropy_bits
from secateur.runs import records
from secateur.runs.formatting import printable
from secateur.runs.reading import read_run
from secateur.runs.records import SCORES_OF, Scores

__all__ = ["SCORES", "Bench", "Record", "read"]

SCORES = tuple(field.name for field in fields(Scores))
_VALUE_BYTES = 4


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
        intervals: Central intervals of predicted numbers: `level`, `coverage`, `count`.
        reductions: `epoch`, `num_removed`, `predicted_delta_f`, `observed_delta_f`.
        history: A row per epoch, scores of the posterior-mean network: `epoch`, `seconds`, `accuracy`,
            `negative_log_likelihood`, `expected_calibration_error`, ..., `sparsity`, `num_removed`.
        score_names: The scores that the likelihood has, in the order of tables.
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
    intervals: DataFrame
    reductions: DataFrame
    history: DataFrame
    bench: Bench | None
    score_names: tuple[str, ...] = SCORES_OF["categorical"]

    @property
    def device(self) -> str:
        """Kind of device it ran on; times compare only within one kind."""
        return str(self.config.get("device", "cpu")).partition(":")[0]

    @property
    def chance(self) -> float:
        """Accuracy of a guess; nan where the number of classes is not known."""
        classes = self.config.get("num_classes") if "accuracy" in self.score_names else None
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
    run = read_run(directory)
    metrics = run.metrics
    layers = _table(metrics.layers, records.Layer)
    _check_tensors(run.directory.model, layers)
    bins = metrics.reliability or records.ReliabilityBins()
    levels = metrics.intervals or records.IntervalLevels((), (), 0)
    intervals = DataFrame({"level": levels.level, "coverage": levels.coverage}, dtype=float)
    several = metrics.num_samples > 1 and metrics.mean_network is not None
    return Record(
        directory=run.directory.path,
        config=printable(run.config_values),
        averaged=run.scores(),
        mean_network=run.scores(of_mean_network=True) if several else None,
        evaluated_on=printable(metrics.evaluated_on),
        sparsity=metrics.sparsity,
        num_weights=metrics.num_weights,
        num_kept=metrics.num_kept,
        num_samples=metrics.num_samples,
        seconds=metrics.seconds,
        seconds_per_iteration=metrics.seconds_per_iteration,
        layers=layers.assign(kept=layers["num_kept"] / layers["num_weights"].clip(lower=1)),
        reliability=DataFrame(asdict(bins), dtype=float),
        intervals=intervals.assign(count=float(levels.num_targets)),
        reductions=_table(metrics.reductions, records.Reduction),
        history=_table(run.epochs, records.Epoch).astype(float),
        bench=None if run.bench is None else _bench(run.bench),
        score_names=SCORES_OF[run.likelihood],
    )


def _table(rows: Iterable[Any], kind: Any) -> DataFrame:
    """Return values of one dataclass as a table with a column for each field."""
    return DataFrame([printable(asdict(row)) for row in rows], columns=[each.name for each in fields(kind)])


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


def _bench(bench: records.Bench) -> Bench:
    variants = _table(bench.variants, records.BenchVariant).drop(columns="timings")
    timings = [
        {"variant": variant.name, **asdict(timing)}
        for variant in bench.variants
        for timing in variant.timings
    ]
    kernels = [{"batch": choice.batch, **asdict(row)} for choice in bench.kernels for row in choice.layers]
    times, choices = ([each.name for each in fields(kind)] for kind in (records.Timing, records.Kernel))
    dense = bench.machine.dense_run
    return Bench(
        variants=variants.rename(columns={"name": "variant"}).set_index("variant"),
        timings=DataFrame(printable(timings), columns=["variant", *times]),
        kernels=DataFrame(printable(kernels), columns=["batch", *choices]),
        remarks=printable(bench.remarks),
        machine=printable(bench.machine.machine),
        num_threads=bench.machine.num_threads,
        torch=printable(bench.machine.torch),
        dense_run=None if dense is None else printable(dense),
        entropy_bound=bench.entropy_bound,
    )
