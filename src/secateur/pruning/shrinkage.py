"""Reducing a whole network's prior to a regularised horseshoe, layer by layer (the paper's BMR-RHS).

    w ~ N(0, s^2)   becomes   w ~ N(0, (s gamma)^2),   gamma = min(1, E[gamma^-2]^(-1/2))

where the scales' own posterior maximises E[delta_f(gamma)] - KL (`secateur.reduction.horseshoe`). In each
reduction the horseshoe is on the scale relative to the prior the weights have now, so an output unit that the
data leave idle shrinks by more than a decade each time and falls below the threshold, where it counts as
removed. The loop leaves the output layer out: it has one learned scale already.

Source: arXiv:2309.12095, the reduction with a regularised horseshoe prior.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.inference import FlatFF
from secateur.posterior import Diagonal, Posterior
from secateur.pruning.ranking import candidates
from secateur.pruning.result import PruneResult, summarise
from secateur.reduction.horseshoe import HorseshoeReduction, horseshoe

__all__ = ["Shrinkage", "narrow_priors", "require_adaptive", "shrink"]

KINDS = ("scale", "mean", "precision", "delta_f")  # of a reduced matrix, by attribute


@dataclass(frozen=True)
class Shrinkage:
    """A prior that was narrowed.

    Attributes:
        before: The weights under their old prior.
        posterior: The same under the new one; what is out has `keep` False.
        evidence: delta_f of the new prior for each weight, by layer and parameter, in nats.
    """

    before: Posterior
    posterior: Posterior
    evidence: dict[str, dict[str, Tensor]]

    @property
    def result(self) -> PruneResult:
        """What stays; its predicted evidence is that of all weights that were there to be asked."""
        asked = {
            name: torch.where(self.before.present(name), each, math.nan)
            for layer in self.evidence.values()
            for name, each in layer.items()
        }
        masks = {name: self.posterior.present(name) for name in self.posterior.mean}
        result = summarise(self.before.keep, asked, masks)
        total = math.fsum(float(each.nansum(dtype=torch.float64)) for each in asked.values())
        return replace(result, trace=(replace(result.trace[0], predicted_delta_f=total),))

    def within(self, layers: Collection[str]) -> "Shrinkage":
        """Return the same for some of the layers; the others keep their prior.

        Args:
            layers: Keys of `evidence`.
        """
        evidence = {layer: names for layer, names in self.evidence.items() if layer in layers}
        old, new = self.before.blocks, self.posterior.blocks
        mixed = [new[layer] if layer in layers else old[layer] for layer in old]
        return Shrinkage(self.before, Posterior.of(mixed), evidence)


def shrink(
    posterior: Posterior,
    *,
    hyperprior: str = "tiered",
    threshold: float = 1e-6,
    max_steps: int = 2000,
    exclude: Sequence[str] | None = None,
    generator: torch.Generator | None = None,
) -> Shrinkage:
    """Reduce the prior of every layer to a regularised horseshoe; nothing is changed.

    Args:
        posterior: Posterior of independent weights; its `keep` says what is already out.
        hyperprior: "tiered" for one scale per output unit, "full" for one per weight.
        threshold: Prior std of a weight below which it counts as removed.
        max_steps: Steps of the scales' own inference per layer, after which to stop in any case.
        exclude: Name patterns of parameters that keep their prior.
        generator: Source of the draws; a fixed one where None is given.

    Raises:
        InvalidArgumentError: If nothing is left to reduce, an argument is out of range, or the posterior is
            structured.
    """
    blocks = dict(posterior.blocks)
    evidence: dict[str, dict[str, Tensor]] = {}
    for layer, names in candidates(posterior, exclude=exclude).items():
        block = blocks[layer]
        if not isinstance(block, Diagonal):
            raise InvalidArgumentError(
                f"posterior of {layer!r}: expected independent weights (Diagonal), got {type(block).__name__}"
            )
        for group in _with_rows_in_common(block, names):
            block, found = _shrunk(block, group, hyperprior, threshold, max_steps, generator)
            evidence.setdefault(layer, {}).update(found)
        blocks[layer] = block
    return Shrinkage(posterior, Posterior.of(list(blocks.values())), evidence)


def narrow_priors(
    optimizer: FlatFF,
    before: Posterior,
    loss_with: Callable[[dict[str, Tensor]], float],
    *,
    hyperprior: str,
    ceiling: float,
    exclude: Sequence[str] | None,
) -> tuple[Shrinkage, float]:
    """Narrow an optimizer's priors to a regularised horseshoe, as far as the loss allows.

    A layer's scale can take the whole layer out at once. Where all layers together would raise the loss too
    far, they are taken one after the other, each only if the loss allows it.

    Args:
        optimizer: Adaptive; its generator is drawn from.
        before: Its posterior.
        loss_with: Returns the loss under masks, in nats per datum; nan where it is not observed.
        hyperprior: "tiered" or "full".
        ceiling: Largest loss to accept; nan accepts all.
        exclude: Name patterns of parameters that keep their prior.

    Returns:
        What was narrowed, and the loss afterwards.
    """

    def loss_after_adopting(shrinkage: Shrinkage) -> float:
        optimizer.adopt(shrinkage.posterior)
        return loss_with(shrinkage.result.masks)

    done = shrink(before, hyperprior=hyperprior, exclude=exclude, generator=optimizer.generator)
    loss_after = loss_after_adopting(done)
    if not math.isnan(ceiling) and not loss_after <= ceiling:
        accepted: list[str] = []
        for layer in done.evidence:
            if loss_after_adopting(done.within([*accepted, layer])) <= ceiling:
                accepted.append(layer)
        done = done.within(accepted)
        loss_after = loss_after_adopting(done)
    return done, loss_after


def require_adaptive(optimizer: object) -> FlatFF:
    """Return an optimizer as one whose priors a reduction can narrow.

    Args:
        optimizer: Any.

    Raises:
        InvalidArgumentError: If it is none.
    """
    if isinstance(optimizer, FlatFF) and optimizer.adaptive:
        return optimizer
    raise InvalidArgumentError(
        f"hyperprior: expected FlatFF with adaptive=True, whose priors can be narrowed, got "
        f"{type(optimizer).__name__} without; set the recipe's hyperprior to None to remove weights instead"
    )


def _with_rows_in_common(block: Diagonal, names: Sequence[str]) -> list[list[str]]:
    """Return a layer's parameters in groups with the same number of rows: a bias goes with its weight."""
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(block.mean[name].shape[0], []).append(name)
    return list(groups.values())


def _shrunk(
    block: Diagonal,
    group: list[str],
    hyperprior: str,
    threshold: float,
    max_steps: int,
    generator: torch.Generator | None,
) -> tuple[Diagonal, dict[str, Tensor]]:
    """Return a block with the prior of one matrix reduced, and the evidence by parameter."""
    done, prior = _reduced(block, group, hyperprior, max_steps, generator)
    columns = [block.mean[name][0].numel() for name in group]
    parts = {kind: getattr(done, kind).split(columns, 1) for kind in KINDS}
    mean, precision = dict(block.mean), dict(block.precision)
    prior_precision, keep, evidence = dict(block.prior_precision), dict(block.keep), {}
    for index, name in enumerate(group):
        shape, old = block.mean[name].shape, prior[name]
        scale, new_mean, new_precision, delta_f = (parts[kind][index].reshape(shape) for kind in KINDS)
        mean[name] = new_mean / old.sqrt()
        precision[name] = new_precision * old
        prior_precision[name] = old / scale.square()
        keep[name] = block.present(name) & (scale / old.sqrt() >= threshold)
        evidence[name] = delta_f
    done_block = replace(block, mean=mean, precision=precision, prior_precision=prior_precision, keep=keep)
    return done_block, evidence


def _reduced(
    block: Diagonal, group: list[str], hyperprior: str, max_steps: int, generator: torch.Generator | None
) -> tuple[HorseshoeReduction, dict[str, Tensor]]:
    """Return the reduction of one matrix in units of its weights' prior std, and their prior precisions."""
    means, precisions, prior = [], [], {}
    for name in group:
        mean = block.mean[name]
        old = prior[name] = block.prior_precision[name].expand(mean.shape)
        present = block.present(name)
        # what is out must not speak for any scale: a weight whose posterior is its prior has no evidence
        relative = torch.where(present, block.precision[name] / old, 1.0)
        means.append((torch.where(present, mean, 0.0) * old.sqrt()).reshape(len(mean), -1))
        precisions.append(relative.reshape(len(mean), -1))
    done = horseshoe(
        torch.cat(means, 1),
        torch.cat(precisions, 1),
        prior_precision=1.0,
        hyperprior="full" if hyperprior == "full" else "tiered",
        threshold=1e-30,  # the threshold is on the prior std, and this one relative to the last
        widest=1.0,
        max_steps=max_steps,
        window=50,
        generator=generator,
    )
    return done, prior
