"""What all joint posteriors of a layer have in common: they ask one covariance of the layer's matrix.

A structure says how to multiply by its precision and which covariance what is in has; the rest is the same:

    given:    m'_F = m_F + S_F (P m_Q)_F        F what stays, Q what goes, S_F the inverse of P's block F
    delta_f:  1/2 ln(1 / (prior S_kk)) - m_k^2 / (2 S_kk)          of one entry; jointly by S_QQ of a group
    kl:       1/2 [ ln|P_F| - sum ln prior + sum prior (S_kk + m_k^2) - |F| ]

Linear algebra runs in float64, results come in the means' dtype.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.modules import LayerMatrix
from secateur.posterior._validation import require_fields
from secateur.posterior.block import Block, Groups, still_in
from secateur.posterior.groups import labels_in_matrix, layout_of
from secateur.reduction import delta_f
from secateur.reduction._linear_algebra import require_symmetric
from secateur.reduction.matrix_covariance import MatrixCovariance

__all__ = ["Joint"]


class Joint(Block, ABC):
    """A block whose entries depend on each other. A frozen value; see `Block` for what it answers."""

    KINDS: ClassVar = ("mean", "prior_precision", "keep")

    def _check(self, **shapes: tuple[int, ...]) -> None:
        """Demand parameters that make a matrix, and finite matrices of these shapes.

        Raises:
            InvalidArgumentError: Naming the field that does not fit.
        """
        if not self.mean:
            raise InvalidArgumentError(f"mean: expected at least one parameter of {self.layer!r}, got none")
        require_fields(self.mean, self.prior_precision, self.keep)
        if len(kinds := {value.dtype for value in self.mean.values()}) > 1:
            found = ", ".join(sorted(map(str, kinds)))
            raise InvalidArgumentError(f"mean: expected one dtype in the layer {self.layer!r}, got {found}")
        for name, shape in shapes.items():
            matrix = getattr(self, name)
            if not matrix.is_floating_point():
                raise InvalidArgumentError(
                    f"{name} of {self.layer!r}: expected floating-point numbers, got {matrix.dtype}"
                )
            if tuple(matrix.shape) != shape:
                raise InvalidArgumentError(
                    f"{name} of {self.layer!r}: expected shape {shape}, got {tuple(matrix.shape)}"
                )
            if len(shape) > 1:
                require_symmetric(f"{name} of {self.layer!r}", matrix.detach())

    @property
    def precision(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Marginal inverse variances by name, `inf` where an entry is out."""
        return {name: each.reciprocal() for name, each in self.variance().items()}

    @cached_property
    def layout(self) -> LayerMatrix:
        """How the parameters make the layer's matrix."""
        return layout_of(self.mean, self.transposed)

    @cached_property
    def present_matrix(self) -> Tensor:
        """Where entries are in, in the layer's matrix."""
        return self.layout.pack({name: self.present(name) for name in self.mean})

    @cached_property
    def mean_matrix(self) -> Tensor:
        """Means in the layer's matrix, float64; 0 where an entry is out."""
        mean = self.layout.pack({name: value.detach() for name, value in self.mean.items()})
        return torch.where(self.present_matrix, mean.double(), 0.0)

    @cached_property
    def prior_matrix(self) -> Tensor:
        """Prior precisions in the layer's matrix, float64; 1 where an entry is out."""
        prior = {
            name: value.detach().double().expand(self.mean[name].shape)
            for name, value in self.prior_precision.items()
        }
        return torch.where(self.present_matrix, self.layout.pack(prior), 1.0)

    @cached_property
    def covariance(self) -> MatrixCovariance:
        """Covariance of what is in, in the layer's matrix; computed when first asked for."""
        with torch.no_grad():
            return self._covariance()

    @abstractmethod
    def _covariance(self) -> MatrixCovariance:
        """Return the covariance of what is in."""

    @abstractmethod
    def _times_precision(self, matrix: Tensor) -> Tensor:
        """Return the precision, with nothing out, times a matrix."""

    def _solve(self, matrix: Tensor) -> Tensor:
        """Return the covariance of what is in times a matrix."""
        return self.covariance.solve(matrix)

    def _deviation(self, generator: torch.Generator | None) -> Tensor:
        """Return a draw from N(0, covariance)."""
        return self.covariance.deviation(self._noise(generator))

    def _noise(self, generator: torch.Generator | None) -> Tensor:
        size, device = self.present_matrix.shape, self.present_matrix.device
        return torch.randn(size, dtype=torch.float64, device=device, generator=generator)

    def _unpack(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return a matrix's parts by name, in the order and the dtype of the means."""
        parts = self.layout.unpack(matrix.to(next(iter(self.mean.values())).dtype))
        return {name: parts[name] for name in self.mean}

    @cached_property
    def _variance(self) -> Tensor:
        with torch.no_grad():
            return self.covariance.variance()

    @torch.no_grad()
    def delta_f(self, groups: Groups | None = None) -> dict[str, Tensor] | Tensor:
        """Return the log evidence of removing each entry alone, or each group jointly; see `Block.delta_f`.

        Args:
            groups: None for single entries.
        """
        if groups is None:
            spread = torch.where(self.present_matrix, self._variance, 1.0)
            found = delta_f(self.mean_matrix, 1 / spread, prior_precision=self.prior_matrix)
            return self._unpack(found.masked_fill_(~self.present_matrix, torch.nan))
        labels, shape = labels_in_matrix(groups, self.mean, self.layout)
        found = self.covariance.group_delta_f(
            self.mean_matrix, labels, torch.Size(shape).numel(), prior_precision=self.prior_matrix
        )
        return found.to(next(iter(self.mean.values())).dtype).reshape(shape)

    def variance(self) -> dict[str, Tensor]:
        """Return the marginal variance of each entry given what is out, by name; 0 where it is out."""
        return self._unpack(self._variance)

    @torch.no_grad()
    def given(self, keep: Mapping[str, Tensor]) -> "Joint":
        """Return the block conditioned on a removal: what stays moves to its new mean; see `Block.given`.

        Args:
            keep: True where an entry stays, by parameter name; a parameter that is missing stays as it is.
        """
        after = replace(self, keep=still_in(self, keep))  # type: ignore[type-var]
        gone = self.present_matrix & ~after.present_matrix
        pull = self._times_precision(torch.where(gone, self.mean_matrix, 0.0))
        mean = torch.where(after.present_matrix, self.mean_matrix + after._solve(pull), 0.0)
        moved = replace(after, mean=self._unpack(mean))  # type: ignore[type-var]
        if "covariance" in vars(after):  # of the same entries, and it took work
            vars(moved)["covariance"] = after.covariance
        return moved

    @torch.no_grad()
    def draws(self, name: str, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Draw the weights of the whole block.

        Args:
            name: Qualified parameter name.
            generator: As for `sample`.
        """
        weight = self.mean_matrix + self._deviation(generator)
        return self._unpack(torch.where(self.present_matrix, weight, 0.0))

    @torch.no_grad()
    def kl_terms(self) -> dict[str, Tensor]:
        """Return KL(posterior || prior) of the block, by its first parameter."""
        prior, present = self.prior_matrix, self.present_matrix
        each = prior * (self._variance + self.mean_matrix.square()) - prior.log() - 1
        total = torch.where(present, each, 0.0).sum() + self.covariance.log_determinant()
        return {next(iter(self.mean)): 0.5 * total.cpu()}
