"""Many parameters as one vector, so that an update is one fused pass and not a Python loop.

Shapes: `n` is the number of weights of all the parameters together.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError

__all__ = ["FlatParameters"]


class FlatParameters:
    """An ordered list of named parameters that is read and written as one vector.

    The parameters stay the model's own; nothing is aliased, so moving, wrapping or compiling the model
    does not disturb it.

    Args:
        names: Qualified names.
        parameters: The parameters, on one device, all float32 or all float64.

    Raises:
        InvalidArgumentError: If dtypes or devices differ, or the dtype is another.
    """

    def __init__(self, names: Sequence[str], parameters: Sequence[nn.Parameter]) -> None:
        self.names = tuple(names)
        self.parameters: list[Tensor] = list(parameters)
        self.sizes = [parameter.numel() for parameter in self.parameters]
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        if len(kinds) > 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise InvalidArgumentError(
                f"parameters: expected one dtype and device per parameter group, got {found}; "
                "give each kind a group of its own"
            )
        ((dtype, _),) = kinds
        if dtype not in {torch.float32, torch.float64}:
            # A running average in half precision does not move, so its precision would mean nothing.
            raise InvalidArgumentError(
                f"parameters: expected float32 or float64, got {dtype}; keep the parameters in float32 and "
                "use torch.autocast"
            )

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def num_weights(self) -> int:
        """Number of weights of all parameters together."""
        return sum(self.sizes)

    def full(self, value: float) -> Float[Tensor, " n"]:
        """Return a vector of `value` on the parameters' device."""
        first = self.parameters[0]
        return torch.full((self.num_weights,), value, dtype=first.dtype, device=first.device)

    def read(self) -> Float[Tensor, " n"]:
        """Return the parameters' values, copied into one vector."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters])

    def read_gradient(self) -> Float[Tensor, " n"]:
        """Return the parameters' gradients as one vector; zero where there is none."""
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.parameters
        ]
        return torch.cat([
            (gradient.to_dense() if gradient.is_sparse else gradient).reshape(-1) for gradient in gradients
        ])

    @torch.no_grad()
    def write(self, flat: Float[Tensor, " n"]) -> None:
        """Copy a vector into the parameters."""
        torch._foreach_copy_(self.parameters, self.split(flat))

    def split(self, flat: Tensor) -> list[Tensor]:
        """Return views of a vector in the parameters' shapes."""
        return [
            part.view(parameter.shape)
            for part, parameter in zip(flat.split(self.sizes), self.parameters, strict=True)
        ]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of a vector keyed by parameter name."""
        return dict(zip(self.names, self.split(flat), strict=True))
