"""The parameters of one group, read and written as one vector, with the vectors an update keeps for them.

The parameters stay the model's own; nothing is aliased, so moving, wrapping or compiling the model does not
disturb them. A large block is worked on in parts, so that temporaries stay small.

Of parameters in shards a block has this rank's rows alone, in values and in state.

Shapes: `n` is the number of weights of all the parameters together, or of a part of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.inference.parts import PART_SIZE, UNDIVIDED, Part, parts_of, stretch
from secateur.inference.shards import Shards
from secateur.modules.masks import mask_of
from secateur.modules.shards import placed_like, whole

__all__ = ["Moments", "ParameterBlock", "Part", "adam_direction"]


class ParameterBlock:
    """Named parameters of one group that are treated alike.

    Args:
        names: Qualified names.
        parameters: The parameters, on one device, all float32 or all float64.
        group_index: Position of the parameter group the hyper-parameters come from.
        divided: Whether a large block has several parts.

    Raises:
        InvalidArgumentError: If dtypes or devices differ, or the dtype is another.
    """

    def __init__(
        self,
        names: Sequence[str],
        parameters: Sequence[nn.Parameter],
        *,
        group_index: int = 0,
        divided: bool = False,
    ) -> None:
        self.names = tuple(names)
        self._given: list[Tensor] = list(parameters)
        self.shards = Shards.of(names, parameters)
        self.group_index = group_index
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.num_weights = sum(self.sizes)
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        if len(kinds) > 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise InvalidArgumentError(
                f"parameters: expected one dtype and device per parameter group, got {found}; "
                "give each kind a group of its own"
            )
        ((self.dtype, self.device),) = kinds
        if self.dtype not in {torch.float32, torch.float64}:
            # A running average in half precision does not move, so its precision would mean nothing.
            raise InvalidArgumentError(
                f"parameters: expected float32 or float64, got {self.dtype}; keep the parameters in "
                "float32 and use torch.autocast"
            )
        in_one = self.num_weights <= UNDIVIDED or not divided or self.shards is not None
        self.parts = parts_of(self.sizes, max(self.num_weights, 1) if in_one else PART_SIZE)
        if not self.parts and self.shards is not None:  # other ranks have all rows
            self.parts = (Part(slice(0, 0), ()),)
        self.state: dict[str, Tensor] = {}  # tensors that affect the next step; all of them are saved
        self.layout: Any = None  # what a method knows about the layers in this vector
        self.drawn: dict[str, Tensor] = {}  # between a training draw and its step
        self.inner: Optimizer | None = None  # over vectors of `state`, where one is used
        self.means: Tensor | None = None  # while the parameters hold a draw
        # 1 where an entry stays, 0 where it is removed; None while all stay. Booleans where they save memory.
        self.keep: Tensor | None = None
        self._held: Tensor | None = None  # the same, of masks given to `hold` alone

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters, or this rank's rows of them."""
        return self._given if self.shards is None else [Shards.local(each) for each in self._given]

    @property
    def num_drawn(self) -> int:
        """Weights on all ranks together, for which noise is drawn."""
        return self.num_weights if self.shards is None else self.shards.num_weights

    # Values ----------------------------------------------------------------------------------------------

    @property
    def mean(self) -> Float[Tensor, " n"]:
        """The posterior means as one vector: the parameters' values, or those that return after a draw."""
        return self.read() if self.means is None else self.means

    def full(self, value: float) -> Float[Tensor, " n"]:
        """Return a vector of `value` on the parameters' device."""
        return torch.full((self.num_weights,), value, dtype=self.dtype, device=self.device)

    def read(self) -> Float[Tensor, " n"]:
        """Return the parameters' values, copied into one vector."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters])

    def mean_of(self, part: Part) -> Float[Tensor, " n"]:
        """Return a part of `mean`; it may share memory with a parameter."""
        if self.means is not None:
            return self.means[part.span]
        return self.gather([parameter.detach() for parameter in self.parameters], part)

    def gradients(self) -> list[Tensor]:
        """Return the parameters' gradients, dense; zero where there is none."""
        gradients = [
            torch.zeros_like(own) if given.grad is None else Shards.local(given.grad)
            for given, own in zip(self._given, self.parameters, strict=True)
        ]
        return [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]

    def gather(self, tensors: Sequence[Tensor], part: Part) -> Float[Tensor, " n"]:
        """Return a part of tensors that have the parameters' shapes, as a vector that may share memory."""
        if len(self.parts) == 1:
            return torch.cat([tensor.reshape(-1) for tensor in tensors])
        pieces = [stretch(tensors[index], first, last) for index, first, last in part.pieces]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    @torch.no_grad()
    def write(self, values: Float[Tensor, " n"], part: Part | None = None) -> None:
        """Copy a vector, or a part of one, into the parameters."""
        if part is None or len(self.parts) == 1:
            torch._foreach_copy_(self.parameters, self.split(values))
            return
        sizes = [last - first for _, first, last in part.pieces]
        for (index, first, last), piece in zip(part.pieces, values.split(sizes), strict=True):
            parameter = self.parameters[index]
            if parameter.is_contiguous():
                parameter.view(-1)[first:last].copy_(piece)
            else:  # rows that the piece lies in, whatever their layout in memory
                row = parameter[0].numel()
                rows = parameter[first // row : -(-last // row)]
                flat = rows.reshape(-1).clone()
                flat[first % row : first % row + last - first] = piece
                rows.copy_(flat.view(rows.shape))

    def split(self, flat: Tensor) -> list[Tensor]:
        """Return views of a vector in the parameters' shapes."""
        return [
            part.view(parameter.shape)
            for part, parameter in zip(flat.split(self.sizes), self.parameters, strict=True)
        ]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of a vector keyed by parameter name."""
        return dict(zip(self.names, self.split(flat), strict=True))

    def whole(self, flat: Tensor) -> dict[str, Tensor]:
        """Return a vector in the parameters' shapes, of all ranks where they are in shards."""
        return self.named(flat) if self.shards is None else self.shards.whole(flat)

    # Masks -----------------------------------------------------------------------------------------------

    def check_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Raise unless every mask has the shape of its parameter and no nan."""
        for name, parameter in zip(self.names, self._given, strict=True):
            if name in masks and masks[name].shape != parameter.shape:
                got = tuple(masks[name].shape)
                raise InvalidArgumentError(
                    f"masks[{name!r}]: expected shape {tuple(parameter.shape)}, got {got}"
                )
            if name in masks and masks[name].isnan().any():
                raise InvalidArgumentError(f"masks[{name!r}]: expected True where an entry stays, got nan")

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Intersect the entries that stay with `masks`, for good, and zero the others."""
        self._held = self._intersection(self._held, masks)
        if self._held is None:
            self._held = self._all()
        self.follow_model()

    def follow_model(self) -> None:
        """Keep what `hold` and the masks held in the model both keep, and zero the other entries."""
        found = {name: mask_of(each) for name, each in zip(self.names, self._given, strict=True)}
        held = {name: mask for name, mask in found.items() if mask is not None}
        self.keep = self._intersection(self._held, held)
        if self.keep is not None:
            for part in self.parts:
                self.write(self.gather(self.parameters, part) * self.keep[part.span], part)

    def kept(self, part: Part) -> Tensor | None:
        """Return a part of `keep`."""
        return None if self.keep is None else self.keep[part.span]

    def _all(self) -> Tensor:
        return self.full(1.0) if len(self.parts) == 1 else self.full(1.0).bool()

    def _intersection(self, held: Tensor | None, masks: Mapping[str, Tensor]) -> Tensor | None:
        if not any(name in masks for name in self.names):
            return held
        keep = self._all() if held is None else held.clone()
        for (name, view), given in zip(self.named(keep).items(), self._given, strict=True):
            if name in masks:
                stays = masks[name] != 0
                stays = stays if self.shards is None else Shards.local(placed_like(given, stays))
                view.mul_(stays.to(view))
        return keep

    # Complete state --------------------------------------------------------------------------------------

    def saved(self) -> dict[str, Any]:
        """Return copies of every tensor the next step depends on, besides the parameters.

        Vectors of parameters in shards are tensors in the same shards, by name.
        """
        held = {} if self.keep is None else {"keep": self.keep}
        found: dict[str, Any] = {key: tensor.clone() for key, tensor in (self.state | held).items()}
        if self.shards is None:
            return found
        return {
            key: self.shards.divided(tensor) if self._is_vector(tensor) else tensor
            for key, tensor in found.items()
        }

    def check(self, saved: Mapping[str, Any]) -> None:
        """Raise unless `saved` is what a block of these parameters and this method returned."""
        found = saved.keys() - {"keep"}
        if found != self.state.keys():
            raise ArtifactError(
                f"optimizer state: expected {sorted(self.state)}, got {sorted(found)}; it belongs to another "
                "method"
            )
        shapes = {name: tuple(given.shape) for name, given in zip(self.names, self._given, strict=True)}
        for key, value in saved.items():
            vector = key == "keep" or self._is_vector(self.state[key])
            expected: Any = (self.num_drawn,) if vector else tuple(self.state[key].shape)
            got: Any = None
            if not isinstance(value, Mapping):
                got = tuple(value.shape)
            elif vector:
                expected, got = shapes, {name: tuple(each.shape) for name, each in value.items()}
            if got != expected:
                raise ArtifactError(
                    f"optimizer state {key!r}: expected shape {expected}, got {got}; it belongs to another "
                    "network"
                )

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over tensors that `saved` returned, on this number of ranks or another."""
        for key, tensor in self.state.items():
            tensor.copy_(self._flat(saved[key]) if self._is_vector(tensor) else saved[key])
        self._held = (self._flat(saved["keep"]) != 0).to(self._all()) if "keep" in saved else None
        self.keep = self._held
        self.drawn = {}

    def _is_vector(self, tensor: Tensor) -> bool:
        return tensor.shape == (self.num_weights,)

    def _flat(self, saved: Any) -> Tensor:
        if self.shards is not None:
            return self.shards.flat(saved)
        if isinstance(saved, Mapping):
            return torch.cat([whole(saved[name]).reshape(-1) for name in self.names])
        found: Tensor = saved
        return found


class Moments(dict[str, Tensor]):
    """Adam's zero-initialised moments and step count for one block."""

    def __init__(self, block: ParameterBlock) -> None:
        super().__init__(
            step=torch.zeros((), dtype=torch.float32, device=block.device),
            first_moment=block.full(0.0),
            second_moment=block.full(0.0),
        )


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
