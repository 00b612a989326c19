"""Parameters that `fully_shard` has divided over processes: a rank keeps rows of them, and of the state."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.modules import is_sharded
from secateur.modules.shards import placed_like, whole

__all__ = ["Shards"]


class Shards:
    """Where this rank's entries lie in the vector of all of a block's parameters.

    Args:
        names: Of the parameters.
        parameters: `DTensor`s, or whole ones that every rank has.

    Raises:
        InvalidArgumentError: If a parameter is divided otherwise than by rows.
    """

    def __init__(self, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.names = tuple(names)
        self.num_weights = 0
        self.spans: list[tuple[int, int]] = []
        for name, parameter in zip(names, parameters, strict=True):
            first, own = self.num_weights, self.local(parameter)
            if own.shape[1:] != parameter.shape[1:]:
                raise InvalidArgumentError(
                    f"{name}: expected a parameter in shards of rows, got one of shape {tuple(own.shape)} of "
                    f"{tuple(parameter.shape)}; call fully_shard without shard_placement_fn"
                )
            if is_sharded(parameter):
                from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

                _, offsets = compute_local_shape_and_global_offset(
                    parameter.shape,
                    parameter.device_mesh,  # type: ignore[attr-defined]
                    parameter.placements,  # type: ignore[attr-defined]
                )
                if offsets and own.numel():
                    first += offsets[0] * (parameter.numel() // parameter.shape[0])
            self.spans.append((first, first + own.numel()))
            self.num_weights += parameter.numel()

    @classmethod
    def of(cls, names: Sequence[str], parameters: Sequence[Tensor]) -> "Shards | None":
        """Return the shards of parameters, None where all are whole.

        Args:
            names: Of the parameters.
            parameters: The parameters.
        """
        return cls(names, parameters) if any(map(is_sharded, parameters)) else None

    @staticmethod
    def local(tensor: Tensor) -> Tensor:
        """Return this rank's rows of a tensor, in the same memory.

        Args:
            tensor: A `DTensor`, or a whole tensor.
        """
        own: Tensor = tensor.detach()
        return own.to_local() if is_sharded(own) else own  # type: ignore[attr-defined]

    def own(self, whole: Float[Tensor, " all"]) -> Float[Tensor, " n"]:
        """Return this rank's entries of a vector for all of the parameters.

        Args:
            whole: The same on every rank.
        """
        return torch.cat([whole[first:last] for first, last in self.spans])

    def signs(self, words: Int[Tensor, " words"], dtype: torch.dtype) -> Float[Tensor, " n"]:
        """Return this rank's signs of those in the bits of integers, 64 in each.

        Args:
            words: For all of the parameters, the same on every rank.
            dtype: Of the signs.
        """
        shifts = torch.arange(64, device=words.device)
        pieces = []
        for first, last in self.spans:
            bits = (words[first // 64 : -(-last // 64), None] >> shifts) & 1
            pieces.append(bits.reshape(-1)[first % 64 : first % 64 + last - first].to(dtype) * 2 - 1)
        return torch.cat(pieces)

    def divided(self, flat: Float[Tensor, " n"]) -> dict[str, Tensor]:
        """Return this rank's vector as tensors that are divided like the parameters, by name.

        Args:
            flat: This rank's entries.
        """
        found = {}
        pieces = flat.split([last - first for first, last in self.spans])
        for name, parameter, piece in zip(self.names, self.parameters, pieces, strict=True):
            local = piece.view(self.local(parameter).shape)
            if is_sharded(parameter):
                from torch.distributed.tensor import DTensor

                local = DTensor.from_local(
                    local.contiguous(),
                    parameter.device_mesh,  # type: ignore[attr-defined]
                    parameter.placements,  # type: ignore[attr-defined]
                    shape=parameter.shape,
                    stride=parameter.stride(),
                )
            found[name] = local
        return found

    def whole(self, flat: Float[Tensor, " n"]) -> dict[str, Tensor]:
        """Return the vectors of all ranks as whole tensors, by name, on every rank.

        Args:
            flat: This rank's entries.
        """
        return {name: whole(each) for name, each in self.divided(flat).items()}

    def flat(self, saved: Any) -> Float[Tensor, " n"]:
        """Return this rank's entries of what was saved, by whatever number of ranks.

        Args:
            saved: A vector for all of the parameters, or tensors by name, whole or divided.
        """
        if not isinstance(saved, Mapping):
            return self.own(saved)
        parameters = zip(self.names, self.parameters, strict=True)
        placed = [self.local(placed_like(parameter, saved[name])) for name, parameter in parameters]
        return torch.cat([each.reshape(-1) for each in placed])
