"""Read the runs of a comparison from their directories and group them by network and data set.

A comparison directory holds one run directory per cell of its grid below `runs`. What a run is, its own
`config.json` says; the name of its directory is for people. A run that is unfinished or damaged is kept as
`Missing`, with the reason, and never stops the others.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.data import registered_name
from secateur.errors import ArtifactError
from secateur.reports.method_style import MethodStyle, in_order, method_style
from secateur.reports.record import Record, read
from secateur.runs.reading import read_run

__all__ = [
    "RUNS",
    "ComparisonRun",
    "Group",
    "MethodRuns",
    "Missing",
    "RunTable",
    "collect",
    "is_comparison",
    "mean_and_error",
]

RUNS = "runs"
"""The folder in a comparison directory that holds the runs."""


@dataclass(frozen=True)
class ComparisonRun:
    """One finished run.

    Attributes:
        record: Its files, read.
        network: Name of the network.
        data: Name of the data set.
        method: Name of the method.
        seed: Its seed.
        epochs: How long it was to train.
        sparsity_asked: The exact sparsity that was asked for; None where the method decided.
        temperature: Predictive temperature; nan where the run has none.
        elapsed: Seconds since its start at the end of each of `record.epochs`.
    """

    record: Record
    network: str
    data: str
    method: str
    seed: int
    epochs: int
    sparsity_asked: float | None
    temperature: float
    elapsed: tuple[float, ...]

    @property
    def device(self) -> str:
        """Kind of device it ran on; times are comparable only within one kind."""
        return str(self.record.config.get("device", "cpu")).partition(":")[0]


@dataclass(frozen=True)
class Missing:
    """A directory below `runs` that has no readable finished run, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class MethodRuns:
    """Runs of one method that differ in their seed alone.

    Attributes:
        label: The method, and what sets this variant apart where there are several of it.
        style: How it is drawn.
        runs: By seed; at least one.
    """

    label: str
    style: MethodStyle
    runs: tuple[ComparisonRun, ...]

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.runs[0].method


@dataclass(frozen=True)
class Group:
    """All runs of one network on one data set."""

    network: str
    data: str
    variants: tuple[MethodRuns, ...]

    @property
    def name(self) -> str:
        """Name of its files and anchors."""
        kept = [c if c.isalnum() or c in "-." else "-" for c in f"{self.network}-{self.data}"]
        return "".join(kept).strip("-.") or "group"

    @property
    def runs(self) -> tuple[ComparisonRun, ...]:
        """All its runs, in the order of its variants."""
        return tuple(run for variant in self.variants for run in variant.runs)


@dataclass(frozen=True)
class RunTable:
    """All runs below a comparison directory, by group, and those that cannot be read."""

    directory: Path
    groups: tuple[Group, ...]
    missing: tuple[Missing, ...]


def is_comparison(directory: Path) -> bool:
    """Return whether a directory is that of a comparison rather than that of a run."""
    return (directory / RUNS).is_dir() and not (directory / "config.json").exists()


def collect(out: Path) -> RunTable:
    """Read all runs of a comparison.

    Args:
        out: Its directory.

    Raises:
        ArtifactError: If it holds no finished run.
    """
    folder = Path(out) / RUNS
    if not folder.is_dir():
        raise ArtifactError(
            f"expected the directory of a comparison, got {out}, which has no folder {RUNS!r}"
        )
    runs, missing = [], []
    for directory in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        try:
            runs.append(_run(directory))
        except ArtifactError as error:
            missing.append(Missing(directory.name, _without_folder(str(error), folder)))
    if not runs:
        first = f"; {missing[0].name}: {missing[0].reason}" if missing else ""
        raise ArtifactError(
            f"expected at least one finished run in {folder}, got {len(missing)} that are not{first}"
        )
    methods = {run.method for run in runs}
    cells = sorted({(run.network, run.data) for run in runs}, key=lambda cell: (_rank(*cell), cell))
    groups = tuple(
        Group(network, data, _variants([r for r in runs if (r.network, r.data) == (network, data)], methods))
        for network, data in cells
    )
    return RunTable(Path(out), groups, tuple(missing))


def _without_folder(reason: str, folder: Path) -> str:
    return reason.replace(f"{folder}/", "")


_NETWORKS = ("mlp", "lenet", "lenet-relu", "vit-small", "vit", "mlp-mixer-small", "mlp-mixer", "resnet20")
_DATA = ("digits", "fashion-mnist", "cifar10", "cifar100")


def _rank(network: str, data: str) -> tuple[int, int]:
    """Return the place among the groups: data set by data set, small networks first."""
    base = registered_name(data)
    return (
        _DATA.index(base) if base in _DATA else len(_DATA),
        _NETWORKS.index(network) if network in _NETWORKS else len(_NETWORKS),
    )


def _run(directory: Path) -> ComparisonRun:
    record, run = read(directory), read_run(directory)
    config = run.config
    return ComparisonRun(
        record=record,
        network=config.network,
        data=config.data,
        method=config.method,
        seed=config.seed,
        epochs=len(run.epochs) if config.epochs is None else config.epochs,
        sparsity_asked=config.sparsity,
        temperature=config.predictive_temperature,
        elapsed=tuple(epoch.seconds for epoch in run.epochs),
    )


def _variants(runs: list[ComparisonRun], methods: Iterable[str]) -> tuple[MethodRuns, ...]:
    """Group runs by method, number of epochs and requested sparsity."""
    variants = []
    for method in in_order(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        settings = sorted(
            {(run.epochs, run.sparsity_asked) for run in own},
            key=lambda s: (s[0], -1 if s[1] is None else s[1]),
        )
        for epochs, asked in settings:
            label = method
            if len({s[1] for s in settings}) > 1 and asked is not None:
                label += f" to {100 * asked:g} %"
            if len({s[0] for s in settings}) > 1:
                label += f", {epochs} epochs"
            chosen = [run for run in own if (run.epochs, run.sparsity_asked) == (epochs, asked)]
            chosen.sort(key=lambda run: (run.seed, run.record.directory.name))
            variants.append(MethodRuns(label, method_style(method, methods), tuple(chosen)))
    return tuple(variants)


def mean_and_error(values: Iterable[float]) -> tuple[float, float, int]:
    """Return mean, standard error of the mean and number of the values that are finite.

    The standard error is s / sqrt(n) with s over n - 1; nan for fewer than two values.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    if not len(finite):
        return math.nan, math.nan, 0
    error = float(finite.std(ddof=1) / math.sqrt(len(finite))) if len(finite) > 1 else math.nan
    return float(finite.mean()), error, len(finite)
