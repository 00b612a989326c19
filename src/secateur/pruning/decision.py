"""What a reduction decided: what stays, on what evidence, layer by layer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.posterior import Posterior

__all__ = ["LayerRow", "Report", "decided"]


@dataclass(frozen=True)
class LayerRow:
    """What a reduction did to one layer.

    Attributes:
        name: Qualified name of the module.
        shape: Shape of its weight.
        num_weights: Entries, bias included.
        num_kept: Entries that stay after this reduction.
        num_removed: Entries this reduction removed.
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


@dataclass(frozen=True)
class Report:
    """What a reduction decided.

    Attributes:
        masks: True where an entry stays, for every parameter of the posterior.
        delta_f: Evidence for removing each entry, in nats; nan where it was not asked or is already out.
        layers: One row per layer, in the network's order.
    """

    masks: dict[str, Tensor]
    delta_f: dict[str, Tensor]
    layers: tuple[LayerRow, ...]

    @property
    def num_weights(self) -> int:
        """Entries of the posterior."""
        return sum(row.num_weights for row in self.layers)

    @property
    def num_kept(self) -> int:
        """Entries that stay."""
        return sum(row.num_kept for row in self.layers)

    @property
    def num_removed(self) -> int:
        """Entries this reduction removed, besides those already out."""
        return sum(row.num_removed for row in self.layers)

    @property
    def sparsity(self) -> float:
        """Fraction of the posterior's entries that are out, output layer included."""
        return 1 - self.num_kept / self.num_weights

    @property
    def predicted_delta_f(self) -> float:
        """Sum of delta_f over what this reduction removed: optimistic, since weights are not independent."""
        return math.fsum(row.predicted_delta_f for row in self.layers)


def decided(
    posterior: Posterior,
    evidence: Mapping[str, Mapping[str, Tensor]],
    masks: dict[str, Tensor],
    thresholds: Mapping[str, float],
) -> Report:
    """Return the report of a decision.

    Args:
        posterior: What was decided on; its `keep` says what was already out.
        evidence: delta_f of each parameter that was asked, by layer, in nats.
        masks: True where an entry stays, for every parameter of the posterior.
        thresholds: delta_f above which an entry of a layer goes, where there is such a number.
    """
    asked = {name: each for layer in evidence.values() for name, each in layer.items()}
    present = {name: posterior.present(name) for name in posterior.mean}
    delta_fs = {
        name: torch.where(present[name], asked[name], math.nan)
        if name in asked
        else torch.full_like(mean, math.nan)
        for name, mean in posterior.mean.items()
    }
    layers: dict[str, list[str]] = {}
    for name in posterior.mean:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    rows = []
    for layer, names in layers.items():
        leaving = {name: present[name] & ~masks[name] for name in names}
        rows.append(
            LayerRow(
                name=layer,
                shape=tuple(max((posterior.mean[name] for name in names), key=Tensor.dim).shape),
                num_weights=sum(masks[name].numel() for name in names),
                num_kept=sum(int(masks[name].sum()) for name in names),
                num_removed=sum(int(gone.sum()) for gone in leaving.values()),
                predicted_delta_f=math.fsum(
                    float(delta_fs[name][gone].sum(dtype=torch.float64)) for name, gone in leaving.items()
                ),
                threshold=thresholds.get(layer, math.nan),
            )
        )
    return Report(masks, delta_fs, tuple(rows))
