"""Running sums of the curvature of one weight matrix, from the uses of it that a forward pass recorded.

Shapes: b data, p positions, g groups, r output units of a group, R = g r output units, c inputs of one (1 for
        the bias appended). A matrix that is used twice, or whose layer is called twice, has the positions of
        both uses.

Sums over data, of which `Curvature` makes means:

    A = sum_p a a^T     (c, c)      G = sum_p g g^T     (R, R); only within groups
    squares_ij = (sum_p g_i a_j)^2      row_sums_i = sum_j squares_ij

Row sums need no gradient of a single datum: they are g_i^T K g_i with K = a a^T between positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.curvature.uses import LookupUse, MatrixUse

__all__ = ["MatrixLayout", "MatrixSums", "add_lookup_squares", "mirrored"]

GRAM_BLOCK = 384  # columns: products of large matrices with themselves are formed from the diagonal up
NUMBERS_AT_ONCE = 1 << 25  # 128 MiB of float32: activations are unfolded and squared in slices of the batch


@dataclass(frozen=True)
class MatrixLayout:
    """Which parameters make a matrix, and what is to be gathered of it.

    Attributes:
        weight: Name of the weight.
        bias: Name of the bias that is the last column, if there is one.
        transposed: Whether the weight is stored (inputs, outputs).
        rows: Output units.
        columns: Inputs of one, with the bias.
        with_inputs: Whether A is gathered.
        with_outputs: Whether G is gathered.
        with_squares: Whether the squares are gathered entry by entry, not only their row sums.
    """

    weight: str
    bias: str | None
    transposed: bool
    rows: int
    columns: int
    with_inputs: bool
    with_outputs: bool
    with_squares: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, the weight first."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


class MatrixSums:
    """Sums over data of one matrix; those of A and G only from the diagonal up (`mirrored`).

    Args:
        layout: The matrix.
        dtype: Type of the sums.
        device: Where they are.
    """

    def __init__(self, layout: MatrixLayout, dtype: torch.dtype, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.layout = layout
        rows, columns = layout.rows, layout.columns
        self.inputs = zeros(columns, columns) if layout.with_inputs else None
        self.outputs = zeros(rows, rows) if layout.with_outputs else None
        self.squares = zeros(rows, columns) if layout.with_squares else None
        self.row_sums = zeros(rows)
        self.num_positions = 0

    def add(
        self,
        uses: Sequence[MatrixUse],
        lookups: Sequence[LookupUse],
        gradients: Sequence[Mapping[int, Tensor]],
        padding: Tensor | None,
    ) -> None:
        """Add one batch.

        Args:
            uses: Linear maps and convolutions with this matrix that a gradient reaches.
            lookups: Lookups in it, if it is an embedding too; they enter the squares and row sums only.
            gradients: For each direction of the outputs, the gradient of each use by its `id`.
            padding: False at positions that are left out, shape (batch, positions).
        """
        plain = [use for use in uses if not use.swapped]
        swapped = [use for use in uses if use.swapped]
        numbers = sum(use.numbers(gradients[0][id(use)]) for use in uses)
        if swapped or lookups or self.squares is not None:
            numbers += self.layout.rows * self.layout.columns
        order = plain[0].in_order() if plain else None
        step = max(1, NUMBERS_AT_ONCE // max(numbers, 1))
        batch = uses[0].batch if uses else len(lookups[0].index)
        for start in range(0, batch, step):
            part = slice(start, min(start + step, batch))
            left_out = None if padding is None else padding[part, :, None, None]

            def joined(rows: list[Tensor], left_out: Tensor | None = left_out) -> Tensor | None:
                typed = [each.to(self.row_sums.dtype) for each in rows]
                if left_out is not None:
                    fits = left_out.shape[1]
                    typed = [each * left_out if each.shape[1] == fits else each for each in typed]
                return (torch.cat(typed, 1) if len(typed) > 1 else typed[0]) if typed else None

            right = joined([use.right(gradients[0][id(use)], part) for use in plain])
            if right is not None:
                self.num_positions += _num_positions(right, padding, part)
                if self.inputs is not None:
                    flat = right.flatten(0, 2)
                    if order is None:
                        _add_gram(self.inputs, flat)
                    else:
                        self.inputs += (flat.mT @ flat)[order][:, order]
            for each in gradients:
                left = joined([use.left(each[id(use)], part) for use in plain])
                if left is not None and self.outputs is not None:
                    self._add_outputs(left)
                self._add_squares(left, right, self._extra(swapped, lookups, each, part), order)

    def upper_halves(self) -> list[Tensor]:
        """Return the entries of A and G that have been summed, from the diagonal up, as vectors."""
        found = [each for each in (self.inputs, self.outputs) if each is not None]
        return [each[torch.ones_like(each, dtype=torch.bool).triu_()] for each in found]

    def take_upper_halves(self, halves: Sequence[Tensor]) -> None:
        """Put other sums in the place of those that `upper_halves` gave.

        Args:
            halves: In the same order.
        """
        found = [each for each in (self.inputs, self.outputs) if each is not None]
        for each, half in zip(found, halves, strict=True):
            each.masked_scatter_(torch.ones_like(each, dtype=torch.bool).triu_(), half)

    def _add_outputs(self, left: Tensor) -> None:
        assert self.outputs is not None
        groups, size = left.shape[2:]
        for group in range(groups):
            own = slice(group * size, (group + 1) * size)
            flat = left[:, :, group].flatten(0, 1)
            _add_gram(self.outputs[own, own], flat)

    def _extra(
        self,
        swapped: Sequence[MatrixUse],
        lookups: Sequence[LookupUse],
        gradients: Mapping[int, Tensor],
        part: slice,
    ) -> Tensor | None:
        """Gradients of each datum (b, R, c) from lookups and from transposed uses."""
        if not swapped and not lookups:
            return None
        total = self.row_sums.new_zeros(part.stop - part.start, self.layout.rows, self.layout.columns)
        for use in swapped:
            gradient = gradients[id(use)]
            left, right = use.left(gradient, part), use.right(gradient, part)
            total += left[:, :, 0].mT @ right[:, :, 0]
        for lookup in lookups:
            rows = lookup.rows(gradients[id(lookup)])[part].to(total.dtype)
            for datum, index in enumerate(lookup.index[part]):
                total[datum, :, : rows.shape[-1]].index_add_(0, index, rows[datum])
        return total

    def _add_squares(
        self, left: Tensor | None, right: Tensor | None, extra: Tensor | None, order: Tensor | None
    ) -> None:
        if left is None or right is None:
            if extra is not None:
                self._add_dense(extra)
            return
        positions, groups, size, columns = *left.shape[1:], right.shape[-1]
        if extra is None and positions == 1:
            if self.squares is not None:
                for group in range(groups):
                    own = slice(group * size, (group + 1) * size)
                    found = left[:, 0, group].square().mT @ right[:, 0, group].square()
                    self.squares[own] += found if order is None else found[:, order]
            self.row_sums += (left.square() * right.square().sum(-1, keepdim=True)).sum((0, 1)).flatten()
            return
        by_group = left.transpose(1, 2), right.transpose(1, 2)  # (b, g, p, r), (b, g, p, c)
        cheaper = positions * (size + columns) < size * columns
        if extra is None and self.squares is None and cheaper:
            gram = by_group[1] @ by_group[1].mT
            self.row_sums += ((gram @ by_group[0]) * by_group[0]).sum(2).sum(0).flatten()
            return
        dense = (by_group[0].mT @ by_group[1]).flatten(1, 2)
        self._add_dense(dense if extra is None else dense + extra, order)

    def _add_dense(self, gradient: Tensor, order: Tensor | None = None) -> None:
        squares = gradient.square().sum(0)
        if self.squares is not None:
            self.squares += squares if order is None else squares[:, order]
        self.row_sums += squares.sum(-1)


def add_lookup_squares(total: Tensor, lookups: Sequence[LookupUse], gradients: Sequence[Tensor]) -> None:
    """Add the squares of each datum's gradient of an embedding, without forming that gradient.

    Args:
        total: Sum of squares, of the embedding's shape; changed in place.
        lookups: All lookups in the embedding.
        gradients: Gradient of the rows that each looked up.
    """
    index = torch.cat([lookup.index for lookup in lookups], 1)
    rows = [lookup.rows(each) for lookup, each in zip(lookups, gradients, strict=True)]
    rows_of = torch.cat(rows, 1).to(total.dtype)
    datum = torch.arange(len(index), device=index.device).unsqueeze(1)
    pairs, place = torch.unique(datum * len(total) + index, return_inverse=True)
    summed = rows_of.new_zeros(len(pairs), total.shape[1])
    summed.index_add_(0, place.flatten(), rows_of.flatten(0, 1))
    total.index_add_(0, pairs % len(total), summed.square())


def _add_gram(total: Tensor, rows: Tensor) -> None:
    """Add rows^T rows to the upper half of a sum, in place."""
    size = len(total)
    for start in range(0, size, GRAM_BLOCK):
        stop = min(start + GRAM_BLOCK, size)
        total[start:stop, start:].addmm_(rows[:, start:stop].mT, rows[:, start:])


def mirrored(total: Tensor) -> Tensor:
    """Return a symmetric matrix of which only the upper half has been summed.

    Args:
        total: The sum.
    """
    return total.triu() + total.triu(1).mT


def _num_positions(right: Tensor, padding: Tensor | None, part: slice) -> int:
    if padding is not None and right.shape[1] == padding.shape[1]:
        return int(padding[part].sum())
    return right.shape[0] * right.shape[1]
