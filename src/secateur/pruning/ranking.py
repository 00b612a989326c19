"""Rank entries or groups of a whole network by evidence, and cut the ranking per layer or at a target.

Sign:  delta_f > 0 favours removal, in nats.
Layer: the parameters of one module together, bias included, as in arXiv:2309.12095 (the bias is one more
       column of the weight matrix). A spike-and-slab prior per layer learns how sparse that layer is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.modules import by_layer, matching
from secateur.posterior import Block, Diagonal, Posterior
from secateur.pruning.criteria import CRITERIA, evidence_or_nan, scores
from secateur.pruning.result import PruneResult, summarise
from secateur.reduction import select_largest, spike_and_slab_log_odds

__all__ = ["GRANULARITIES", "candidates", "reduce"]

GRANULARITIES = ("weight", "neuron", "channel")


def candidates(
    posterior: Posterior, *, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the layers that may be reduced: module name to its parameters' names.

    Without `include`, those are the modules with a weight of two or more dimensions. Scales and shifts of
    normalisation layers stay, since a zero scale removes a whole channel by the back door.

    Args:
        posterior: Posterior to be reduced.
        include: Name patterns (`fnmatch`) of parameters that may go.
        exclude: Name patterns of parameters that stay.

    Raises:
        InvalidArgumentError: If a pattern matches nothing, or nothing is left to reduce.
    """
    chosen = set(matching(posterior.mean, include, exclude))
    kept = {}
    for layer, names in by_layer(posterior.mean).items():
        if include is None and max(posterior.mean[name].dim() for name in names) < 2:
            continue
        left = tuple(name for name in names if name in chosen)
        if left:
            kept[layer] = left
    if not kept:
        raise InvalidArgumentError(
            f"include, exclude: expected at least one parameter to reduce, got include={include}, "
            f"exclude={exclude} for parameters {', '.join(posterior.mean)}"
        )
    return kept


def reduce(
    posterior: Posterior,
    *,
    sparsity: float | None = None,
    max_fraction: float = 1.0,
    max_sparsity: float = 1.0,
    granularity: str = "weight",
    criterion: str = "evidence",
    count_removed: bool = True,
    num_iterations: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> PruneResult:
    """Decide which entries a network can do without; nothing is changed.

    Without `sparsity` the evidence stops the removal: per layer, an entry (or group) goes where its
    delta_f exceeds the spike-and-slab threshold. With `sparsity` the same ranking is cut there instead.

    Args:
        posterior: Posterior of the weights; its `keep` says what is already out.
        sparsity: Exact fraction of all the posterior's entries to be out afterwards, to the entry (to the
            largest number of whole units not above it, where units go).
        max_fraction: Largest fraction of the entries still in to remove now, best evidence first; only
            without `sparsity`.
        max_sparsity: Sparsity at which evidence-led removal ends; only without `sparsity`.
        granularity: "weight", or "neuron" / "channel" for whole output units with their bias, whose
            delta_f is that of the unit as one.
        criterion: One of `criteria.CRITERIA`; all but the evidence need a `sparsity`.
        count_removed: Whether entries already out count against those still in when a layer's threshold is
            learned. If not, they enter as undecided, with evidence 0.
        num_iterations: Steps of the spike-and-slab iteration; None iterates until it has settled.
        include: Name patterns of parameters that may go; weights and biases of all layers when None.
        exclude: Name patterns of parameters that stay.

    Raises:
        InvalidArgumentError: If an argument is out of range, the target cannot be met, the posterior is a
            point estimate, or a layer's parameters have no rows in common.
    """
    _check(sparsity, max_fraction, max_sparsity, granularity, criterion)
    layers = candidates(posterior, include=include, exclude=exclude)
    blocks = {layer: posterior.blocks[layer] for layer in layers}
    found = {layer: scores(block, criterion) for layer, block in blocks.items()}
    by_unit = granularity != "weight"
    units = {
        layer: (_rows if by_unit else _entries)(blocks[layer], names, found[layer], criterion)
        for layer, names in layers.items()
    }
    total = sum(mean.numel() for mean in posterior.mean.values())
    out = sum(mask.numel() - int(mask.count_nonzero()) for mask in posterior.keep.values())
    if sparsity is None:
        thresholds = {layer: each.threshold(count_removed, num_iterations) for layer, each in units.items()}
        removed = {layer: each.above(thresholds[layer]) for layer, each in units.items()}
        limit = min(math.floor(max_fraction * (total - out)), max(0, round(max_sparsity * total) - out))
    else:
        thresholds = dict.fromkeys(units, math.nan)
        removed = {layer: each.above(-math.inf) for layer, each in units.items()}
        limit = round(sparsity * total) - out
        available = sum(each.num_entries(removed[layer]) for layer, each in units.items())
        if not 0 <= limit <= available:
            raise InvalidArgumentError(
                f"sparsity: expected between {out / total:.4f} (already out) and "
                f"{(out + available) / total:.4f} (everything that may go), got {sparsity}"
            )
    _cut(units, removed, limit)
    masks = {name: posterior.present(name).clone() for name in posterior.mean}
    for layer, names in layers.items():
        for index, name in enumerate(names):
            mask, gone = masks[name], removed[layer][0 if by_unit else index]
            shape = (-1, *[1] * (mask.dim() - 1)) if by_unit and mask.dim() else mask.shape
            masks[name] = mask & ~gone.view(shape)
    if criterion != "evidence":
        found = {layer: evidence_or_nan(block) for layer, block in blocks.items()}
    asked = {name: found[layer][name] for layer, names in layers.items() for name in names}
    return summarise(posterior.keep, asked, masks, thresholds)


def _check(
    sparsity: float | None, max_fraction: float, max_sparsity: float, granularity: str, criterion: str
) -> None:
    if granularity not in GRANULARITIES:
        raise InvalidArgumentError(
            f"granularity: expected one of {', '.join(GRANULARITIES)}, got {granularity!r}"
        )
    if criterion not in CRITERIA or (criterion != "evidence" and sparsity is None):
        raise InvalidArgumentError(
            f"criterion: expected evidence, or with a sparsity one of {', '.join(CRITERIA)}, got "
            f"{criterion!r} with sparsity={sparsity}"
        )
    for name, value in {
        "sparsity": sparsity,
        "max_fraction": max_fraction,
        "max_sparsity": max_sparsity,
    }.items():
        if value is not None and not 0 <= value <= 1:
            raise InvalidArgumentError(f"{name}: expected a fraction between 0 and 1, got {value}")
    if sparsity is not None and (max_fraction < 1 or max_sparsity < 1):
        raise InvalidArgumentError(
            f"sparsity: expected no cap beside a target, got max_fraction={max_fraction}, "
            f"max_sparsity={max_sparsity}"
        )


@dataclass(frozen=True)
class _Units:
    """Parts of one layer that may go as one: single entries, or rows of all of its parameters together.

    Attributes:
        scores: Score of each unit, in one vector a parameter, or one for all where units are rows.
        sizes: Entries still in; None where each unit is one entry that is in.
    """

    scores: list[Tensor]
    sizes: list[Tensor | None]

    def above(self, threshold: float) -> list[Tensor]:
        """Return which units that are in have a score above the threshold."""
        return [
            score > threshold if size is None else (score > threshold) & (size > 0)
            for score, size in zip(self.scores, self.sizes, strict=True)
        ]

    def num_entries(self, removed: list[Tensor]) -> int:
        """Return how many entries that are in some units have together."""
        return sum(
            int(gone.count_nonzero() if size is None else size[gone].sum())
            for gone, size in zip(removed, self.sizes, strict=True)
        )

    def threshold(self, count_removed: bool, num_iterations: int | None) -> float:
        """Return the log odds of staying under a spike-and-slab prior of the layer; nan if all is out."""
        present = [
            score if size is None else score[size > 0]
            for score, size in zip(self.scores, self.sizes, strict=True)
        ]
        removed = sum(map(len, self.scores)) - sum(map(len, present))
        if not any(map(len, present)):
            return math.nan
        if not count_removed:
            present = [
                score if size is None else torch.where(size > 0, score, 0.0)
                for score, size in zip(self.scores, self.sizes, strict=True)
            ]
        evidence = present[0] if len(present) == 1 else torch.cat(present)
        num_removed = removed if count_removed else 0
        return float(
            spike_and_slab_log_odds(evidence, num_removed=num_removed, num_iterations=num_iterations)
        )


def _entries(block: Block, names: Sequence[str], found: dict[str, Tensor], criterion: str) -> _Units:
    """Return a layer's single entries."""
    keep = [block.keep.get(name) for name in names]
    return _Units(
        [found[name].reshape(-1) for name in names],
        [None if mask is None else mask.reshape(-1) for mask in keep],
    )


def _rows(block: Block, names: Sequence[str], found: dict[str, Tensor], criterion: str) -> _Units:
    """Return a layer's output units, each a row of all of its parameters.

    Raises:
        InvalidArgumentError: If the parameters differ in their number of rows.
    """
    counts = {name: block.mean[name].shape[0] if block.mean[name].dim() else 1 for name in names}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InvalidArgumentError(
            f"granularity: expected a layer's parameters to have the same rows, got: {listed}; exclude "
            "one, or use 'weight'"
        )
    score, size = [], []
    for name, count in counts.items():
        present = block.present(name).reshape(count, -1)
        size.append(present.sum(1))
        score.append(torch.where(present, found[name].reshape(count, -1), 0.0).sum(1))
    total = torch.stack(score).sum(0)
    if criterion == "evidence" and not isinstance(block, Diagonal):
        of_rows = block.delta_f(_row_labels(block, names))  # entries of a row depend on each other
        assert isinstance(of_rows, Tensor)
        total = of_rows
    return _Units([total], [torch.stack(size).sum(0)])


def _row_labels(block: Block, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the row that each entry belongs to, -1 in parameters that stay."""
    labels = {}
    for name, mean in block.mean.items():
        labels[name] = torch.full(mean.shape, -1, device=mean.device)
        if name in names:
            rows = torch.arange(mean.shape[0], device=mean.device)
            labels[name] += 1 + rows.view(-1, *[1] * (mean.dim() - 1))
    return labels


def _cut(units: dict[str, _Units], removed: dict[str, list[Tensor]], limit: int) -> None:
    """Leave only the best of the removed units, in place: at most `limit` entries together."""
    if sum(each.num_entries(removed[layer]) for layer, each in units.items()) <= limit:
        return
    parts = [
        (score, size, gone)
        for layer, each in units.items()
        for score, size, gone in zip(each.scores, each.sizes, removed[layer], strict=True)
    ]
    if all(size is None or size.dtype == torch.bool for _, size, _ in parts):
        best = select_largest([score for score, *_ in parts], limit, among=[gone for *_, gone in parts])
        for (*_, gone), part in zip(parts, best, strict=True):
            gone.copy_(part)
    else:
        wanted = [score[gone] for score, _, gone in parts]
        sizes = torch.cat([size[gone] for _, size, gone in parts if size is not None])
        order = torch.argsort(torch.cat(wanted), descending=True, stable=True)
        fits = torch.zeros_like(sizes, dtype=torch.bool)
        fits[order[sizes[order].cumsum(0) <= limit]] = True
        for (*_, gone), part in zip(parts, fits.split([len(each) for each in wanted]), strict=True):
            gone[gone.clone()] = part
