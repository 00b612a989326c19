"""Fixed patterns of zeros, N of each M consecutive inputs of a unit kept, as sparse hardware reads them."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.modules.matrix import LayerMatrix

__all__ = ["Pattern"]


@dataclass(frozen=True)
class Pattern:
    """N of each M consecutive inputs are kept.

    Attributes:
        kept: N.
        size: M.
    """

    kept: int
    size: int

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Return the pattern that a text like "2:4" names.

        Args:
            text: N:M, with 0 < N < M.

        Raises:
            InvalidArgumentError: If it is no such text.
        """
        found = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text) if isinstance(text, str) else None
        kept, size = (int(part) for part in found.groups()) if found else (0, 0)
        if not 0 < kept < size:
            raise InvalidArgumentError(f'pattern: expected "N:M" with 0 < N < M, as "2:4", got {text!r}')
        return cls(kept, size)

    @property
    def sparsity(self) -> float:
        """Share of entries that go."""
        return 1 - self.kept / self.size

    def removable(self, costs: Tensor, shape: tuple[int, ...], matrix: LayerMatrix) -> Tensor:
        """Return which entries may go: of each M consecutive inputs the M - N that cost least.

        Args:
            costs: Of the entries of one weight, shape (rows, its columns) of the layer's matrix; those that
                are out already cost less than any other.
            shape: Of the weight as the layer keeps it.
            matrix: Layout of the layer.

        Raises:
            InvalidArgumentError: If the weight's inputs do not divide by M.
        """
        inputs = shape[0] if matrix.transposed else shape[1]
        if inputs % self.size:
            raise InvalidArgumentError(
                f"pattern: expected a layer whose inputs divide by {self.size}, got {inputs} inputs in "
                f"{next(iter(matrix.shapes))}; exclude it"
            )
        # (rows, inputs, taps) -> groups of consecutive inputs at one tap of the kernel
        spread = costs.reshape(len(costs), inputs, -1).transpose(1, 2)
        groups = spread.reshape(-1, self.size)
        order = groups.argsort(dim=1, stable=True)[:, : self.size - self.kept]
        chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, True)
        return chosen.reshape(spread.shape).transpose(1, 2).reshape(costs.shape)
