"""Refusals of weights and data that are not finite."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.curvature.batches import Batch
from secateur.errors import InvalidArgumentError

__all__ = ["require_finite_batch", "require_finite_weights"]


def require_finite_weights(weights: Mapping[str, Tensor]) -> None:
    """Demand weights that are in memory and finite.

    Args:
        weights: By parameter name.

    Raises:
        InvalidArgumentError: Naming the first parameter that is not.
    """
    for name, weight in weights.items():
        if weight.is_meta:
            raise InvalidArgumentError(f"{name}: expected weights in memory, got a tensor on meta; load them")
        if not bool(weight.detach().isfinite().all()):
            count = int((~weight.detach().isfinite()).sum())
            raise InvalidArgumentError(
                f"{name}: expected finite weights, got nan or infinity in {count} of {weight.numel()}; "
                "look where training diverged"
            )


def require_finite_batch(batch: Batch, place: str) -> None:
    """Demand inputs and targets without nan or infinity, but for masks given as numbers.

    Args:
        batch: The batch.
        place: Which batch, for the message.

    Raises:
        InvalidArgumentError: If there is one.
    """
    for kind, nest in (("inputs", batch.example), ("targets", batch.targets)):
        for leaf in pytree.tree_leaves(nest):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(torch.isnan(leaf).any()):
                raise InvalidArgumentError(
                    f"loader: expected finite {kind}, got nan in {place}; clean the data"
                )
