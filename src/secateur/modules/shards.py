"""Tensors that are divided over processes, as `fully_shard` divides parameters."""

import sys
from collections.abc import Mapping

from torch import Tensor

from secateur.errors import InvalidArgumentError

__all__ = ["is_sharded", "placed_like", "require_whole", "whole"]


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is divided over processes: a `DTensor`.

    Args:
        tensor: Any tensor.
    """
    sharding = sys.modules.get("torch.distributed.tensor")  # no DTensor without it; it takes long to import
    return sharding is not None and isinstance(tensor, sharding.DTensor)


def require_whole(parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters that are divided over processes.

    Args:
        parameters: By name.

    Raises:
        InvalidArgumentError: Naming the first that is.
    """
    for name, parameter in parameters.items():
        if is_sharded(parameter):
            raise InvalidArgumentError(
                f"{name}: expected a whole parameter, got one in shards; call this before fully_shard, or "
                "with a model that every rank has whole"
            )


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor whole, on every rank.

    Args:
        tensor: A `DTensor`, or any other, which is returned.
    """
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def placed_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor on a parameter's device, in shards over processes where the parameter is a `DTensor`.

    Args:
        parameter: Any parameter.
        tensor: Of the parameter's shape, the same in every process.
    """
    if is_sharded(parameter):
        if is_sharded(tensor):
            return tensor
        mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        sharding = sys.modules["torch.distributed.tensor"]
        result: Tensor = sharding.distribute_tensor(tensor, mesh, placements, src_data_rank=None)
        return result
    return tensor if tensor.device == parameter.device else tensor.to(parameter.device)
