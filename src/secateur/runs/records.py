"""What the JSON files of a run say: one frozen dataclass for each object in them, checked field by field.

A number that could not be computed is null in a file and nan here. Fields of a file that no dataclass names
are kept as they are and never trusted.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from secateur.errors import ArtifactError
from secateur.runs.directory import RunDirectory
from secateur.runs.files import read_bytes

__all__ = [
    "Bench",
    "BenchVariant",
    "Config",
    "Count",
    "Epoch",
    "Kernel",
    "Layer",
    "Metrics",
    "Number",
    "Reduction",
    "ReliabilityBins",
    "RunRecord",
    "Scores",
    "Timing",
    "decode",
    "read_object",
    "read_run",
]

T = TypeVar("T")
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=1, le=4096)]  # of an image
_EXPECTED = {
    "float_type": "a number",
    "int_type": "a count",
    "int_from_float": "a count",
    "greater_than_equal": "a count",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a JSON object",
    "too_short": "at least one entry",
    "dataclass_type": "a JSON object",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What was asked for: the content of `config.json`."""

    network: str
    data: str
    method: str
    seed: Count = 0
    epochs: Count | None = None
    device: str = "cpu"
    sparsity: float | None = None
    predictive_temperature: Number = math.nan
    image_shape: tuple[Side, Side, Side] | None = None
    num_classes: Count | None = None
    recipe: dict[str, Any] | None = None
    command: str | None = None
    augment: bool = False
    autocast: bool = False


@dataclass(frozen=True)
class Scores:
    """Scores of one kind of prediction of classes; log scores in nats, means over examples."""

    accuracy: Number
    negative_log_likelihood: Number
    expected_calibration_error: Number
    brier_score: Number
    log_predictive_density: Number


@dataclass(frozen=True)
class Layer:
    """Sparsity and evidence of one parameter tensor.

    Attributes:
        delta_f: Summed evidence for what was removed, in nats; positive favours the removal.
        prunable: False for what the method never removes, such as the output layer.
    """

    name: str
    shape: tuple[Count, ...]
    num_weights: Count
    num_kept: Count
    delta_f: Number
    prunable: bool

    @property
    def kept(self) -> float:
        """Share of the weights that stayed, from 0 to 1."""
        return self.num_kept / max(self.num_weights, 1)


@dataclass(frozen=True)
class Reduction:
    """Predicted and observed delta_f of one removal, in nats."""

    epoch: Count
    num_removed: Count
    predicted_delta_f: Number
    observed_delta_f: Number


@dataclass(frozen=True)
class ReliabilityBins:
    """Mean confidence, accuracy and number of examples of each bin."""

    confidence: tuple[Number, ...] = ()
    accuracy: tuple[Number, ...] = ()
    count: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.confidence) == len(self.accuracy) == len(self.count):
            raise ValueError("lists of one length, got different ones")


@dataclass(frozen=True)
class Epoch:
    """One line of `history.jsonl`; the scores are those of the posterior-mean network."""

    epoch: Count
    seconds: Number = math.nan
    accuracy: Number = math.nan
    negative_log_likelihood: Number = math.nan
    expected_calibration_error: Number = math.nan
    sparsity: Number = math.nan
    num_removed: Count = 0


@dataclass(frozen=True)
class Metrics:
    """What came of a run: the content of `metrics.json` but for the scores, which the likelihood decides."""

    evaluated_on: str
    sparsity: Number
    num_weights: Count
    num_kept: Count
    num_samples: Count
    seconds: Number
    seconds_per_iteration: Number
    layers: tuple[Layer, ...]
    reductions: tuple[Reduction, ...]
    reliability: ReliabilityBins | None = None
    mean_network: dict[str, Any] | None = None


@dataclass(frozen=True)
class Timing:
    """Time of one call at one batch size: median and quartiles, in seconds."""

    batch: Count
    median: Number
    lower: Number
    upper: Number


@dataclass(frozen=True)
class BenchVariant:
    """Sizes and latencies of one form of the network; nan where a number is unknown."""

    name: Annotated[str, Field(validation_alias="variant")]
    file_bytes: Number
    num_parameters: Number
    num_macs: Number
    peak_memory: Number
    largest_difference: Number
    timings: Annotated[tuple[Timing, ...], Field(validation_alias="latencies")]
    accuracy: Number = math.nan


@dataclass(frozen=True)
class Kernel:
    """The kernel chosen for one layer; times in seconds."""

    layer: str
    sparsity: Number
    dense_seconds: Number
    sparse_seconds: Number
    kernel: str


@dataclass(frozen=True)
class KernelChoice:
    """The kernels chosen at one batch size."""

    batch: Count
    layers: tuple[Kernel, ...]


@dataclass(frozen=True)
class Machine:
    """Where and with what was measured; `dense_run` names the run that stands for the dense network."""

    machine: str
    num_threads: Count
    torch: str
    dense_run: str | None = None


@dataclass(frozen=True)
class Bench:
    """Measurements of all forms of one network, the dense one first: the content of `bench.json`."""

    variants: Annotated[tuple[BenchVariant, ...], Field(validation_alias="rows", min_length=1)]
    machine: Machine
    entropy_bound: Number
    remarks: tuple[str, ...]
    kernels: tuple[KernelChoice, ...] = ()

    def __post_init__(self) -> None:
        if len({tuple(timing.batch for timing in variant.timings) for variant in self.variants}) > 1:
            raise ValueError("the same batch sizes in every row, got different ones")

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes, in the order of each variant's timings."""
        return tuple(timing.batch for timing in self.variants[0].timings)

    def is_other_network(self, variant: BenchVariant) -> bool:
        """Return whether a form belongs to the separate dense run, which has other weights."""
        return self.machine.dense_run is not None and variant.name.startswith("dense")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything that the JSON files of a finished run say, checked.

    Attributes:
        directory: Where they are.
        config: What was asked for.
        metrics: What came of it.
        epochs: The history.
        bench: The network's forms measured side by side; None where nobody asked for it.
        config_values: All of `config.json`, as it is there.
        metrics_values: All of `metrics.json`.
        history: All of `history.jsonl`.
    """

    directory: RunDirectory
    config: Config
    metrics: Metrics
    epochs: tuple[Epoch, ...]
    bench: Bench | None
    config_values: dict[str, Any]
    metrics_values: dict[str, Any]
    history: list[dict[str, Any]]

    def scores(self, *, of_mean_network: bool = False) -> Scores:
        """Return the scores of the averaged prediction, or of the posterior-mean network.

        Raises:
            ArtifactError: If the run has none, as that of a likelihood without classes.
        """
        values = self.metrics.mean_network if of_mean_network else self.metrics_values
        where = " in mean_network" if of_mean_network else ""
        return decode(self.directory.metrics, json.dumps(values).encode(), Scores, where)[0]


def read_run(directory: Path, *, verified: bool = False) -> RunRecord:
    """Read the JSON files of a finished run.

    Args:
        directory: What `--out` of a fit names.
        verified: Whether every file of the run, those of tensors included, must be as the run wrote it.

    Raises:
        ArtifactError: If the directory or one of its files is missing or damaged; the message names it.
    """
    files = RunDirectory(Path(directory))
    if not files.path.is_dir():
        raise ArtifactError(f"expected the directory of a run, got {directory}, which is not a directory")
    config, config_values = read_object(files.config, Config)
    metrics, metrics_values = read_object(files.metrics, Metrics)
    lines = read_bytes(files.history).splitlines()
    rows = [decode(files.history, line, Epoch, f" in line {n}") for n, line in enumerate(lines, 1)]
    if verified:
        files.verify(metrics_values)
    return RunRecord(
        directory=files,
        config=config,
        metrics=metrics,
        epochs=tuple(epoch for epoch, _ in rows),
        bench=read_object(files.bench, Bench)[0] if files.bench.exists() else None,
        config_values=config_values,
        metrics_values=metrics_values,
        history=[row for _, row in rows],
    )


def read_object(path: Path, kind: type[T]) -> tuple[T, dict[str, Any]]:
    """Read the object in a JSON file, as a dataclass and as it is there.

    Args:
        path: File to read.
        kind: The dataclass.

    Raises:
        ArtifactError: If the file is missing, or a field is missing or of another type; it is named.
    """
    return decode(path, read_bytes(path), kind)


def decode(path: Path, content: bytes, kind: type[T], where: str = "") -> tuple[T, dict[str, Any]]:
    """Return the object in a JSON text, as a dataclass and as it is there.

    Args:
        path: The file it is from, for the error.
        content: The text.
        kind: The dataclass.
        where: Its place in the file, for the error: `" in line 3"`.

    Raises:
        ArtifactError: If a field is missing or of another type; the message names it.
    """
    try:
        value = _adapter(kind).validate_json(content, strict=True)
        return value, json.loads(content)
    except ValidationError as error:
        said = _said(error.errors(include_url=False)[0], where)
    except (ValueError, RecursionError) as error:  # what one parser takes and the other does not
        said = f"expected JSON, got an error{where} ({error})"
    raise ArtifactError(
        f"{path} is damaged: {said}; fit again, or take the file from an intact copy of the run"
    )


@cache
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)


def _said(error: Any, where: str) -> str:
    """Return what the schema's library says of the first thing that is wrong, in our words."""
    kind, got = error["type"], error["input"]
    if kind in {"json_invalid", "string_unicode"}:
        return f"expected JSON, got an error{where} ({error['msg'].removeprefix('Invalid JSON: ')})"
    names: list[str] = []
    for part in error["loc"]:
        if isinstance(part, int) and names:
            names[-1] += f"[{part}]"
        else:
            names.append(str(part))
    name = names.pop() if names else ""
    place = "".join(f" in {outer}" for outer in reversed(names)) + where
    if kind == "missing":
        return f"expected the field {name!r}{place}, got none"
    if kind == "dataclass_type":
        return f"expected a JSON object{f' in {name}' if name else ''}{place}, got {type(got).__name__}"
    named = f" in {name!r}{place}" if name else place
    if kind == "value_error":
        return f"expected {error['ctx']['error']}{named}"
    expected = _EXPECTED.get(kind, error["msg"].removeprefix("Input should be "))
    return f"expected {expected}{named}, got {got!r:.60}"
