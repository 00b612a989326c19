"""Tables of a comparison: a row per run, means over seeds, the dense baseline beside every score, CSV.

A comparison directory holds one run directory per cell of its grid below `runs`. What a run is, its own
`config.json` says; the name of its directory is for people. A run that is unfinished or damaged is listed
with the reason, and never stops the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas
from pandas import DataFrame

from secateur import data as data_table
from secateur import networks
from secateur.errors import ArtifactError
from secateur.reports.columns import COSTS, NUMBER_COLUMNS, SCORE_COLUMNS, Column
from secateur.reports.out_of_distribution import Detection
from secateur.reports.record import SCORES, Record, read
from secateur.runs.formatting import printable
from secateur.training.methods import in_order

__all__ = ["DENSE", "RUNS", "Comparison", "Detections", "Group", "collect", "csv_text"]

RUNS = "runs"
"""The folder in a comparison directory that holds the runs."""

DENSE = "flat-map"
"""The method whose runs keep all weights: what time is relative to, and the first choice of a baseline."""

Detections = Mapping[str, Detection | str]
"""By run: how well out-of-distribution images are detected, or in words why that is not known."""


@dataclass(frozen=True, eq=False)
class Group:
    """All runs of one network on one data set.

    Attributes:
        runs: A row per run by the name of its directory, in the order of tables: what it is, all its metrics,
            and its `label`: the method, and what sets this variant apart where there are several of it.
        records: The runs by the same names.
        detections: Detection of out-of-distribution images, by the same names.
        methods: Of the whole comparison, so that colours are the same in all groups.
    """

    network: str
    data: str
    runs: DataFrame
    records: Mapping[str, Record]
    detections: Detections
    methods: tuple[str, ...]

    @property
    def title(self) -> str:
        """Network and data set as the literature writes them."""
        return f"{networks.title(self.network)} on {data_table.title(self.data)}"

    @property
    def name(self) -> str:
        """Name of its files and anchors."""
        kept = [c if c.isalnum() or c in "-." else "-" for c in f"{self.network}-{self.data}"]
        return "".join(kept).strip("-.")[:100] or "group"

    @cached_property
    def labels(self) -> dict[str, str]:
        """Method of each label, in the order of tables."""
        return dict(zip(self.runs["label"], self.runs["method"], strict=True))

    def of(self, label: str) -> list[Record]:
        """Return the runs of a label, by seed; at least one."""
        return [self.records[name] for name in self.runs.index[self.runs["label"] == label]]

    @property
    def of_classes(self) -> bool:
        """Whether its targets are classes rather than numbers or counts."""
        return any("accuracy" in record.score_names for record in self.records.values())

    @property
    def score_columns(self) -> tuple[Column, ...]:
        """Columns of scores that fit its targets; of numbers those that are known."""
        if self.of_classes:
            return SCORE_COLUMNS
        return tuple(each for each in NUMBER_COLUMNS if self.means[each.key]["mean"].notna().any())

    @cached_property
    def means(self) -> DataFrame:
        """Mean, standard error, count over seeds, by label; columns are (key, "mean" | "sem" | "count")."""
        keys = list(dict.fromkeys(column.key for column in (*SCORE_COLUMNS, *NUMBER_COLUMNS, *COSTS)))
        return self.runs.groupby("label", sort=False)[keys].agg(["mean", "sem", "count"])

    @cached_property
    def dense(self) -> str | None:
        """Label of the dense baseline: `DENSE` if it ran, else the most accurate that removed nothing."""
        whole = self.runs.groupby("label", sort=False)["sparsity"].max() == 0
        kept = self.runs[self.runs["label"].map(whole)]
        if kept.empty:
            return None
        first = kept[kept["method"] == DENSE]
        return str((kept if first.empty else first).sort_values("accuracy", ascending=False)["label"].iloc[0])


@dataclass(frozen=True, eq=False)
class Comparison:
    """All runs below a comparison directory, by group; and those that cannot be read, with the reason."""

    directory: Path
    groups: tuple[Group, ...]
    missing: Mapping[str, str]


def collect(out: Path, detect: Callable[[Record], Detection | str] | None = None) -> Comparison:
    """Read all runs of a comparison.

    Args:
        out: Its directory.
        detect: Called for each run to get its detection of out-of-distribution images; None for none.

    Raises:
        ArtifactError: If it holds no finished run.
    """
    folder = Path(out) / RUNS
    if not folder.is_dir():
        raise ArtifactError(
            f"expected the directory of a comparison, got {out}, which has no folder {RUNS!r}"
        )
    records, missing, rows = {}, {}, []
    for directory in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        try:
            record = read(directory)
            rows.append(_row(record))
            records[printable(directory.name)] = record
        except ArtifactError as error:
            missing[printable(directory.name)] = printable(str(error)).replace(f"{folder}/", "")
    if not records:
        first = next((f"; {name}: {reason}" for name, reason in missing.items()), "")
        raise ArtifactError(
            f"expected at least one finished run in {folder}, got {len(missing)} that are not{first}"
        )
    detections = {name: detect(record) for name, record in records.items()} if detect else {}
    runs = DataFrame(rows, index=list(records))
    found = [detections.get(name) for name in records]
    runs["out_of_distribution_auroc"] = [
        each.auroc if isinstance(each, Detection) else math.nan for each in found
    ]
    methods = tuple(in_order(runs["method"]))
    cells = sorted(
        set(zip(runs["network"], runs["data"], strict=True)),
        key=lambda cell: (
            _rank(data_table.names(), data_table.registered_name(cell[1])),
            _rank(networks.names(), cell[0]),
            cell,
        ),
    )
    groups = tuple(
        Group(network, data, _ordered(runs[(runs["network"] == network) & (runs["data"] == data)], methods),
              records, detections, methods) for network, data in cells
    )  # fmt: skip
    return Comparison(Path(out), groups, missing)


def _rank(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _number(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    return math.nan if value is None else float(value)


def _row(record: Record) -> dict[str, Any]:
    config = record.config
    single = record.averaged if record.mean_network is None else record.mean_network
    bench = record.bench
    batch = min(bench.batches, default=0) if bench else 0
    times = {name: bench.milliseconds(name, batch) for name in bench.variants.index} if bench else {}
    dense = [time for name, time in times.items() if name.startswith(("dense", "masked"))]
    pruned = [time for name, time in times.items() if not name.startswith(("dense", "masked"))]
    return {
        **{key: config[key] for key in ("network", "data", "method")},
        "seed": config.get("seed", 0),
        "epochs": config.get("epochs") or len(record.history),
        "sparsity": record.sparsity,
        **asdict(record.averaged),
        # A method of a single network is its own posterior-mean network.
        **{f"mean_network_{name}": getattr(single, name) for name in SCORES},
        "seconds": record.seconds,
        "seconds_per_iteration": record.seconds_per_iteration,
        "temperature": _number(config, "predictive_temperature"),
        "dense_bytes": record.dense_bytes,
        "least_bytes": record.least_bytes,
        "milliseconds_batch": batch or math.nan,
        "dense_milliseconds": min(dense, default=math.nan),
        "milliseconds": min(pruned, default=math.nan),
        "asked": _number(config, "sparsity"),
        "device": record.device,
    }


def _ordered(runs: DataFrame, methods: tuple[str, ...]) -> DataFrame:
    """Return the runs of a group in the order of tables, with labels, relative times and differences."""
    runs = runs.assign(place=runs["method"].map(methods.index)).sort_values(
        ["place", "epochs", "asked", "seed"], na_position="first", kind="stable"
    )
    several = runs.groupby("method")[["epochs", "asked"]].transform(lambda each: each.nunique(dropna=False))
    asked = runs["asked"].map(lambda share: f" to {100 * share:g} %").where(runs["asked"].notna(), "")
    epochs = runs["epochs"].map(lambda number: f", {number:g} epochs")
    runs["label"] = (
        runs["method"] + asked.where(several["asked"] > 1, "") + epochs.where(several["epochs"] > 1, "")
    )
    pace = runs[runs["method"] == DENSE].groupby("device")["seconds_per_iteration"].mean()
    runs["relative_seconds_per_iteration"] = runs["seconds_per_iteration"] / runs["device"].map(pace)
    dense = Group("", "", runs, {}, {}, ()).dense
    baseline = runs[runs["label"] == dense].drop_duplicates(["seed", "device"]).set_index(["seed", "device"])
    own = pandas.MultiIndex.from_frame(runs[["seed", "device"]])
    for name in SCORES[:3]:
        paired = runs[name] - baseline[name].reindex(own).to_numpy()
        runs[f"{name}_minus_dense"] = paired.where(runs["label"] != dense)
    return runs.drop(columns="place")


def csv_text(comparison: Comparison) -> str:
    """Format all metrics of all runs as CSV; `nan` for unknown ones, and no cell that is a formula.

    Args:
        comparison: The runs.
    """
    runs = pandas.concat([group.runs for group in comparison.groups])
    runs = runs.drop(columns=["label", "asked"]).assign(run=runs.index)
    runs = runs[[*runs.columns.drop(["device", "run"]), "device", "run"]]
    for key in ("network", "data", "method", "device", "run"):
        runs[key] = runs[key].map(_no_formula)
    return str(runs.to_csv(index=False, na_rep="nan", lineterminator="\n"))


def _no_formula(text: str) -> str:
    """Return text that a spreadsheet takes for text."""
    text = printable(text)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
