"""The result of a pruning: what went, on what evidence, and what was observed of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from secateur.modules import by_layer

__all__ = ["LayerRow", "PruneResult", "PruneRound", "sum_where", "summarise"]

MAX_LINES = 20  # of a result that is printed
ENTRY_COLUMNS = ("layer", "shape", "kept", "out", "predicted nats")


@dataclass(frozen=True)
class LayerRow:
    """One layer of a pruned network.

    Attributes:
        name: Qualified name of the module.
        shape: Shape of its weight.
        num_weights: Entries, bias included.
        num_kept: Entries that stay.
        num_removed: Entries that this pruning removed.
        predicted_delta_f: Sum of delta_f over them, in nats.
        threshold: delta_f above which a weight (or group) of this layer is removed; nan if never.
    """

    name: str
    shape: tuple[int, ...]
    num_weights: int
    num_kept: int
    num_removed: int
    predicted_delta_f: float
    threshold: float

    @property
    def sparsity(self) -> float:
        """Fraction of the layer's entries that are out."""
        return 1 - self.num_kept / self.num_weights


@dataclass(frozen=True, kw_only=True)
class PruneRound:
    """One removal of several entries.

    Attributes:
        sparsity: Fraction of all entries that are out afterwards.
        num_removed: Entries that this round removed.
        num_units: Whole units among them; 0 where single weights went.
        predicted_delta_f: Evidence for the removal, in nats.
        loss: Measured loss afterwards, in nats per datum; nan where none was measured.
        observed_delta_f: Change of the evidence with the measured loss in it, in nats.
        held_out_loss: Measured loss on data that moved no weight, in nats per datum.
        held_out_rise: By how much it is above the loss before any removal.
        held_out_error: Standard error of that rise, paired by datum.
    """

    sparsity: float
    num_removed: int
    predicted_delta_f: float
    loss: float = math.nan
    num_units: int = 0
    observed_delta_f: float = math.nan
    held_out_loss: float = math.nan
    held_out_rise: float = math.nan
    held_out_error: float = math.nan


@dataclass(frozen=True)
class PruneResult:
    """What a pruning removed, with predicted beside observed evidence; printing it gives a short table.

    Attributes:
        masks: True where an entry stays, for every parameter that was looked at.
        delta_f: Evidence for removing each entry, in nats; nan where it was not asked or is already out.
        layers: One row per layer, in the network's order.
        observed_delta_f: Measured change of the evidence, in nats; nan where nothing was measured.
        loss_before: Measured loss before, in nats per datum; nan where none was measured.
        trace: One row per round of removal.
        held_out_before: Measured loss on held-out data before, in nats per datum.
        chosen_round: Number of rounds of the trace that are in the network; None is all of them.
        stopped_by: What ended the removal where rounds were tried: "target", "evidence", "held-out loss",
            "rounds" or "interruption".
        num_data: Data that the evidence counts; 0 where a posterior counted them.
        units_before: Units in use before, by the layer that makes them, where whole units went.
        units_after: The same afterwards.
    """

    masks: dict[str, Tensor]
    delta_f: dict[str, Tensor]
    layers: tuple[LayerRow, ...]
    observed_delta_f: float = math.nan
    loss_before: float = math.nan
    trace: tuple[PruneRound, ...] = ()
    held_out_before: float = math.nan
    chosen_round: int | None = None
    stopped_by: str = ""
    num_data: int = 0
    units_before: dict[str, int] = field(default_factory=dict)
    units_after: dict[str, int] = field(default_factory=dict)

    @property
    def num_weights(self) -> int:
        """Entries of all parameters that were looked at."""
        return sum(row.num_weights for row in self.layers)

    @property
    def num_kept(self) -> int:
        """Entries that stay."""
        return sum(row.num_kept for row in self.layers)

    @property
    def num_removed(self) -> int:
        """Entries that this pruning removed, besides those already out."""
        return sum(row.num_removed for row in self.layers)

    @property
    def sparsity(self) -> float:
        """Fraction of all entries that are out, output layer included."""
        return 1 - self.num_kept / self.num_weights

    @property
    def predicted_delta_f(self) -> float:
        """Summed evidence of all rounds, in nats.

        It is optimistic under a diagonal posterior, since weights are not independent.
        """
        return math.fsum(row.predicted_delta_f for row in self.rounds)

    @property
    def rounds(self) -> tuple[PruneRound, ...]:
        """The rounds that are in the network: the trace without those that were tried and taken back."""
        return self.trace[: self.chosen_round]

    @property
    def num_units_removed(self) -> int:
        """Whole units that went, those included that nothing read any more."""
        return sum(self.units_before.values()) - sum(self.units_after.values())

    def measured(self, before: float, after: float) -> "PruneResult":
        """Return the result of a single round with the losses that were measured, in nats per datum."""
        (only,) = self.trace
        return replace(self, loss_before=before, trace=(replace(only, loss=after),))

    @property
    def loss_after(self) -> float:
        """Measured loss after the last round, in nats per datum; nan where none was measured."""
        return self.rounds[-1].loss if self.rounds else self.loss_before

    def __str__(self) -> str:
        """Return a table of at most 20 lines: one row per layer, the totals, predicted against observed."""
        rows = [
            (
                row.name or "(network)",
                "x".join(map(str, row.shape)),
                f"{row.num_kept:,} of {row.num_weights:,}",
                f"{row.sparsity:.1%}",
                f"{row.predicted_delta_f:+,.1f}" if row.num_removed else "",
            )
            for row in self.layers
        ]
        room = MAX_LINES - 6  # header, the line about layers left out, total, evidence, loss, stop
        if len(rows) > room:
            first, last = rows[: room // 2], rows[room // 2 - room :]
            rows = [*first, (f"... {len(self.layers) - room} more layers", "", "", "", ""), *last]
        total = (
            "all layers",
            "",
            f"{self.num_kept:,} of {self.num_weights:,}",
            f"{self.sparsity:.1%}",
            f"{self.predicted_delta_f:+,.1f}",
        )
        table = [ENTRY_COLUMNS, *rows, total]
        widths = [max(len(row[column]) for row in table) for column in range(len(ENTRY_COLUMNS))]
        lines = [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        observed = "not measured" if math.isnan(self.observed_delta_f) else f"{self.observed_delta_f:+,.1f}"
        lines.append(
            f"Change of log evidence in nats: predicted {self.predicted_delta_f:+,.1f}, observed {observed}."
        )
        if not math.isnan(self.loss_after):
            lines.append(
                f"Loss in nats per datum: {self.loss_before:.4f} before, {self.loss_after:.4f} after."
            )
        if self.stopped_by:
            lines.append(self._stop())
        return "\n".join(lines)

    def _stop(self) -> str:
        """Return one line on held-out data and what ended the removal."""
        tried = f"{len(self.rounds)} of {len(self.trace)} rounds kept, {self.num_data:,} data"
        if not self.rounds:
            return f"Stopped by {self.stopped_by} before any removal: {tried}."
        last = self.rounds[-1]
        return (
            f"Held-out loss: {self.held_out_before:.4f} before, {last.held_out_loss:.4f} after (rise "
            f"{last.held_out_rise:+.4f}, s.e. {last.held_out_error:.4f}). "
            f"Stopped by {self.stopped_by}: {tried}."
        )


def sum_where(values: Tensor, chosen: Tensor) -> float:
    """Return the sum of chosen values, in float64.

    It goes a stretch at a time: to gather all at once takes 16 bytes a value.

    Args:
        values: Numbers of any shape.
        chosen: True where they count, of the same shape.
    """
    if not chosen.any():
        return 0.0
    pairs = zip(values.reshape(-1).split(1 << 19), chosen.reshape(-1).split(1 << 19), strict=True)
    return math.fsum(float(part[place].sum(dtype=torch.float64)) for part, place in pairs)


def summarise(
    keep: Mapping[str, Tensor],
    evidence: Mapping[str, Tensor],
    masks: dict[str, Tensor],
    thresholds: Mapping[str, float] | None = None,
) -> PruneResult:
    """Return a decision with its layer rows and one round.

    Args:
        keep: False where an entry was out before; all of a parameter that is not named was in.
        evidence: delta_f by parameter, in nats, nan for entries that are out; for those that were asked.
        masks: True where an entry stays, for every parameter.
        thresholds: delta_f above which an entry of a layer goes, where there is such a number.
    """
    delta_fs = {
        # one number seen as many: entries that were not asked need no memory
        name: evidence[name] if name in evidence else torch.tensor(math.nan).expand(mask.shape)
        for name, mask in masks.items()
    }
    rows = []
    for layer, names in by_layer(masks).items():
        removed = {name: keep[name] & ~masks[name] if name in keep else ~masks[name] for name in names}
        rows.append(
            LayerRow(
                name=layer,
                shape=tuple(max((masks[name] for name in names), key=Tensor.dim).shape),
                num_weights=sum(masks[name].numel() for name in names),
                num_kept=sum(int(masks[name].count_nonzero()) for name in names),
                num_removed=sum(int(gone.count_nonzero()) for gone in removed.values()),
                predicted_delta_f=math.fsum(
                    sum_where(delta_fs[name].to(gone.device), gone) for name, gone in removed.items()
                ),
                threshold=(thresholds or {}).get(layer, math.nan),
            )
        )
    num_weights, num_kept = (sum(getattr(row, key) for row in rows) for key in ("num_weights", "num_kept"))
    only = PruneRound(
        sparsity=1 - num_kept / num_weights,
        num_removed=sum(row.num_removed for row in rows),
        predicted_delta_f=math.fsum(row.predicted_delta_f for row in rows),
    )
    return PruneResult(masks, delta_fs, tuple(rows), trace=(only,))
