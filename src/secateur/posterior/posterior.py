"""The one value that every way of inference ends in: a Gaussian over named weights, in blocks by layer.

Blocks are independent of each other. Pruning asks blocks and nothing else, so any new inference method works
with all pruning, and the reverse.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.modules import by_layer
from secateur.posterior import files
from secateur.posterior.block import Block
from secateur.posterior.diagonal import Diagonal

__all__ = ["Posterior"]


@dataclass(frozen=True, init=False)
class Posterior:
    """A Gaussian posterior of a network's weights, with the prior it was fitted under.

    Made from tensors, entries are independent: every layer becomes a `Diagonal` block of the same tensors.
    `Posterior.of` makes one from blocks of any structure.

    Attributes:
        mean: Posterior mean of each parameter, keyed by its qualified name. Draws follow this order.
        prior_precision: Inverse variance of the zero-mean prior, a scalar or broadcastable to the mean.
        keep: False where an entry has already been removed; a missing name means that all of it stays.
        blocks: The posterior of each layer, by the layer's name.

    Raises:
        InvalidArgumentError: If names or shapes do not agree, a tensor is not of real floating-point numbers,
            a mean is nan, or a precision is not positive. A precision of `inf` is a point estimate.

    Example:
        >>> import torch
        >>> mean = {"fc.weight": torch.ones(1, 2), "fc.bias": torch.zeros(1)}
        >>> precision = {name: torch.full_like(each, 9.0) for name, each in mean.items()}
        >>> posterior = Posterior(mean, precision, dict.fromkeys(mean, torch.tensor(1.0)))
        >>> posterior.blocks["fc"].delta_f()["fc.bias"]
        tensor([1.0986])
    """

    mean: dict[str, Tensor]
    prior_precision: dict[str, Tensor]
    keep: dict[str, Tensor]
    blocks: dict[str, Block] = field(repr=False)

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        precision: Mapping[str, Tensor],
        prior_precision: Mapping[str, Tensor],
        keep: Mapping[str, Tensor] | None = None,
    ) -> None:
        keep = {} if keep is None else keep
        for kind, given in (("precision", precision), ("prior_precision", prior_precision)):
            if given.keys() != mean.keys():
                differing = sorted(given.keys() ^ mean.keys())[0]
                raise InvalidArgumentError(
                    f"{kind}: expected the names of mean, got a difference at {differing!r}"
                )
        if unknown := keep.keys() - mean.keys():
            raise InvalidArgumentError(f"keep: expected names of mean, got {sorted(unknown)[0]!r}")
        blocks: dict[str, Block] = {}
        for layer, names in by_layer(mean).items():
            blocks[layer] = Diagonal(
                layer,
                {name: mean[name] for name in names},
                {name: precision[name] for name in names},
                {name: prior_precision[name] for name in names},
                {name: keep[name] for name in names if name in keep},
            )
        self._set(blocks, list(mean))

    @classmethod
    def of(cls, blocks: Iterable[Block]) -> "Posterior":
        """Return the posterior that consists of blocks.

        Args:
            blocks: One for each layer, in the order of the parameters.

        Raises:
            InvalidArgumentError: If two blocks are of one layer, or hold the same parameter.
        """
        return cls._assembled(blocks)

    @classmethod
    def _assembled(cls, blocks: Iterable[Block], names: Iterable[str] | None = None) -> "Posterior":
        found: dict[str, Block] = {}
        owner: dict[str, str] = {}
        for block in blocks:
            if block.layer in found:
                raise InvalidArgumentError(f"blocks: expected one for each layer, got two of {block.layer!r}")
            for name in block.mean:
                if name in owner:
                    raise InvalidArgumentError(
                        f"blocks: expected names of their own, got {name!r} in the layers "
                        f"{owner[name]!r} and {block.layer!r}"
                    )
                owner[name] = block.layer
            found[block.layer] = block
        posterior = cls.__new__(cls)
        posterior._set(found, list(owner if names is None else names))
        return posterior

    def _set(self, blocks: dict[str, Block], names: list[str]) -> None:
        """Fill the fields. They are views of the blocks, in the order of the names."""
        owner = {name: block for block in blocks.values() for name in block.mean}
        object.__setattr__(self, "blocks", blocks)
        for kind in ("mean", "prior_precision", "keep"):
            own = {name: getattr(owner[name], kind) for name in names}
            object.__setattr__(self, kind, {name: own[name][name] for name in names if name in own[name]})

    @property
    def is_diagonal(self) -> bool:
        """Whether all entries are independent."""
        return all(isinstance(block, Diagonal) for block in self.blocks.values())

    @property
    def is_point(self) -> bool:
        """Whether it is a point estimate: some entries have no spread."""
        return any(
            bool(torch.isinf(each).any())
            for block in self.blocks.values()
            if isinstance(block, Diagonal)
            for each in block.precision.values()
        )

    @property
    def precision(self) -> dict[str, Tensor]:
        """Marginal posterior inverse variances, of the mean's shapes; `inf` for a point estimate.

        Of independent entries those that were given. Of joint blocks `1 / variance`, which is computed each
        time; `inf` where an entry is out.
        """
        own = {layer: block.precision for layer, block in self.blocks.items()}
        found = {name: each for precision in own.values() for name, each in precision.items()}
        return {name: found[name] for name in self.mean}

    @property
    def std(self) -> dict[str, Tensor]:
        """Posterior standard deviations, of the mean's shapes; 0 for a point estimate."""
        return {name: precision.rsqrt() for name, precision in self.precision.items()}

    def present(self, name: str) -> Tensor:
        """Return where the entries of a parameter have not been removed, as booleans of the mean's shape."""
        keep = self.keep.get(name)
        return torch.ones_like(self.mean[name], dtype=torch.bool) if keep is None else keep

    def given(self, keep: Mapping[str, Tensor]) -> "Posterior":
        """Return the posterior conditioned on a removal; under joint blocks the kept means move.

        Args:
            keep: True where an entry stays, by parameter name; a parameter that is missing stays as it is.
                What is out already stays out.

        Raises:
            InvalidArgumentError: If a name or a shape is not the posterior's, or a mask is not boolean.
        """
        if unknown := keep.keys() - self.mean.keys():
            raise InvalidArgumentError(f"keep: expected names of mean, got {sorted(unknown)[0]!r}")
        blocks = []
        for block in self.blocks.values():
            own = {name: keep[name] for name in block.mean if name in keep}
            blocks.append(block.given(own) if own else block)
        return self._assembled(blocks, self.mean)

    def sample(self, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw one set of weights; removed entries are exactly zero.

        Args:
            generator: Source of randomness on the tensors' device; torch's global one when missing.

        Returns:
            Weights keyed by name, of the mean's shapes.
        """
        owner = {name: block for block in self.blocks.values() for name in block.mean}
        drawn: dict[str, Tensor] = {}
        for name in self.mean:
            if name not in drawn:
                drawn |= owner[name].draws(name, generator)
        return {name: drawn[name] for name in self.mean}

    def point(self) -> dict[str, Tensor]:
        """Return the posterior-mean weights, removed entries exactly zero."""
        return {
            name: mean * self.keep[name] if name in self.keep else mean for name, mean in self.mean.items()
        }

    def at_temperature(self, temperature: float) -> "Posterior":
        """Return the posterior with likelihood and prior both raised to `1 / temperature`.

        Args:
            temperature: Positive; below 1 the posterior is narrower ("colder"). The mean does not move.

        Raises:
            InvalidArgumentError: If `temperature` is not positive.
        """
        if not temperature > 0:
            raise InvalidArgumentError(f"temperature: expected a positive number, got {temperature}")
        return self._assembled(
            (block.at_temperature(temperature) for block in self.blocks.values()), self.mean
        )

    def to(self, device: torch.device | str) -> "Posterior":
        """Return the posterior with every tensor on `device`."""
        return self._assembled((block.to(device) for block in self.blocks.values()), self.mean)

    def kl_divergence(self) -> Tensor:
        """Return KL(q || p) of the entries that are still in, summed, in nats."""
        terms = {name: term for block in self.blocks.values() for name, term in block.kl_terms().items()}
        ordered = (terms[name] for name in self.mean if name in terms)
        return sum(ordered, torch.zeros((), dtype=torch.float64))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the posterior to one safetensors file, whole or not at all.

        Args:
            path: File to write; replaced only once the new one is complete.

        Raises:
            ArtifactError: If it cannot be written; the old file is then untouched.
        """
        files.save(self.blocks, list(self.mean), Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Posterior":
        """Read a posterior that `save` wrote, of this version or an earlier one.

        Args:
            path: A safetensors file.

        Raises:
            ArtifactError: If the file is missing, damaged, or not a posterior.
        """
        return cls._assembled(*files.load(Path(path)))
