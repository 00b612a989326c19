"""What every reduction demands of its arguments, and how it says what is wrong.

A message names the argument, what was expected, what was got, and the first offending index. The checks
that look at values run only after a result came out that is not finite: on the way of valid numbers,
validation costs one reduction over the result.
"""

import math

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.shapes import Float

__all__ = [
    "Values",
    "broadcast_shape",
    "common_tensors",
    "first_index",
    "require",
    "require_finite",
    "require_last_axes",
    "require_positive",
    "require_positive_or_infinite",
]

Values = Float[Tensor, "..."] | float | int
"""A tensor of any shape or a plain number. Shapes among arguments are checked by hand, for the message."""


def common_tensors(**values: Tensor | float | int) -> dict[str, Tensor]:
    """Return the arguments as floating tensors of one dtype and device.

    Python numbers adapt to the tensors, and are float64 where there is none. Integers and half precision
    are raised to float32: evidence in half precision is noise.

    Args:
        values: Arguments by name.

    Returns:
        The same names with tensors.

    Raises:
        InvalidArgumentError: If an argument is complex, or the devices differ.
    """
    tensors = [(name, value) for name, value in values.items() if isinstance(value, Tensor)]
    dtype = torch.float32 if tensors else torch.float64
    shaped = [value.device for _, value in tensors if value.dim() > 0] + [v.device for _, v in tensors]
    device = shaped[0] if tensors else torch.device("cpu")
    for name, value in tensors:
        if value.is_complex():
            raise InvalidArgumentError(f"{name} must be real, got {value.dtype}")
        if value.dim() > 0 and value.device != device:
            raise InvalidArgumentError(f"{name} must be on {device} like the others, got {value.device}")
        dtype = torch.promote_types(dtype, value.dtype)
    return {name: torch.as_tensor(value, dtype=dtype, device=device) for name, value in values.items()}


def broadcast_shape(**shapes: torch.Size) -> torch.Size:
    """Return the shape all arguments broadcast to.

    Args:
        shapes: Shapes by argument name.

    Returns:
        The common shape.

    Raises:
        InvalidArgumentError: Naming the first argument that does not broadcast with those before it.
    """
    common = torch.Size()
    for name, shape in shapes.items():
        try:
            common = torch.broadcast_shapes(common, shape)
        except RuntimeError:
            raise InvalidArgumentError(
                f"{name} must have a shape that broadcasts with {tuple(common)}, got {tuple(shape)}"
            ) from None
    return common


def require_last_axes(name: str, value: Tensor, *sizes: int) -> None:
    """Demand the sizes of the last axes.

    Args:
        name: The argument's name.
        value: The argument.
        sizes: Expected sizes of its last axes.

    Raises:
        InvalidArgumentError: If they differ.
    """
    if value.dim() < len(sizes) or tuple(value.shape[value.dim() - len(sizes) :]) != sizes:
        expected = ", ".join(map(str, sizes))
        raise InvalidArgumentError(f"{name} must have shape (..., {expected}), got {tuple(value.shape)}")


def first_index(offends: Tensor) -> tuple[int, ...]:
    """Return the index of the first True in row-major order.

    Args:
        offends: Boolean tensor with at least one True.

    Returns:
        One integer per axis.
    """
    flat = int(offends.reshape(-1).to(torch.uint8).argmax())
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), offends.shape))


def require(
    name: str,
    value: Tensor,
    holds: Tensor,
    expected: str,
    error: type[InvalidArgumentError] = InvalidArgumentError,
) -> None:
    """Raise unless a condition holds in every entry.

    Args:
        name: The argument's name.
        value: The argument; broadcasts to the shape of `holds`.
        holds: Boolean; where it is False the value offends.
        expected: What the value must be, completing "name must be ...".
        error: The error to raise.

    Raises:
        InvalidArgumentError: Of the type given, with the first offending index.
    """
    if bool(holds.all()):
        return
    index = first_index(~holds)
    got = value.detach().expand(holds.shape)[index].item()
    where = f" at index {index}" if index else ""
    raise error(f"{name} must be {expected}, got {got:g}{where}")


def require_finite(name: str, value: Tensor) -> None:
    """Demand finite entries.

    Args:
        name: The argument's name.
        value: The argument.
    """
    require(name, value, value.isfinite(), "finite")


def require_positive(name: str, value: Tensor) -> None:
    """Demand positive and finite entries.

    Args:
        name: The argument's name.
        value: The argument.
    """
    require(name, value, (value > 0) & (value < math.inf), "positive and finite")


def require_positive_or_infinite(name: str, value: Tensor) -> None:
    """Demand positive entries; infinity is a point mass.

    Args:
        name: The argument's name.
        value: The argument.
    """
    require(name, value, value > 0, "positive (inf for a point mass)")
