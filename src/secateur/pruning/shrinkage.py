"""Reducing a whole network's prior to a regularised horseshoe, layer by layer (the paper's BMR-RHS).

    w ~ N(0, s^2)   becomes   w ~ N(0, (s gamma)^2),   gamma = min(1, E[gamma^-2]^(-1/2))

where the scales' own posterior maximises E[delta_f(gamma)] - KL (`secateur.reduction.horseshoe`). In each
reduction the horseshoe is on the scale relative to the prior the weights have now, so an output unit that the
data leave idle shrinks by more than a decade each time and falls below the threshold, where it counts as
removed. The loop leaves the output layer out: it has one learned scale already.

Source: arXiv:2309.12095, the reduction with a regularised horseshoe prior.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.posterior import Posterior
from secateur.pruning.decision import Report, decided
from secateur.pruning.ranking import candidates
from secateur.reduction.horseshoe import HorseshoeReduction, horseshoe

__all__ = ["Shrinkage", "shrink"]

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
    def report(self) -> Report:
        """What stays."""
        return decided(self.before, self.evidence, dict(self.posterior.keep), {})

    @property
    def predicted_delta_f(self) -> float:
        """Sum of delta_f over all weights that were there to be asked, in nats."""
        return math.fsum(
            float(delta_f[self.before.present(name)].sum(dtype=torch.float64))
            for layer in self.evidence.values()
            for name, delta_f in layer.items()
        )

    def within(self, layers: Collection[str]) -> "Shrinkage":
        """Return the same for some of the layers; the others keep their prior.

        Args:
            layers: Keys of `evidence`.
        """
        evidence = {layer: names for layer, names in self.evidence.items() if layer in layers}
        asked = {name for names in evidence.values() for name in names}

        def mixed(kind: str) -> dict[str, Tensor]:
            old, new = getattr(self.before, kind), getattr(self.posterior, kind)
            return {name: new[name] if name in asked else old[name] for name in self.posterior.mean}

        keep = {
            name: self.posterior.keep[name] if name in asked else self.before.present(name)
            for name in self.posterior.mean
        }
        posterior = Posterior(mixed("mean"), mixed("precision"), mixed("prior_precision"), keep)
        return Shrinkage(self.before, posterior, evidence)


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
        posterior: Posterior of the weights; its `keep` says what is already out.
        hyperprior: "tiered" for one scale per output unit, "full" for one per weight.
        threshold: Prior std of a weight below which it counts as removed.
        max_steps: Steps of the scales' own inference per layer, after which to stop in any case.
        exclude: Name patterns of parameters that keep their prior.
        generator: Source of the draws; a fixed one where None is given.

    Raises:
        InvalidArgumentError: If nothing is left to reduce, or an argument is out of range.
    """
    kinds: dict[str, dict[str, Tensor]] = {
        "mean": dict(posterior.mean),
        "precision": dict(posterior.precision),
        "prior_precision": dict(posterior.prior_precision),
        "keep": {name: posterior.present(name) for name in posterior.mean},
    }
    evidence: dict[str, dict[str, Tensor]] = {}
    for layer, names in candidates(posterior, exclude=exclude).items():
        for group in _with_rows_in_common(posterior, names):
            done, prior = _reduced(posterior, group, hyperprior, max_steps, generator)
            columns = [posterior.mean[name][0].numel() for name in group]
            parts = {kind: getattr(done, kind).split(columns, 1) for kind in KINDS}
            for index, name in enumerate(group):
                shape, old = posterior.mean[name].shape, prior[name]
                scale, mean, precision, delta_f = (parts[kind][index].reshape(shape) for kind in KINDS)
                kinds["mean"][name] = mean / old.sqrt()
                kinds["precision"][name] = precision * old
                kinds["prior_precision"][name] = old / scale.square()
                kinds["keep"][name] = kinds["keep"][name] & (scale / old.sqrt() >= threshold)
                evidence.setdefault(layer, {})[name] = delta_f
    return Shrinkage(posterior, Posterior(**kinds), evidence)


def _with_rows_in_common(posterior: Posterior, names: Sequence[str]) -> list[list[str]]:
    """Return a layer's parameters in groups with the same number of rows: a bias goes with its weight."""
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(posterior.mean[name].shape[0], []).append(name)
    return list(groups.values())


def _reduced(
    posterior: Posterior, group: list[str], hyperprior: str, max_steps: int, generator: torch.Generator | None
) -> tuple[HorseshoeReduction, dict[str, Tensor]]:
    """Return the reduction of one matrix in units of its weights' prior std, and their prior precisions."""
    means, precisions, prior = [], [], {}
    for name in group:
        mean = posterior.mean[name]
        old = prior[name] = posterior.prior_precision[name].expand(mean.shape)
        present = posterior.present(name)
        # what is out must not speak for any scale: a weight whose posterior is its prior has no evidence
        relative = torch.where(present, posterior.precision[name] / old, 1.0)
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
