"""What the JSON files of a run say: one frozen dataclass for each object in them, checked field by field.

A number that could not be computed is null in a file and nan here. Fields of a file that no dataclass names
are kept as they are and never trusted. `secateur.runs.reading` reads the files.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

__all__ = [
    "SCORES_OF",
    "Bench",
    "BenchVariant",
    "Config",
    "Count",
    "Epoch",
    "Inputs",
    "IntervalLevels",
    "Kernel",
    "KernelChoice",
    "Layer",
    "Machine",
    "Metrics",
    "Number",
    "Origin",
    "Reduction",
    "ReliabilityBins",
    "Scores",
    "Timing",
]

LARGEST = 1e30  # no number of a run reaches it, and no figure can show it


def _bounded(value: float) -> float:
    if abs(value) >= LARGEST:  # never true of nan
        raise ValueError(f"a number below {LARGEST:g}, got {value:g}")
    return value


Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    AfterValidator(_bounded),
]
Count = Annotated[int, Field(ge=0, le=2**53)]
Side = Annotated[int, Field(ge=1, le=2**16)]  # of an image; or the features of a row
InputShape = Annotated[tuple[Side, ...], Field(min_length=1, max_length=3)]


@dataclass(frozen=True)
class Inputs:
    """How inputs were standardised: mean and standard deviation of each feature or channel."""

    mean: tuple[Number, ...]
    std: tuple[Number, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where own data were read from (`secateur.data.OwnData`), or the function that returned them."""

    path: str | None = None
    function: str | None = None
    target: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    test: str | None = None
    test_fraction: Number = 0.2
    likelihood: str | None = None
    image_size: Side | None = None
    sha256: str | None = None


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
    image_shape: InputShape | None = None
    num_classes: Count | None = None
    recipe: dict[str, Any] | None = None
    command: str | None = None
    augment: bool = False
    autocast: bool = False
    likelihood: dict[str, Any] | None = None
    inputs: Inputs | None = None
    source: Origin | None = None
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """Scores of one kind of prediction; those of other likelihoods are nan. Log scores in nats per datum."""

    accuracy: Number = math.nan
    negative_log_likelihood: Number = math.nan
    expected_calibration_error: Number = math.nan
    brier_score: Number = math.nan
    log_predictive_density: Number = math.nan
    root_mean_squared_error: Number = math.nan
    continuous_ranked_probability_score: Number = math.nan
    coverage_50: Number = math.nan
    coverage_90: Number = math.nan
    deviance: Number = math.nan


_OF_CLASSES = (
    "accuracy",
    "negative_log_likelihood",
    "expected_calibration_error",
    "brier_score",
    "log_predictive_density",
)
SCORES_OF = MappingProxyType({
    "categorical": _OF_CLASSES,
    "bernoulli": _OF_CLASSES,
    "gaussian": (
        "root_mean_squared_error",
        "negative_log_likelihood",
        "continuous_ranked_probability_score",
        "coverage_50",
        "coverage_90",
        "log_predictive_density",
    ),
    "poisson": ("deviance", "negative_log_likelihood", "root_mean_squared_error", "log_predictive_density"),
})
"""Names of the scores of each likelihood, in the order of tables."""


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

    def __post_init__(self) -> None:
        if self.num_kept > self.num_weights:
            raise ValueError("a layer that keeps at most its weights, got one that keeps more")


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
class IntervalLevels:
    """Probability of central intervals, and the share of targets inside."""

    level: tuple[Number, ...]
    coverage: tuple[Number, ...]
    num_targets: Count

    def __post_init__(self) -> None:
        if len(self.level) != len(self.coverage):
            raise ValueError("lists of one length, got different ones")


@dataclass(frozen=True)
class Epoch:
    """One line of `history.jsonl`; the scores are those of the posterior-mean network."""

    epoch: Count
    seconds: Number = math.nan
    accuracy: Number = math.nan
    negative_log_likelihood: Number = math.nan
    expected_calibration_error: Number = math.nan
    root_mean_squared_error: Number = math.nan
    continuous_ranked_probability_score: Number = math.nan
    deviance: Number = math.nan
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
    intervals: IntervalLevels | None = None
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
