"""What a block demands of its tensors. Valid ones cost one reduction each and no memory."""

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._validation import first_index

__all__ = ["require_fields", "require_positive"]


def require_fields(
    mean: Mapping[str, Tensor], prior_precision: Mapping[str, Tensor], keep: Mapping[str, Tensor]
) -> None:
    """Demand means, priors and masks that fit each other, and means and priors that are numbers.

    Args:
        mean: By parameter name.
        prior_precision: By parameter name; broadcasts to the mean.
        keep: By parameter name, of the mean's shape.

    Raises:
        InvalidArgumentError: Naming the first parameter that does not fit.
    """
    if prior_precision.keys() != mean.keys():
        differing = sorted(prior_precision.keys() ^ mean.keys())[0]
        raise InvalidArgumentError(
            f"prior_precision: expected the names of mean, got a difference at {differing!r}"
        )
    if unknown := keep.keys() - mean.keys():
        raise InvalidArgumentError(f"keep: expected names of mean, got {sorted(unknown)[0]!r}")
    for name, mask in keep.items():
        if mask.dtype != torch.bool:
            raise InvalidArgumentError(f"keep[{name!r}]: expected booleans, got {mask.dtype}")
        if mask.shape != mean[name].shape:
            got = tuple(mask.shape)
            raise InvalidArgumentError(f"keep[{name!r}]: expected shape {tuple(mean[name].shape)}, got {got}")
    for name, value in mean.items():
        _require_floats("mean", name, value)
        prior = prior_precision[name]
        try:
            broadcast = torch.broadcast_shapes(prior.shape, value.shape)
        except RuntimeError:
            broadcast = None
        if broadcast != value.shape:
            raise InvalidArgumentError(
                f"prior_precision[{name!r}]: expected a shape that broadcasts to {tuple(value.shape)}, "
                f"got {tuple(prior.shape)}"
            )
        if value.numel() and bool(value.detach().amax().isnan()):  # the maximum of a nan is nan
            _blame("mean", name, value, value == value, keep, "numbers")
        require_positive("prior_precision", name, prior, keep)


def require_positive(kind: str, name: str, value: Tensor, keep: Mapping[str, Tensor]) -> None:
    """Demand positive values where entries are in; infinity is a point estimate.

    Args:
        kind: The field's name.
        name: The parameter's name.
        value: Floating-point tensor that broadcasts to the parameter's shape.
        keep: Masks by parameter name.
    """
    _require_floats(kind, name, value)
    if value.numel() and not bool(value.detach().amin() > 0):  # as well where the minimum is nan
        _blame(kind, name, value, value > 0, keep, "positive values (inf for a point estimate)")


def _require_floats(kind: str, name: str, value: Tensor) -> None:
    if not value.is_floating_point():
        raise InvalidArgumentError(f"{kind}[{name!r}]: expected floating-point numbers, got {value.dtype}")
    if value.is_meta:
        raise InvalidArgumentError(
            f"{kind}[{name!r}]: expected values, got a tensor on meta; load the weights"
        )


def _blame(
    kind: str, name: str, value: Tensor, holds: Tensor, keep: Mapping[str, Tensor], expected: str
) -> None:
    """Raise for the first entry that offends and is in; what is out may have any value."""
    offends = ~holds
    if name in keep:
        offends = offends & keep[name]
    if bool(offends.any()):
        index = first_index(offends)
        got = value.detach().expand(offends.shape)[index].item()
        where = f" at index {index}" if index else ""
        raise InvalidArgumentError(f"{kind}[{name!r}]: expected {expected}, got {got:g}{where}")
