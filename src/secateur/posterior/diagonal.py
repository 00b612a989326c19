"""A layer's posterior with independent entries: the mean-field case, for parameters of any shape.

    q(w) = prod_k N(w_k | mean_k, 1 / precision_k),     p(w) = prod_k N(w_k | 0, 1 / prior_precision_k)

A removal moves nothing: what stays keeps its mean, and the evidence of a group is the sum over its entries.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.posterior._validation import require_fields, require_positive
from secateur.posterior.block import Block, Groups, still_in
from secateur.posterior.groups import labels_by_parameter
from secateur.reduction import delta_f

__all__ = ["Diagonal"]


@dataclass(frozen=True)
class Diagonal(Block):
    """Independent Gaussian weights of one layer.

    Attributes:
        layer: Qualified name of the module.
        mean: Posterior means by qualified parameter name.
        precision: Posterior inverse variances, of the means' shapes; `inf` for a point estimate.
        prior_precision: Inverse variances of the zero-mean priors, scalars or broadcastable to the means.
        keep: False where an entry is out; a missing name means that all of it stays.
        transposed: Whether weights keep their outputs last, as `LayerMatrix` has it; only groups ask.

    Raises:
        InvalidArgumentError: If names or shapes do not agree, a tensor is not of real floating-point numbers,
            a mean is nan, or a precision is not positive.

    Example:
        >>> import torch
        >>> ones = {"fc.weight": torch.ones(1, 2)}
        >>> block = Diagonal("fc", ones, {"fc.weight": torch.tensor([[4.0, 9.0]])}, ones)
        >>> block.delta_f()["fc.weight"]
        tensor([[-1.3069, -3.4014]])
    """

    KINDS: ClassVar = ("mean", "precision", "prior_precision", "keep")

    layer: str
    mean: dict[str, Tensor]
    precision: dict[str, Tensor]
    prior_precision: dict[str, Tensor]
    keep: dict[str, Tensor] = field(default_factory=dict)
    transposed: bool = False

    def __post_init__(self) -> None:
        if self.precision.keys() != self.mean.keys():
            differing = sorted(self.precision.keys() ^ self.mean.keys())[0]
            raise InvalidArgumentError(
                f"precision: expected the names of mean, got a difference at {differing!r}"
            )
        for name, mean in self.mean.items():
            precision = self.precision[name]
            if precision.shape != mean.shape:
                got = tuple(precision.shape)
                raise InvalidArgumentError(
                    f"precision[{name!r}]: expected shape {tuple(mean.shape)}, got {got}"
                )
        require_fields(self.mean, self.prior_precision, self.keep)
        for name, precision in self.precision.items():
            require_positive("precision", name, precision, self.keep)

    @torch.no_grad()
    def delta_f(self, groups: Groups | None = None) -> dict[str, Tensor] | Tensor:
        """Return the log evidence of removing each entry, or the sum over each group; see `Block.delta_f`.

        Args:
            groups: None for single entries.
        """
        each = {name: self._delta_f(name) for name in self.mean}
        if groups is None:
            return each
        labels, shape = labels_by_parameter(groups, self.mean, self.transposed)
        first = next(iter(each.values()))
        total = first.new_zeros(math.prod(shape), dtype=torch.float64)
        count = torch.zeros_like(total)
        for name, value in each.items():
            counts = labels[name] >= 0
            if name in self.keep:
                counts = counts & self.keep[name]
            index = labels[name][counts]
            total.index_add_(0, index, value[counts].double())
            count.index_add_(0, index, torch.ones_like(index, dtype=torch.float64))
        return total.masked_fill_(count == 0, math.nan).to(first.dtype).reshape(shape)

    def _delta_f(self, name: str) -> Tensor:
        """Evidence of one parameter's entries. Entries that are out are looked at only if the rest fails."""
        mean, precision, prior = self.mean[name], self.precision[name], self.prior_precision[name]
        keep = self.keep.get(name)
        try:
            found = delta_f(mean, precision, prior_precision=prior)
        except InvalidArgumentError:
            if keep is not None:
                mean, precision, prior = (torch.where(keep, each, 1.0) for each in (mean, precision, prior))
            if bool(precision.isinf().any()):
                raise InvalidArgumentError(
                    f"precision[{name!r}]: expected finite values, got inf: a point estimate has no "
                    "evidence; use secateur.inference.laplace(model, loader) or a method with a posterior"
                ) from None
            found = delta_f(mean, precision, prior_precision=prior)
        return found if keep is None else found.masked_fill_(~keep, math.nan)

    def variance(self) -> dict[str, Tensor]:
        """Return the variance of each entry by name; 0 where it is out."""
        found = {}
        for name, precision in self.precision.items():
            variance = precision.reciprocal()
            keep = self.keep.get(name)
            found[name] = variance if keep is None else variance.masked_fill_(~keep, 0.0)
        return found

    def given(self, keep: Mapping[str, Tensor]) -> "Diagonal":
        """Return the block with more entries out; what stays keeps mean and precision, and shares memory.

        Args:
            keep: True where an entry stays, by parameter name; a parameter that is missing stays as it is.
        """
        return replace(self, keep=still_in(self, keep))

    def draws(self, name: str, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Draw the weights of one parameter.

        Args:
            name: Qualified parameter name.
            generator: As for `sample`.
        """
        mean = self.mean[name]
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        weight = mean + noise * self.precision[name].rsqrt()
        return {name: weight * self.keep[name] if name in self.keep else weight}

    def kl_terms(self) -> dict[str, Tensor]:
        """Return KL(posterior || prior) by parameter.

        Per weight: (log(P / P0) - 1 + P0 / P + P0 m^2) / 2.
        """
        terms = {}
        for name, mean in self.mean.items():
            ratio = self.prior_precision[name] / self.precision[name]
            each = 0.5 * (ratio - 1 - ratio.log() + self.prior_precision[name] * mean.square())
            if name in self.keep:
                each = torch.where(self.keep[name], each, 0.0)
            terms[name] = each.sum(dtype=torch.float64).cpu()
        return terms
