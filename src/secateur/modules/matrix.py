"""The parameters of one layer as one matrix: a row for each output unit, the bias as the last column.

Shapes: weights are (out, in), (out, in, k, ...) or, where the layer keeps them transposed, (in, out) and
        (in, out, k, ...). The matrix is (rows, columns), rows = out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from secateur.errors import InvalidArgumentError

__all__ = ["LayerMatrix"]


@dataclass(frozen=True)
class LayerMatrix:
    """How the parameters of a layer are laid out as one matrix.

    Attributes:
        shapes: Shape of each parameter by name, in the order of their columns: parameters of two or more
            dimensions first, then vectors.
        rows: Output units.
        transposed: Whether weights keep their outputs in the second axis, as Transformers' `Conv1D` and
            torch's transposed convolutions do.

    Example:
        >>> import torch
        >>> layout = LayerMatrix.of(["fc.weight", "fc.bias"], [(2, 3), (2,)])
        >>> layout.pack({"fc.weight": torch.zeros(2, 3), "fc.bias": torch.ones(2)})
        tensor([[0., 0., 0., 1.],
                [0., 0., 0., 1.]])
    """

    shapes: dict[str, tuple[int, ...]]
    rows: int
    transposed: bool = False

    @classmethod
    def of(
        cls, names: Sequence[str], shapes: Sequence[Sequence[int]], *, transposed: bool = False
    ) -> "LayerMatrix":
        """Lay out parameters that have an axis of output units in common.

        Args:
            names: Parameter names.
            shapes: Their shapes.
            transposed: Whether weights keep their outputs in the second axis.

        Raises:
            InvalidArgumentError: If there is no parameter, or they have different numbers of output units.
        """
        if not names:
            raise InvalidArgumentError("names: expected at least one parameter of the layer, got none")
        found = {name: tuple(shape) for name, shape in zip(names, shapes, strict=True)}
        found = dict(sorted(found.items(), key=lambda item: len(item[1]) < 2))
        units = {name: _units(shape, transposed) for name, shape in found.items()}
        if len(set(units.values())) > 1:
            listed = ", ".join(f"{name} has {count}" for name, count in units.items())
            raise InvalidArgumentError(
                f"shapes: expected parameters with the same output units, got: {listed}; exclude one"
            )
        return cls(found, next(iter(units.values())), transposed)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each parameter by name."""
        return {
            name: math.prod(shape) // self.rows if self.rows else 0 for name, shape in self.shapes.items()
        }

    @property
    def columns(self) -> int:
        """Columns of the matrix."""
        return sum(self.widths.values())

    def pack(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> Shaped[Tensor, "rows columns"]:
        """Return the matrix of parameter-shaped tensors of one dtype: weights, masks, labels.

        Args:
            tensors: One tensor for each parameter, by name.

        Raises:
            InvalidArgumentError: If a tensor is missing or has another shape.
        """
        parts = []
        for name, shape in self.shapes.items():
            if name not in tensors or tuple(tensors[name].shape) != shape:
                got = tuple(tensors[name].shape) if name in tensors else "none"
                raise InvalidArgumentError(f"tensors[{name!r}]: expected shape {shape}, got {got}")
            tensor = tensors[name]
            if self.transposed and len(shape) > 1:
                tensor = tensor.transpose(0, 1)
            parts.append(tensor.reshape(self.rows, -1) if tensor.numel() else tensor.reshape(self.rows, 0))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def unpack(self, matrix: Shaped[Tensor, "rows columns"]) -> dict[str, Shaped[Tensor, "..."]]:
        """Return the parameter-shaped parts of a matrix, by name; views where memory allows.

        Args:
            matrix: One value for each entry of the layer.

        Raises:
            InvalidArgumentError: If the matrix has another shape.
        """
        if tuple(matrix.shape) != (self.rows, self.columns):
            raise InvalidArgumentError(
                f"matrix: expected shape {(self.rows, self.columns)}, got {tuple(matrix.shape)}"
            )
        parts = matrix.split(list(self.widths.values()), 1)
        found = {}
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            if self.transposed and len(shape) > 1:
                found[name] = part.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)
            else:
                found[name] = part.reshape(shape)
        return found


def _units(shape: tuple[int, ...], transposed: bool) -> int:
    if not shape:
        return 1
    return shape[1] if transposed and len(shape) > 1 else shape[0]
