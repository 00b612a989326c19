"""One use of a parameter in a forward pass, and the gradient of each datum that it contributes.

Shapes: b data, p positions, g groups, r output units of a group, c inputs of an output unit (1 for the bias
        appended). A use of a weight matrix is written as pairs of rows, so that the gradient of one datum is

            gradient[b] = sum_p left[b, p] right[b, p]^T,      left (b, p, g, r), right (b, p, g, c).

        For a linear map `left` is the gradient of its outputs and `right` are its inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn import functional as F

__all__ = ["ConvUse", "LinearUse", "LookupUse", "MatrixUse", "ProbeUse", "Use", "by_datum"]


def by_datum(rows: Tensor, batch: int, axis: int) -> Tensor | None:
    """Return rows of any shape as (batch, positions, width), or None where no axis counts the data.

    Args:
        rows: Shape (..., width). Leading axes may have been merged, data before positions.
        batch: Number of data.
        axis: Axis of the data in code that puts positions first, where both layouts fit: 0 or 1.
    """
    shape = rows.shape
    if len(shape) == 2 and axis == 1 and shape[0] % batch == 0:
        return rows.reshape(-1, batch, shape[-1]).transpose(0, 1)
    if len(shape) >= 3 and shape[1] == batch and (axis == 1 or shape[0] != batch):
        return rows.transpose(0, 1).reshape(batch, -1, shape[-1])
    if len(shape) >= 2 and shape[0] % batch == 0 and shape[0] > 0:
        return rows.reshape(batch, -1, shape[-1])
    return None


@dataclass(frozen=True)
class LinearUse:
    """A weight matrix times rows of inputs.

    Attributes:
        weight: Name of the parameter.
        edge: Where the gradient of the outputs arrives.
        inputs: Shape (..., inputs).
        batch: Number of data.
        axis: As for `by_datum`.
        first_row: The first output unit, where only a slice of the matrix is used.
        num_rows: Output units of the whole matrix.
        column: What is appended to the inputs: 1 for a bias, 0 where this use has none of the weight's
            bias, None where the weight has no bias.
        swapped: Whether the matrix is used transposed, other than at its first use. Its rows are then the
            inputs, and its columns the gradients.
    """

    weight: str
    edge: GradientEdge
    inputs: Tensor
    batch: int
    axis: int
    first_row: int
    num_rows: int
    column: float | None
    swapped: bool = False
    groups: int = 1

    def left(self, gradient: Tensor, part: slice) -> Tensor:
        """Return the gradients of the outputs as (b, p, 1, r), zero outside the slice that is used."""
        rows = self._by_datum(self.inputs if self.swapped else gradient)[part]
        missing = self.num_rows - rows.shape[-1]
        if missing:
            rows = F.pad(rows, (self.first_row, missing - self.first_row))
        return rows.unsqueeze(2)

    def right(self, gradient: Tensor, part: slice) -> Tensor:
        """Return the inputs as (b, p, 1, c)."""
        rows = self._by_datum(gradient if self.swapped else self.inputs)[part].unsqueeze(2)
        return rows if self.column is None else F.pad(rows, (0, 1), value=self.column)

    def in_order(self) -> None:
        """Return None: the columns of `right` are in the weight's order."""

    def _by_datum(self, rows: Tensor) -> Tensor:
        found = by_datum(rows, self.batch, self.axis)
        assert found is not None, "uses that do not divide into data are not recorded"
        return found

    def numbers(self, gradient: Tensor) -> int:
        """Return how many numbers `left` and `right` hold for one datum."""
        positions = self.inputs.numel() // self.inputs.shape[-1] // self.batch
        return positions * (self.num_rows + self.inputs.shape[-1] + 1)


@dataclass(frozen=True)
class ConvUse:
    """A convolution in any number of dimensions, with groups.

    Attributes:
        weight: Name of the parameter.
        edge: Where the gradient of the outputs arrives.
        inputs: Shape (n, channels, *space), padded already; n is a multiple of the batch.
        batch: Number of data.
        kernel: Size of the kernel.
        stride: One number a dimension.
        dilation: One number a dimension.
        groups: Number of groups.
        column: As for `LinearUse`.
    """

    weight: str
    edge: GradientEdge
    inputs: Tensor
    batch: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    column: float | None
    swapped: bool = False

    def left(self, gradient: Tensor, part: slice) -> Tensor:
        """Return the gradients of the outputs as (b, p, g, r)."""
        rows = gradient.reshape(
            self.batch, -1, self.groups, gradient.shape[1] // self.groups, *gradient.shape[2:]
        )
        rows = rows[part].flatten(4)  # (b, images of a datum, g, r, positions)
        return rows.permute(0, 1, 4, 2, 3).flatten(1, 2)

    def right(self, gradient: Tensor, part: slice) -> Tensor:
        """Return the patches that each output reads, as (b, p, g, c), channels last in a patch.

        `in_order` puts the columns of what is made of them in the weight's order: with its channels last, a
        patch is a few long runs of memory, which is several times quicker to copy.
        """
        images = self.inputs.reshape(self.batch, -1, *self.inputs.shape[1:])[part]
        size, per_datum = images.shape[:2]
        patches = images.flatten(0, 1).movedim(1, -1).contiguous()
        patches = patches.unflatten(-1, (self.groups, -1))  # (n, *space, g, channels)
        dims = len(self.kernel)
        for axis, (width, step, gap) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            patches = patches.unfold(1 + axis, gap * (width - 1) + 1, step)[..., ::gap]
        # (n, *positions, g, channels, *kernel) -> (n, *positions, g, *kernel, channels)
        patches = patches.movedim(2 + dims, -1).flatten(2 + dims).flatten(1, dims)
        patches = patches.reshape(size, per_datum * patches.shape[1], *patches.shape[2:])
        return patches if self.column is None else F.pad(patches, (0, 1), value=self.column)

    def in_order(self) -> Tensor:
        """Return, for each column of the weight's matrix, which column of `right` it is."""
        channels, taps = self.inputs.shape[1] // self.groups, torch.Size(self.kernel).numel()
        order = torch.arange(taps * channels, device=self.inputs.device).view(taps, channels).mT.flatten()
        return order if self.column is None else torch.cat([order, order.new_tensor([taps * channels])])

    def numbers(self, gradient: Tensor) -> int:
        """Return how many numbers `left` and `right` hold for one datum."""
        outputs = gradient.numel() // self.batch
        positions = outputs // gradient.shape[1]
        columns = self.inputs.shape[1] * torch.Size(self.kernel).numel() + self.groups
        return outputs + positions * columns


MatrixUse = LinearUse | ConvUse


@dataclass(frozen=True)
class LookupUse:
    """Rows of an embedding, looked up by index.

    Attributes:
        weight: Name of the parameter.
        edge: Where the gradient of the rows arrives.
        index: Which rows, shape (batch, positions).
        padding: A row that takes no gradient; None where all do.
    """

    weight: str
    edge: GradientEdge
    index: Tensor
    padding: int | None

    def rows(self, gradient: Tensor) -> Tensor:
        """Return the gradients of the rows as (batch, positions, width)."""
        rows = gradient.reshape(*self.index.shape, -1)
        return rows if self.padding is None else rows * (self.index != self.padding).unsqueeze(-1)


@dataclass(frozen=True)
class ProbeUse:
    """A parameter that is added or multiplied elementwise, given to each datum as a copy of its own.

    Attributes:
        name: Name of the parameter.
        probe: Zeros added to the copies, shape (batch, ...): its gradient is the copies'.
        index: Position in the flat parameter of each entry of a copy; None where it is the parameter itself.
        size: Number of entries of the parameter.
    """

    name: str
    probe: Tensor
    index: Tensor | None
    size: int

    def rows(self, gradient: Tensor) -> Tensor:
        """Return each datum's gradient of the flat parameter, shape (batch, size)."""
        rows = gradient.flatten(1)
        if self.index is None:
            return rows
        return rows.new_zeros(len(rows), self.size).index_add_(1, self.index, rows)


Use = MatrixUse | LookupUse | ProbeUse
