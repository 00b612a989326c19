"""Weight matrices of a network's linear maps and convolutions, and the inputs that they multiply.

Shapes: a layer's matrix is (rows, columns): output units, and inputs. A convolution has in * kh * kw columns,
        in the order of its own weight. Transformers' `Conv1D` stores the matrix transposed.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.curvature.sources import padded
from secateur.errors import InvalidArgumentError

__all__ = ["Layer", "find_layers"]


@dataclass(frozen=True)
class Layer:
    """One weight matrix and the module that multiplies inputs by it.

    Attributes:
        name: Name of the weight parameter.
        module: A `Linear`, `Conv2d`, or Transformers' `Conv1D`.
        transposed: Whether the weight is stored (inputs, outputs).
    """

    name: str
    module: nn.Module
    transposed: bool

    @property
    def weight(self) -> Tensor:
        """The weight parameter."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    def matrix(self) -> Tensor:
        """Return a copy of the weight as a matrix, in single precision at least."""
        weight = self.weight.detach()
        return self.as_matrix(weight).to(torch.promote_types(weight.dtype, torch.float32), copy=True)

    def as_matrix(self, values: Tensor) -> Tensor:
        """Return values of the parameter in the shape of the matrix."""
        return values.T if self.transposed else values.flatten(1)

    def as_parameter(self, matrix: Tensor) -> Tensor:
        """Return values of the matrix in the shape of the parameter."""
        return matrix.T.contiguous() if self.transposed else matrix.reshape(self.weight.shape)

    def write(self, matrix: Tensor) -> None:
        """Set the weight to the values of a matrix."""
        with torch.no_grad():
            self.weight.copy_(self.as_parameter(matrix))

    def shares_input_with(self, other: "Layer") -> bool:
        """Return whether the same input tensor gives both layers the same input rows."""
        return not isinstance(self.module, nn.Conv2d) and not isinstance(other.module, nn.Conv2d)

    def input_rows(self, inputs: Tensor, attended: Tensor | None) -> Tensor:
        """Return what the matrix multiplies, a row for each datum and position.

        Args:
            inputs: What the module is called with.
            attended: False at padding tokens, shape (data, tokens), which are left out.
        """
        if isinstance(self.module, nn.Conv2d):
            module = self.module
            inputs = padded(inputs, module.kernel_size, module.dilation, module.padding)
            patches = F.unfold(inputs, module.kernel_size, module.dilation, 0, module.stride)
            return patches.transpose(1, 2).flatten(0, 1)
        if attended is not None and inputs.shape[:2] == attended.shape and inputs.dim() > 2:
            return inputs[attended].flatten(0, -2)
        rows = inputs.flatten(0, -2)
        if attended is not None and inputs.dim() == 2 and len(rows) == attended.numel():
            return rows[attended.flatten()]
        return rows


def find_layers(model: nn.Module, weights: Sequence[str]) -> list[Layer]:
    """Return the layers of weight parameters, in the order given.

    Args:
        model: The network.
        weights: Names of weight parameters.

    Raises:
        InvalidArgumentError: If a name is missing or repeated, or its module is of another kind.
    """
    if not weights or len(set(weights)) != len(weights):
        raise InvalidArgumentError(f"weights: expected at least one name, each once, got {list(weights)}")
    parameters = dict(model.named_parameters())  # a tied weight has its first name alone
    layers = []
    for name in weights:
        if name not in parameters or not name.endswith("weight"):
            raise InvalidArgumentError(f"weights: expected names of weight parameters, got {name!r}")
        module = model.get_submodule(name.rpartition(".")[0])
        layers.append(Layer(name, module, _stored_transposed(name, module)))
    return layers


def _stored_transposed(name: str, module: nn.Module) -> bool:
    transformers = sys.modules.get("transformers.pytorch_utils")  # loaded wherever there is a Conv1D
    if transformers is not None and isinstance(module, transformers.Conv1D):
        return True
    plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
    if not plain and not isinstance(module, nn.Linear):
        raise InvalidArgumentError(
            f"weights: expected Linear, Conv1D or Conv2d (one group, padded by zeros), got {module} for "
            f"{name!r}; leave the name out"
        )
    return False
