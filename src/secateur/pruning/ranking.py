"""Which weights go: evidence per weight or group, a threshold per layer, one ranking over the network.

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
from secateur.inference.arguments import chosen
from secateur.posterior import Posterior
from secateur.pruning.criteria import CRITERIA, NEEDS_PRECISION
from secateur.pruning.decision import Report, decided
from secateur.reduction import spike_and_slab

__all__ = ["GRANULARITIES", "candidates", "reduce"]

GRANULARITIES = ("weight", "neuron", "channel")


def candidates(
    posterior: Posterior, *, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the layers that may be reduced: module name to its parameters' names.

    Without `include`, those are the modules with a weight of two or more dimensions; scales and shifts of
    normalisation layers stay, since a zero scale removes a whole channel by the back door.

    Args:
        posterior: Posterior to be reduced.
        include: Name patterns (`fnmatch`) of parameters that may go.
        exclude: Name patterns of parameters that stay.

    Raises:
        InvalidArgumentError: If nothing is left to reduce.
    """
    layers: dict[str, list[str]] = {}
    for name in posterior.mean:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    kept = {}
    for layer, names in layers.items():
        if include is None and max(posterior.mean[name].dim() for name in names) < 2:
            continue
        left = tuple(name for name in names if chosen(name, include, exclude))
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
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> Report:
    """Decide what a network can do without; nothing is changed.

    Without `sparsity` the evidence stops the reduction: per layer, an entry (or group) goes where its
    delta_f exceeds the spike-and-slab threshold. With `sparsity` the same ranking is cut there instead.

    Args:
        posterior: Posterior of the weights; its `keep` says what is already out.
        sparsity: Exact fraction of all the posterior's entries to be out afterwards, to the entry (to the
            largest number of whole units not above it, where units go).
        max_fraction: Largest fraction of the entries still in to remove now, best evidence first; only
            without `sparsity`.
        max_sparsity: Sparsity at which evidence-led removal ends; only without `sparsity`.
        granularity: "weight", or "neuron" / "channel" for whole output units with their bias, whose
            delta_f is the sum over the unit.
        criterion: One of `criteria.CRITERIA`; all but the evidence need a `sparsity`.
        count_removed: Whether entries already out count against those still in when a layer's threshold is
            learned. If not, they enter as undecided, with evidence 0.
        include: Name patterns of parameters that may go; weights and biases of all layers when None.
        exclude: Name patterns of parameters that stay.

    Raises:
        InvalidArgumentError: If an argument is out of range, the target cannot be met, the posterior is a
            point estimate, or a layer's parameters have no rows in common.
    """
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
    layers = candidates(posterior, include=include, exclude=exclude)
    scores = _scores(posterior, layers, criterion)
    units = {name: _Units.of(layer, posterior, granularity) for name, layer in scores.items()}
    total = sum(mean.numel() for mean in posterior.mean.values())
    out = sum(int((~keep).sum()) for keep in posterior.keep.values())
    if sparsity is None:
        thresholds = {name: each.threshold(count_removed) for name, each in units.items()}
        wanted = {name: each.present & (each.evidence > thresholds[name]) for name, each in units.items()}
        limit = min(math.floor(max_fraction * (total - out)), max(0, round(max_sparsity * total) - out))
    else:
        thresholds = dict.fromkeys(units, math.nan)
        wanted = {name: each.present for name, each in units.items()}
        limit = round(sparsity * total) - out
        available = sum(int(each.size[each.present].sum()) for each in units.values())
        if not 0 <= limit <= available:
            raise InvalidArgumentError(
                f"sparsity: expected between {out / total:.4f} (already out) and "
                f"{(out + available) / total:.4f} (everything that may go), got {sparsity}"
            )
    leaving = _best(units, wanted, limit)
    evidence = scores if criterion == "evidence" else _evidence(posterior, layers)
    return decided(posterior, evidence, _masks(posterior, scores, leaving), thresholds)


def _scores(
    posterior: Posterior, layers: dict[str, tuple[str, ...]], criterion: str
) -> dict[str, dict[str, Tensor]]:
    """Return the criterion's score of each candidate parameter's entries, by layer."""
    scores: dict[str, dict[str, Tensor]] = {}
    for layer, names in layers.items():
        for name in names:
            precision = posterior.precision[name]
            if criterion in NEEDS_PRECISION and torch.isinf(precision).any():
                raise InvalidArgumentError(
                    f"posterior.precision[{name!r}]: expected finite values, got inf: a point estimate has "
                    "no evidence; use secateur.inference.laplace(model, loader) or a method with a posterior"
                )
            score = CRITERIA[criterion](posterior.mean[name], precision, posterior.prior_precision[name])
            scores.setdefault(layer, {})[name] = score
    return scores


def _evidence(posterior: Posterior, layers: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Tensor]]:
    """Return delta_f of each candidate parameter, by layer; nan throughout for a point estimate."""
    if any(torch.isinf(posterior.precision[name]).any() for names in layers.values() for name in names):
        return {
            layer: {name: torch.full_like(posterior.mean[name], math.nan) for name in names}
            for layer, names in layers.items()
        }
    return _scores(posterior, layers, "evidence")


@dataclass(frozen=True)
class _Units:
    """What may go as one: single entries, or the rows of all of a layer's parameters together."""

    evidence: Tensor  # (u), summed over the entries that are still in
    size: Tensor  # (u), entries still in

    @property
    def present(self) -> Tensor:
        return self.size > 0

    @classmethod
    def of(cls, layer: dict[str, Tensor], posterior: Posterior, granularity: str) -> "_Units":
        evidence, size = [], []
        rows = {name: each.shape[0] if each.dim() else 1 for name, each in layer.items()}
        if granularity != "weight" and len(set(rows.values())) > 1:
            found = ", ".join(f"{name} has {count}" for name, count in rows.items())
            raise InvalidArgumentError(
                f"granularity: expected a layer's parameters to have the same rows, got: {found}; exclude "
                "one, or use 'weight'"
            )
        for name, each in layer.items():
            keep = posterior.keep.get(name)
            present = torch.ones_like(each, dtype=torch.bool) if keep is None else keep
            shape = (rows[name], -1) if granularity != "weight" else (-1, 1)
            evidence.append(
                (each * present).reshape(shape).sum(1) if granularity != "weight" else each.flatten()
            )
            size.append(present.reshape(shape).sum(1))
        if granularity == "weight":
            return cls(torch.cat(evidence), torch.cat(size))
        return cls(torch.stack(evidence).sum(0), torch.stack(size).sum(0))

    def threshold(self, count_removed: bool) -> float:
        removed = int((~self.present).sum())
        if removed == len(self.size):
            return math.nan
        if not count_removed:
            return float(spike_and_slab(torch.where(self.present, self.evidence, 0.0)).log_odds)
        return float(spike_and_slab(self.evidence[self.present], num_removed=removed).log_odds)


def _best(units: dict[str, _Units], wanted: dict[str, Tensor], limit: int) -> dict[str, Tensor]:
    """Return the wanted units with the most evidence, of at most `limit` entries together."""
    sizes = torch.cat([units[name].size[flag] for name, flag in wanted.items()])
    if int(sizes.sum()) <= limit:
        return wanted
    evidence = torch.cat([units[name].evidence[flag] for name, flag in wanted.items()])
    order = torch.argsort(evidence, descending=True, stable=True)
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[order[sizes[order].cumsum(0) <= limit]] = True
    leaving = {}
    for name, part in zip(wanted, chosen.split([int(flag.sum()) for flag in wanted.values()]), strict=True):
        leaving[name] = wanted[name].clone()
        leaving[name][wanted[name]] = part
    return leaving


def _masks(
    posterior: Posterior, scores: dict[str, dict[str, Tensor]], leaving: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Spread the decision on units over the entries of every parameter."""
    masks = {}
    for name, mean in posterior.mean.items():
        keep = posterior.keep.get(name)
        masks[name] = torch.ones_like(mean, dtype=torch.bool) if keep is None else keep.clone()
    for layer, parameters in scores.items():
        per_entry = len(leaving[layer]) == sum(each.numel() for each in parameters.values())
        start = 0
        for name, each in parameters.items():
            if per_entry:
                gone = leaving[layer][start : start + each.numel()].view(each.shape)
                start += each.numel()
            else:
                gone = leaving[layer].view(-1, *[1] * (each.dim() - 1)).expand(each.shape)
            masks[name] &= ~gone
    return masks
