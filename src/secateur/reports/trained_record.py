"""Read and check `result.json` of a pruned network: the only input of its page."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from secateur.errors import ArtifactError
from secateur.export.trained_run import FORMAT, RESULT
from secateur.pruning.result import LayerRow, PruneRound
from secateur.runs.fields import Fields, parse, read_text

__all__ = ["Costs", "TrainedRecord", "is_pruned_network", "read"]


@dataclass(frozen=True)
class Costs:
    """Bytes, and seconds of a batch; nan where a number was not measured."""

    dense_bytes: float
    sparse_bytes: float
    compact_bytes: float
    batch: float
    seconds_before: float
    seconds_after: float
    seconds_compact: float
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class TrainedRecord:
    """All numbers of a pruned network; log scores in nats.

    Attributes:
        about: Further entries as they are in the file: command, model, data, options, versions.
        layers: One row a layer.
        trace: One row a round, those included that were taken back.
        chosen_round: Rounds that are in the network.
        scores_before: Held-out scores by name.
        scores_after: The same afterwards.
    """

    about: dict[str, Any]
    num_weights: int
    num_kept: int
    num_removed: int
    sparsity: float
    predicted_delta_f: float
    observed_delta_f: float
    loss_before: float
    loss_after: float
    held_out_before: float
    chosen_round: int
    stopped_by: str
    num_data: int
    seconds: float
    layers: tuple[LayerRow, ...]
    trace: tuple[PruneRound, ...]
    scores_before: dict[str, float]
    scores_after: dict[str, float]
    costs: Costs
    units_before: dict[str, int]
    units_after: dict[str, int]

    @property
    def start_sparsity(self) -> float:
        """Share of the weights that was out before the first round."""
        if not self.trace:
            return self.sparsity
        return max(self.trace[0].sparsity - self.trace[0].num_removed / max(self.num_weights, 1), 0.0)

    @property
    def max_loss_rise(self) -> float:
        """Rise of the held-out loss that the caller allowed, in nats per datum; nan where none was named."""
        options = self.about.get("options")
        value = options.get("max_loss_rise") if isinstance(options, dict) else None
        return float(value) if isinstance(value, int | float) else math.nan


def is_pruned_network(directory: Path) -> bool:
    """Return whether a directory is one that `secateur prune-trained` wrote.

    Args:
        directory: Any path.
    """
    return (directory / RESULT).is_file()


def read(directory: Path) -> TrainedRecord:
    """Return the numbers of a pruned network.

    Args:
        directory: What `--out` of `secateur prune-trained` named.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    path = Path(directory) / RESULT
    if not path.is_file():
        raise ArtifactError(
            f"expected {RESULT} in {directory}, got no such file; secateur prune-trained writes it"
        )
    file = parse(path, read_text(path))
    if file.take("format") != FORMAT:
        raise file.damaged(f"expected the format {FORMAT}, got {file.take('format')!r:.60}")
    chosen, trace = file.count("chosen_round"), tuple(_round(row) for row in file.rows("trace"))
    if chosen > len(trace):
        raise file.damaged(f"expected at most {len(trace)} rounds to be chosen, got {chosen}")
    scores = file.optional("scores")
    before, after = (None, None) if scores is None else (scores.optional("before"), scores.optional("after"))
    known = {each.name for each in fields(TrainedRecord)} | {"scores", "costs"}
    return TrainedRecord(
        about={key: value for key, value in file.values.items() if key not in known},
        num_weights=file.count("num_weights"),
        num_kept=file.count("num_kept"),
        num_removed=file.count("num_removed"),
        num_data=file.count("num_data"),
        sparsity=file.number("sparsity"),
        predicted_delta_f=file.number("predicted_delta_f"),
        observed_delta_f=file.number("observed_delta_f"),
        loss_before=file.number("loss_before"),
        loss_after=file.number("loss_after"),
        held_out_before=file.number("held_out_before"),
        seconds=file.number("seconds"),
        chosen_round=chosen,
        stopped_by=file.text("stopped_by"),
        layers=tuple(_layer(row) for row in file.rows("layers")),
        trace=trace,
        scores_before=_numbers(before),
        scores_after=_numbers(after),
        costs=_costs(file),
        units_before=_counts(file, "units_before"),
        units_after=_counts(file, "units_after"),
    )


def _layer(row: Fields) -> LayerRow:
    return LayerRow(
        name=row.text("name"),
        shape=row.counts("shape"),
        num_weights=row.count("num_weights"),
        num_kept=row.count("num_kept"),
        num_removed=row.count("num_removed"),
        predicted_delta_f=row.number("predicted_delta_f"),
        threshold=row.number("threshold"),
    )


def _round(row: Fields) -> PruneRound:
    return PruneRound(
        num_removed=row.count("num_removed"),
        num_units=row.count("num_units", 0),
        **{
            key: row.number(key)
            for key in (
                "sparsity", "predicted_delta_f", "loss", "observed_delta_f", "held_out_loss",
                "held_out_rise", "held_out_error",
            )
        },
    )  # fmt: skip


def _costs(file: Fields) -> Costs:
    row = file.optional("costs") or Fields(file.path, {})
    values = {
        each.name: row.number(each.name) if each.name in row.values else math.nan
        for each in fields(Costs)
        if each.name != "remarks"
    }
    remarks = row.items("remarks") if "remarks" in row.values else []
    return Costs(**values, remarks=tuple(map(str, remarks)))


def _numbers(row: Fields | None) -> dict[str, float]:
    return {} if row is None else {key: row.number(key) for key in row.values}


def _counts(file: Fields, key: str) -> dict[str, int]:
    row = file.optional(key)
    return {} if row is None else {name: row.count(name) for name in row.values}
