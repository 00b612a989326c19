"""A Gaussian posterior from draws: NumPy arrays, tensors, and labelled draws as ArviZ keeps them.

Shapes: draws first, then the parameter; the fit has the parameter's shape, or its flattened covariance.

Reduction needs a posterior's mean and precision. From draws these are the sample mean and the inverse of the
sample (co)variance. Draws of a chain depend on each other, so the error of the moments, and of delta_f, is
that of the effective number of draws; with n parameters the inverse covariance is biased by about
n / (effective draws), so have at least a hundred times as many.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._linear_algebra import cholesky
from secateur.reduction._validation import require, require_finite
from secateur.shapes import Float

__all__ = ["DrawnGaussian", "from_draws"]

DRAW_DIMENSIONS = ("chain", "draw", "sample")
"""Names under which labelled draws keep chains and draws."""


@runtime_checkable
class LabelledArray(Protocol):
    """What we need of an xarray.DataArray."""

    @property
    def dims(self) -> tuple[Any, ...]:
        """Names of the axes."""
        ...

    @property
    def values(self) -> np.ndarray:
        """The numbers."""
        ...


@runtime_checkable
class LabelledArrays(Protocol):
    """What we need of an xarray.Dataset."""

    @property
    def data_vars(self) -> Mapping[Any, Any]:
        """Labelled arrays by name."""
        ...


@runtime_checkable
class InferenceGroups(Protocol):
    """What we need of ArviZ's inference data."""

    @property
    def posterior(self) -> Any:
        """The posterior's labelled arrays."""
        ...


@dataclass(frozen=True)
class DrawnGaussian:
    """A Gaussian with the moments of the draws, in float64.

    Attributes:
        mean: In the parameter's shape, or flattened to (n) with a covariance.
        precision: Inverse variances in the parameter's shape, or the inverse covariance (n, n).
        num_draws: Draws it was made from, over all chains.
    """

    mean: Float[Tensor, "*n"]
    precision: Float[Tensor, "..."]
    num_draws: int

    def __iter__(self) -> Iterator[Tensor]:
        """Unpack as `mean, precision`."""
        return iter((self.mean, self.precision))


def from_draws(
    draws: Any,
    *,
    variable: str | None = None,
    covariance: bool = False,
    num_draw_axes: int = 1,
) -> DrawnGaussian:
    """Fit a Gaussian to draws from a posterior.

    Args:
        draws: A tensor or anything NumPy reads as an array, draws first; an xarray.DataArray, whose chain and
            draw axes are found by name; or several variables by name: a dictionary, an xarray.Dataset, or
            ArviZ inference data, whose posterior is taken.
        variable: Which of several variables; may be left out if there is only one.
        covariance: Whether to keep the covariance between all entries of the parameter.
        num_draw_axes: For arrays without labels, leading axes that number draws: 2 for (chain, draw, ...).

    Returns:
        Mean and precision, ready for `delta_f`, or with a covariance for `dense_delta_f`.

    Raises:
        InvalidArgumentError: If the variable is not there, a draw is not finite, or there are too few draws
            or draws that do not vary.

    Warns:
        UserWarning: If an array without labels has so few draws of so many parameters that its axes are
            likely swapped.

    Example:
        >>> import numpy as np
        >>> mean, precision = from_draws(np.random.default_rng(0).normal(1.0, 0.1, (4000, 3)))
        >>> mean.shape, bool((precision - 100).abs().max() < 10)
        (torch.Size([3]), True)
    """
    values, num_draw_axes, labelled = _array(draws, variable, num_draw_axes)
    if not 0 < num_draw_axes <= values.dim():
        raise InvalidArgumentError(f"num_draw_axes must be 1 to {values.dim()}, got {num_draw_axes}")
    shape = values.shape[num_draw_axes:]
    require_finite("draws", values)
    flat = values.reshape(values.shape[:num_draw_axes].numel(), -1)
    num_draws, size = flat.shape
    needed = size + 2 if covariance else 2
    expected = f"draws are expected along the first {num_draw_axes} of the axes {tuple(values.shape)}"
    if num_draws < needed:
        raise InvalidArgumentError(
            f"draws must be at least {needed} for {size} parameters, got {num_draws}; {expected}"
        )
    if num_draws < min(100, size / 10) and not labelled:
        warnings.warn(
            f"draws: got {num_draws} of {size} parameters, which looks swapped; {expected}", stacklevel=2
        )
    mean = flat.mean(0)
    centred = flat - mean
    if covariance:
        factor = cholesky("draws", centred.mT @ centred / (num_draws - 1), "free of linear dependence")
        return DrawnGaussian(mean, torch.cholesky_inverse(factor), num_draws)
    variance = centred.square().sum(0) / (num_draws - 1)
    require("draws", variance.reshape(shape), variance.reshape(shape) > 0, "of positive variance")
    return DrawnGaussian(mean.reshape(shape), (1 / variance).reshape(shape), num_draws)


def _array(draws: Any, variable: str | None, num_draw_axes: int) -> tuple[Tensor, int, bool]:
    """The numbers with draw axes first, how many such axes there are, and whether they were found by name."""
    if isinstance(draws, Tensor):
        return draws.detach().to(torch.float64), num_draw_axes, False
    if isinstance(draws, InferenceGroups):
        return _array(draws.posterior, variable, num_draw_axes)
    if isinstance(draws, LabelledArrays):
        return _array(dict(draws.data_vars), variable, num_draw_axes)
    if isinstance(draws, Mapping):
        return _array(_chosen(draws, variable), None, num_draw_axes)
    if isinstance(draws, LabelledArray):
        first = [axis for axis, name in enumerate(draws.dims) if name in DRAW_DIMENSIONS]
        if not first:
            raise InvalidArgumentError(f"draws must have a dimension of {DRAW_DIMENSIONS}, got {draws.dims}")
        values = np.moveaxis(np.asarray(draws.values, dtype=np.float64), first, range(len(first)))
        return torch.from_numpy(np.array(values)), len(first), True
    return torch.from_numpy(np.array(draws, dtype=np.float64)), num_draw_axes, False


def _chosen(variables: Mapping[Any, Any], name: str | None) -> Any:
    """The variable of that name, or the only one.

    Raises:
        InvalidArgumentError: If there is no such one.
    """
    names = list(variables)
    if name is None and len(names) == 1:
        return variables[names[0]]
    if name not in variables:
        raise InvalidArgumentError(f"variable must be one of {names}, got {name!r}")
    return variables[name]
