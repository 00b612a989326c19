"""The posterior of one layer: a value with a structure, which answers the same questions in every structure.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours removal.
Prior:  every entry has a zero-mean Gaussian prior of its own, also where the posterior is joint.
Out:    an entry that is out (False in `keep`) is pinned at zero. What a block says of the others holds given
        that: their means, their variances, their evidence.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction import Partition

__all__ = ["Block", "Groups", "still_in"]

Groups = Partition | Tensor | Mapping[str, Tensor]
"""Entries to be judged together: a `Partition` of the layer's matrix (`modules.LayerMatrix`), integer labels
in the shape of that matrix, or integer labels in the shape of each parameter. Labels count from 0; an entry
with a negative label is in no group."""


class Block(ABC):
    """The Gaussian posterior of one layer's weights. A frozen value: methods return new blocks.

    Attributes:
        layer: Qualified name of the module, "" for the model itself.
        mean: Posterior mean by qualified parameter name, in the parameter's shape. Entries that are out do
            not count, whatever their value.
        precision: Marginal inverse variance of each entry. A joint block computes it, `inf` where an entry is
            out; a diagonal block has it as it was given.
        prior_precision: Inverse variance of the zero-mean prior, a scalar or broadcastable to the mean.
        keep: False where an entry is out; a missing name means that all of it stays.
        transposed: Whether weights keep their outputs in the second axis, as `LayerMatrix` has it.
    """

    KINDS: ClassVar[tuple[str, ...]]
    """Fields that have a tensor for each parameter."""
    MATRICES: ClassVar[tuple[str, ...]] = ()
    """Fields that are one tensor for the layer."""

    layer: str
    mean: dict[str, Tensor]
    precision: dict[str, Tensor]
    prior_precision: dict[str, Tensor]
    keep: dict[str, Tensor]
    transposed: bool

    def present(self, name: str) -> Tensor:
        """Return where the entries of a parameter are in, as booleans of its shape.

        Args:
            name: Qualified parameter name.
        """
        keep = self.keep.get(name)
        return torch.ones_like(self.mean[name], dtype=torch.bool) if keep is None else keep

    def point(self) -> dict[str, Tensor]:
        """Return the mean weights by name, exactly zero where an entry is out."""
        return {
            name: mean * self.keep[name] if name in self.keep else mean for name, mean in self.mean.items()
        }

    @abstractmethod
    def delta_f(self, groups: Groups | None = None) -> dict[str, Tensor] | Tensor:
        """Return the log evidence of removing each entry alone, or each group of entries together.

        Args:
            groups: None for single entries.

        Returns:
            Nats. For single entries a tensor of the parameter's shape by name, nan where an entry is out. For
            groups one value per group, in the shape of the partition's groups or (number of labels); entries
            that are out already do not count, and a group without any other is nan.

        Raises:
            InvalidArgumentError: If the block is a point estimate, or the groups do not fit the layer.
        """

    @abstractmethod
    def variance(self) -> dict[str, Tensor]:
        """Return the marginal variance of each entry given what is out, by name; 0 where it is out."""

    @abstractmethod
    def given(self, keep: Mapping[str, Tensor]) -> "Block":
        """Return the block conditioned on a removal: what stays moves to its new mean.

            m'_K = m_K - S_KQ S_QQ^-1 m_Q

        for entries Q that go and K that stay. Two removals one after the other give what both at once give.

        Args:
            keep: True where an entry stays, by parameter name; a parameter that is missing stays as it is.
                What is out already stays out.

        Returns:
            A block of the same structure.

        Raises:
            InvalidArgumentError: If a name or a shape is not the block's, or a mask is not boolean.
        """

    def sample(self, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw weights by name; exactly zero where an entry is out.

        Args:
            generator: Source of randomness on the tensors' device; torch's global one when missing.
        """
        drawn: dict[str, Tensor] = {}
        for name in self.mean:
            if name not in drawn:
                drawn |= self.draws(name, generator)
        return drawn

    def kl(self) -> Tensor:
        """Return KL(posterior || prior) of the entries that are in, a float64 scalar on the CPU, in nats."""
        return sum(self.kl_terms().values(), torch.zeros((), dtype=torch.float64))

    def at_temperature(self, temperature: float) -> "Block":
        """Return the block with likelihood and prior both raised to `1 / temperature`; means do not move.

        Args:
            temperature: Positive; below 1 the posterior is narrower.

        Raises:
            InvalidArgumentError: If `temperature` is not positive.
        """
        if not temperature > 0:
            raise InvalidArgumentError(f"temperature: expected a positive number, got {temperature}")
        kinds = self._precisions()
        return self._rebuilt({
            key: value / temperature if key.partition("/")[0] in kinds else value
            for key, value in self.tensors().items()
        })

    def to(self, device: torch.device | str) -> "Block":
        """Return the block with every tensor on `device`.

        Args:
            device: Where to.
        """
        return self._rebuilt({key: value.to(device) for key, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the block consists of, as tensors named "kind/parameter" or "kind"."""
        found = {
            f"{kind}/{name}": value for kind in self.KINDS for name, value in getattr(self, kind).items()
        }
        own = {kind: getattr(self, kind) for kind in self.MATRICES}
        return found | {kind: value for kind, value in own.items() if value is not None}

    @classmethod
    def from_tensors(cls, layer: str, tensors: Mapping[str, Tensor], *, transposed: bool = False) -> "Block":
        """Return the block whose `tensors` these are.

        Args:
            layer: Name of the layer.
            tensors: What `tensors` returned.
            transposed: Whether weights keep their outputs in the second axis.

        Raises:
            InvalidArgumentError: If a tensor is missing, unknown, or does not fit.
        """
        found: dict[str, Any] = {kind: {} for kind in cls.KINDS}
        for key, tensor in tensors.items():
            kind, slash, name = key.partition("/")
            if slash and kind in cls.KINDS:
                found[kind][name] = tensor
            elif not slash and kind in cls.MATRICES:
                found[kind] = tensor
            else:
                kinds = ", ".join([*cls.KINDS, *cls.MATRICES])
                raise InvalidArgumentError(f"tensors: expected {kinds}, got {key!r}")
        for each in fields(cls):  # type: ignore[arg-type]
            if each.name in cls.MATRICES and each.default is MISSING and each.name not in found:
                raise InvalidArgumentError(f"tensors: expected {each.name!r}, got none")
        return cls(layer=layer, **found, transposed=transposed)  # type: ignore[call-arg]

    def _rebuilt(self, tensors: Mapping[str, Tensor]) -> "Block":
        return self.from_tensors(self.layer, tensors, transposed=self.transposed)

    def _precisions(self) -> tuple[str, ...]:
        """Return the kinds of tensors that a temperature divides."""
        return tuple(kind for kind in (*self.KINDS, *self.MATRICES) if kind not in {"mean", "keep"})

    @abstractmethod
    def draws(self, name: str, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Draw the weights that share their randomness with one parameter.

        `Posterior.sample` asks for one parameter after another, so that the order of draws is that of the
        means, whatever the blocks.

        Args:
            name: Qualified parameter name.
            generator: As for `sample`.

        Returns:
            Weights of that parameter, or of the whole block under a joint posterior.
        """

    @abstractmethod
    def kl_terms(self) -> dict[str, Tensor]:
        """Return KL(posterior || prior) in the parts that `kl` adds up, by the parameter each begins at."""


def still_in(block: Block, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks of a block after a removal: entries that are in and that stay.

    Args:
        block: Block before the removal.
        keep: True where an entry stays, by parameter name.

    Returns:
        Masks of all parameters that have or had one.

    Raises:
        InvalidArgumentError: If a name or a shape is not the block's, or a mask is not boolean.
    """
    if unknown := keep.keys() - block.mean.keys():
        raise InvalidArgumentError(
            f"keep: expected names of parameters of the layer {block.layer!r}, got {sorted(unknown)[0]!r}"
        )
    held = dict(block.keep)
    for name, mask in keep.items():
        mean = block.mean[name]
        if mask.dtype != torch.bool:
            raise InvalidArgumentError(f"keep[{name!r}]: expected booleans, got {mask.dtype}")
        if mask.shape != mean.shape:
            raise InvalidArgumentError(
                f"keep[{name!r}]: expected shape {tuple(mean.shape)}, got {tuple(mask.shape)}"
            )
        here = mask.to(mean.device)
        held[name] = held[name] & here if name in held else here
    return held
