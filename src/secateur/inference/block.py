"""The parameters of one group as one vector, with the vectors an update keeps for them."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.inference.flat import FlatParameters

__all__ = ["Block", "Moments", "adam_direction"]


def adam_direction(
    gradient: Float[Tensor, " n"],
    first: Float[Tensor, " n"],
    second: Float[Tensor, " n"],
    step: Float[Tensor, ""],
    betas: tuple[float, float],
    eps: float,
) -> Float[Tensor, " n"]:
    """Return Adam's update direction, moving the two running moments in place (arXiv:1412.6980, alg. 1).

    Args:
        gradient: Gradient of this step.
        first: Running mean of the gradient; moved.
        second: Running mean of its square; moved.
        step: Number of steps, this one included.
        betas: Decay rates of the two.
        eps: Offset of the denominator.
    """
    first.lerp_(gradient, 1 - betas[0])
    second.lerp_(gradient.square(), 1 - betas[1])
    corrected = first / (1 - betas[0] ** step)
    return corrected / ((second / (1 - betas[1] ** step)).sqrt() + eps)


class Block:
    """The parameters of one group that are treated alike.

    Args:
        flat: The parameters as one vector.
        state: Named tensors that affect the next step; all of them are saved.
        group_index: Position of the parameter group the hyper-parameters come from.
    """

    def __init__(self, flat: FlatParameters, state: dict[str, Tensor], group_index: int) -> None:
        self.flat = flat
        self.state = state
        self.group_index = group_index
        # 1 where an entry stays, 0 where it is removed; None while all stay
        self.keep: Tensor | None = None
        self.mean = flat.read()
        self.drawn: dict[str, Tensor] = {}  # between a training draw and its step
        # a torch optimizer over flat vectors of `state`, where one is used
        self.inner: Optimizer | None = None

    def check_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Raise unless every mask has the shape of its parameter."""
        for name, parameter in zip(self.flat.names, self.flat.parameters, strict=True):
            if name in masks and masks[name].shape != parameter.shape:
                got = tuple(masks[name].shape)
                raise InvalidArgumentError(
                    f"masks[{name!r}]: expected shape {tuple(parameter.shape)}, got {got}"
                )

    def hold(self, masks: Mapping[str, Tensor]) -> Float[Tensor, " n"]:
        """Intersect the entries that stay with `masks`, and return 1 where they do and 0 elsewhere."""
        keep = self.flat.full(1.0) if self.keep is None else self.keep.clone()
        for name, view in self.flat.named(keep).items():
            if name in masks:
                view.mul_((masks[name] != 0).to(view))
        self.keep = keep
        return keep

    def saved(self) -> dict[str, Tensor]:
        """Return copies of every tensor the next step depends on, besides the parameters."""
        held = {} if self.keep is None else {"keep": self.keep}
        return {key: tensor.clone() for key, tensor in (self.state | held).items()}

    def check(self, saved: Mapping[str, Any]) -> None:
        """Raise unless `saved` is what a block of these parameters and this method returned."""
        found = saved.keys() - {"keep"}
        if found != self.state.keys():
            raise ArtifactError(
                f"optimizer state: expected {sorted(self.state)}, got {sorted(found)}; it belongs to another "
                "method"
            )
        for key, tensor in saved.items():
            expected = self.mean.shape if key == "keep" else self.state[key].shape
            if tensor.shape != expected:
                raise ArtifactError(
                    f"optimizer state {key!r}: expected shape {tuple(expected)}, got "
                    f"{tuple(tensor.shape)}; it belongs to another network"
                )

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take over tensors that `saved` returned."""
        for key, tensor in self.state.items():
            tensor.copy_(saved[key])
        self.keep = saved["keep"].to(self.mean, copy=True) if "keep" in saved else None
        self.drawn = {}


class Moments(dict[str, Tensor]):
    """Adam's zero-initialised moments and step count for one block."""

    def __init__(self, flat: FlatParameters) -> None:
        super().__init__(
            step=torch.zeros((), dtype=torch.float32, device=flat.parameters[0].device),
            first_moment=flat.full(0.0),
            second_moment=flat.full(0.0),
        )
