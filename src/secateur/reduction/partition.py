"""How a parameter's weights fall into groups: rows, columns, channels, heads, blocks and runs.

Shapes: a partition divides a parameter of any shape into groups of equal size, by cutting its axes; it holds
        no index per weight.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.shapes import Shaped

__all__ = ["Partition", "blocks", "channels", "columns", "heads", "rows", "runs"]


@dataclass(frozen=True)
class Partition:
    """How a parameter's entries fall into groups of equal size.

    Attributes:
        shape: The parameter's shape.
        split: Its axes, each cut into factors; the product is the same.
        group_axes: Which of the split axes number the groups; the others run within a group.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    group_axes: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The split axes, those that number the groups first."""
        inner = (axis for axis in range(len(self.split)) if axis not in self.group_axes)
        return (*self.group_axes, *inner)

    @property
    def groups(self) -> tuple[int, ...]:
        """Shape of one value per group."""
        return tuple(self.split[axis] for axis in self.group_axes)

    def gather(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Bring a parameter-shaped tensor into one row per group.

        Args:
            values: One value per entry of the parameter.

        Returns:
            Shape (*groups, size); a view where memory allows.

        Raises:
            InvalidArgumentError: If the shape is not the partition's.
        """
        if tuple(values.shape) != self.shape:
            raise InvalidArgumentError(f"values must have shape {self.shape}, got {tuple(values.shape)}")
        return values.reshape(self.split).permute(self.order).reshape(*self.groups, -1)

    def scatter(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Give every entry of the parameter its group's value, or its own of one row per group.

        Args:
            values: One value per group, shape `groups`, or one row per group, shape (*groups, size).

        Returns:
            A tensor of the parameter's shape.

        Raises:
            InvalidArgumentError: If the shape is neither.
        """
        size = math.prod(self.shape) // math.prod(self.groups)
        if tuple(values.shape) == self.groups:
            values = values.unsqueeze(-1).expand(*self.groups, size)
        elif tuple(values.shape) != (*self.groups, size):
            raise InvalidArgumentError(
                f"values must have shape {self.groups} or {(*self.groups, size)}, got {tuple(values.shape)}"
            )
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        permuted = values.reshape([self.split[axis] for axis in self.order])
        return permuted.permute(inverse).reshape(self.shape)


def channels(shape: tuple[int, ...], axis: int = 0) -> Partition:
    """Group by one axis: output channels (0) or input channels (1) of a convolution.

    Args:
        shape: The parameter's shape.
        axis: The axis that numbers the groups.

    Returns:
        One group per index of the axis.

    Raises:
        InvalidArgumentError: If there is no such axis.
    """
    shape = tuple(shape)
    if not -len(shape) <= axis < len(shape):
        raise InvalidArgumentError(f"axis must be below {len(shape)} for shape {shape}, got {axis}")
    return Partition(shape, shape, (axis % len(shape),))


def rows(shape: tuple[int, ...]) -> Partition:
    """Group by output unit: everything that feeds one neuron.

    Args:
        shape: The parameter's shape, outputs first.

    Returns:
        One group per row.
    """
    return channels(shape, 0)


def columns(shape: tuple[int, ...]) -> Partition:
    """Group by input unit: everything one neuron feeds.

    Args:
        shape: The parameter's shape, (outputs, inputs, ...).

    Returns:
        One group per column.
    """
    return channels(shape, 1)


def heads(shape: tuple[int, ...], num_heads: int, axis: int = 0) -> Partition:
    """Group by attention head: `num_heads` equal runs of one axis.

    Args:
        shape: The parameter's shape.
        num_heads: Heads.
        axis: 0 for the projections to query, key and value; 1 for the projection of the output.

    Returns:
        One group per head.

    Raises:
        InvalidArgumentError: If the heads do not divide the axis.
    """
    axis = channels(shape, axis).group_axes[0]
    _require_divides("num_heads", num_heads, shape[axis])
    split = (*shape[:axis], num_heads, shape[axis] // num_heads, *shape[axis + 1 :])
    return Partition(tuple(shape), split, (axis,))


def blocks(shape: tuple[int, ...], block: tuple[int, ...]) -> Partition:
    """Group into rectangular tiles.

    Args:
        shape: The parameter's shape.
        block: A tile's size along the first axes; further axes are whole within a tile.

    Returns:
        One group per tile.

    Raises:
        InvalidArgumentError: If a tile does not divide the shape.
    """
    if len(block) > len(shape):
        raise InvalidArgumentError(f"block must have at most {len(shape)} axes, got {len(block)}")
    split: list[int] = []
    for size, tile in zip(shape, block, strict=False):
        _require_divides("block", tile, size)
        split += [size // tile, tile]
    group_axes = tuple(range(0, 2 * len(block), 2))
    return Partition(tuple(shape), (*split, *shape[len(block) :]), group_axes)


def runs(shape: tuple[int, ...], length: int) -> Partition:
    """Group into runs along the last axis, as N:M sparsity does.

    Args:
        shape: The parameter's shape.
        length: M, weights per run.

    Returns:
        One group per run.

    Raises:
        InvalidArgumentError: If the length does not divide the last axis.
    """
    return blocks(shape, (*[1] * (len(shape) - 1), length))


def _require_divides(name: str, divisor: int, size: int) -> None:
    if divisor < 1 or size % divisor:
        raise InvalidArgumentError(f"{name} must divide {size}, got {divisor}")
