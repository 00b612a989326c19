"""Which parameter a tensor is, is a view of, or was looked up from; and where its entries are in it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Sources", "expanded", "padded", "slice_of", "tensors_among"]


class Sources:
    """The parameters behind the tensors of a forward pass.

    Args:
        parameters: The parameters to follow, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._derived: dict[int, tuple[Tensor, str, Tensor]] = {}

    def name(self, value: Any) -> str | None:
        """Return the name of the parameter that a tensor is, is a view of, or was looked up from.

        Args:
            value: Anything; what is no tensor has no parameter.
        """
        if not isinstance(value, Tensor):
            return None
        for tensor in (value, value._base):
            if tensor is not None:
                if (name := self._names.get(id(tensor))) is not None:
                    return name
                if (derived := self._derived.get(id(tensor))) is not None:
                    return derived[1]
        return None

    def whole(self, value: Any) -> str | None:
        """Return the name of the parameter that a tensor is, not of one that it is a view of.

        Args:
            value: Anything.
        """
        return self._names.get(id(value)) if isinstance(value, Tensor) else None

    def looked_up(self, value: Tensor, name: str, index: Tensor) -> None:
        """Note that a tensor was looked up in a parameter, the same for all data.

        Args:
            value: The tensor.
            name: The parameter.
            index: Position in the flat parameter of each entry of the tensor.
        """
        self._derived[id(value)] = (value, name, index)

    def is_looked_up(self, value: Tensor) -> bool:
        """Return whether a tensor was noted by `looked_up`.

        Args:
            value: The tensor.
        """
        return id(value) in self._derived

    def forget(self) -> None:
        """Let go of the tensors that were noted."""
        self._derived.clear()

    def index(self, value: Tensor) -> Tensor | None:
        """Return the position in the flat parameter of every entry of a tensor; None where it is unknown.

        Args:
            value: A tensor with a name.
        """
        base = value if value._base is None or id(value) in self._derived else value._base
        if (derived := self._derived.get(id(base))) is not None:
            index, start = derived[2].contiguous(), derived[0].storage_offset()
        else:
            index, start = torch.arange(base.numel(), device=base.device), base.storage_offset()
        if not base.is_contiguous():
            return None
        return index.flatten().as_strided(value.size(), value.stride(), value.storage_offset() - start)


def tensors_among(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors among the arguments of a call, those in lists and tuples too.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
    """
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += [each for each in value if isinstance(each, Tensor)]
    return found


def slice_of(view: Tensor, parameter: Tensor) -> tuple[int, bool] | None:
    """Return the first row and whether it is transposed, where a view is some rows of a matrix.

    Args:
        view: A view of the parameter, or itself.
        parameter: The parameter.
    """
    if view.dim() != 2 or parameter.dim() != 2 or not parameter.is_contiguous():
        return None
    width = parameter.shape[1]
    first, rest = divmod(int(view.storage_offset() - parameter.storage_offset()), max(width, 1))
    if rest:
        return None
    if view.shape[1] == width and (view.stride() == parameter.stride() or len(view) == 1):
        return first, False
    if view.shape[0] == width and view.stride() == parameter.stride()[::-1]:
        return first, True
    return None


def expanded(values: tuple[int, ...], dims: int) -> tuple[int, ...]:
    """Return one number a dimension, where one may stand for all.

    Args:
        values: One number, or one a dimension.
        dims: Number of dimensions.
    """
    return values * dims if len(values) == 1 else values


def padded(images: Tensor, kernel: tuple[int, ...], dilation: tuple[int, ...], padding: Any) -> Tensor:
    """Return images with zeros around them, as a convolution pads them.

    Args:
        images: Shape (n, channels, *space).
        kernel: Size of the kernel.
        dilation: One number a dimension, or one for all.
        padding: As a convolution takes it.
    """
    dims = len(kernel)
    if padding == "valid":
        return images
    if padding == "same":
        totals = [gap * (width - 1) for width, gap in zip(kernel, expanded(dilation, dims), strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        widths = (padding,) if isinstance(padding, int) else tuple(padding)
        sides = [(width, width) for width in expanded(widths, dims)]
    if not any(side for pair in sides for side in pair):
        return images
    return F.pad(images, [side for pair in reversed(sides) for side in pair])
