"""`secateur.regress`: regress targets on named regressors, and ask the evidence which of them matter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.data import Standardisation
from secateur.data.arrays import as_inputs
from secateur.data.examples import as_array
from secateur.data.targets import encode, guess_likelihood
from secateur.errors import DataError, InvalidArgumentError
from secateur.likelihoods import Gaussian, Likelihood, Poisson, resolve
from secateur.regression.models import LaplaceModel, LinearModel, RegressionModel
from secateur.regression.result import Regression
from secateur.regression.subsets import best_subsets

__all__ = ["regress"]


def regress(
    inputs: Any,
    targets: Any,
    *,
    likelihood: str | None = None,
    names: Sequence[str] | None = None,
    prior_precision: float = 1.0,
    log_odds: float = 0.0,
) -> Regression:
    """Regress targets on regressors: coefficients, evidence of dropping each, and the best subsets.

    Regressors (and real targets) are standardised inside, so that the prior means the same for each. The
    intercept has next to no prior and always stays. Linear regression with unknown noise is exact; logistic,
    multinomial and Poisson regression are Gaussians about the posterior mode.

    Args:
        inputs: Regressors, shape (n, regressors): a tensor, an array, or a data frame, whose columns name
            them.
        targets: Numbers, 0 and 1, classes, or counts, shape (n).
        likelihood: "gaussian", "bernoulli", "categorical" or "poisson"; None guesses it from the targets. Two
            classes are a logistic regression.
        names: Of the regressors; x1, x2, ... by default.
        prior_precision: Inverse variance of each coefficient of standardised regressors; of linear regression
            in units of the noise precision, where 1 is as much as one datum says.
        log_odds: Prior log odds of a regressor staying, in nats; 0 gives all subsets equal weight.

    Returns:
        Coefficients with standard errors in the data's own units, and the evidence; `str()` is a table.

    Raises:
        DataError: If a value is missing or a regressor never changes, or targets do not fit.
        InvalidArgumentError: If an argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> found = regress(x, 3 * x[:, 0] + 1, names=["dose", "noise"])
        >>> found.best.names
        ('dose',)
    """
    if not 0 < prior_precision < float("inf"):
        raise InvalidArgumentError(
            f"prior_precision: expected a positive finite number, got {prior_precision}"
        )
    if names is None and hasattr(inputs, "columns"):
        names = [str(name) for name in inputs.columns]
    values = as_inputs(inputs)
    if values.dtype.kind not in "fiub" or values.ndim != 2:
        raise DataError(
            f"inputs: expected numbers of shape (n, regressors), got {values.dtype} {values.shape}"
        )
    values = values.astype(np.float64)
    names = tuple(names) if names is not None else tuple(f"x{k}" for k in range(1, values.shape[1] + 1))
    _check(values, names)
    observed = as_array(targets)
    if observed.ndim == 2 and observed.shape[1] == 1:
        observed = observed[:, 0]
    if observed.ndim != 1 or len(observed) != len(values):
        raise DataError(f"targets: expected one for each of {len(values)} data, got shape {observed.shape}")
    kind = resolve(likelihood).name if likelihood is not None else guess_likelihood(observed)[0]
    encoded, _ = encode(observed, observed, kind, "targets")
    classes, labels, chosen = encoded.class_names, encoded.labels, encoded.likelihood
    if kind == "categorical" and len(classes) == 2:
        chosen, labels = resolve("bernoulli"), labels.double()
    inside = Standardisation.of(torch.from_numpy(values))
    mean, std = (torch.tensor(each, dtype=torch.float64) for each in (inside.mean, inside.std))
    ones = torch.ones(len(values), 1, dtype=torch.float64)
    design = torch.cat([ones, (torch.from_numpy(values) - mean) / std], 1)
    num_outputs = len(classes) if chosen.name == "categorical" else 1
    model = _fitted(design, labels, chosen, num_outputs, prior_precision)
    search = best_subsets(model, log_odds=log_odds)
    units = _Units(mean, std, *_output_units(chosen))
    # a softmax does not see what all classes share, which the prior alone would hold
    centre = torch.eye(num_outputs, dtype=torch.float64)
    centre = centre - 1 / num_outputs if num_outputs > 1 else centre
    spread = torch.kron(torch.eye(len(names) + 1, dtype=torch.float64), centre)
    intercept, coefficients = units.own(model.mean @ centre)
    intercept_error, errors = units.errors(spread @ model.covariance @ spread, num_outputs)
    best_intercept, best_coefficients = units.own(model.mean_without(search.best_removed) @ centre)
    return Regression(
        likelihood=_in_own_units(chosen),
        names=names,
        classes=classes,
        num_data=len(values),
        intercept=intercept,
        intercept_error=intercept_error,
        coefficients=coefficients,
        standard_errors=errors,
        delta_f=model.delta_f(torch.eye(len(names), dtype=torch.bool)),
        search=search,
        best_intercept=best_intercept,
        best_coefficients=best_coefficients,
    )


class _Units:
    """Coefficients of standardised regressors and targets as those of the data's own units."""

    def __init__(self, mean: Tensor, std: Tensor, location: float, scale: float) -> None:
        # own = transform @ standardised, for the intercept and each regressor
        self.transform = torch.diag(torch.cat([torch.ones(1, dtype=torch.float64), 1 / std]))
        self.transform[0, 1:] = -mean / std
        self.transform *= scale
        self.location = location

    def own(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return intercept, shape (outputs), and coefficients, shape (regressors, outputs)."""
        found = self.transform @ weights
        return found[0] + self.location, found[1:]

    def errors(self, covariance: Tensor, num_outputs: int) -> tuple[Tensor, Tensor]:
        """Return their standard deviations."""
        size = len(self.transform)
        blocks = covariance.view(size, num_outputs, size, num_outputs).diagonal(dim1=1, dim2=3)  # (p, p, c)
        variance = torch.einsum("ai,ijc,aj->ac", self.transform, blocks, self.transform)
        std = variance.clamp_min(0).sqrt()
        return std[0], std[1:]


def _fitted(
    design: Tensor, labels: Tensor, likelihood: Likelihood, num_outputs: int, prior_precision: float
) -> RegressionModel:
    if isinstance(likelihood, Gaussian):
        location, scale = _output_units(likelihood)
        return LinearModel.fit(design, (labels - location) / scale, prior_precision)
    targets = labels if num_outputs > 1 else labels[:, None]
    return LaplaceModel.fit(design, targets, likelihood, num_outputs, prior_precision)


def _output_units(likelihood: Likelihood) -> tuple[float, float]:
    """Return shift and factor that bring outputs into the targets' unit: log rates, for counts."""
    (shift, *_), (factor, *_) = likelihood.target_units()
    return shift, factor


def _in_own_units(likelihood: Likelihood) -> Likelihood:
    """Return the likelihood whose outputs are in the targets' unit."""
    if isinstance(likelihood, Gaussian):
        return Gaussian(noise="learned")
    return Poisson() if isinstance(likelihood, Poisson) else likelihood


def _check(values: np.ndarray, names: tuple[str, ...]) -> None:
    if len(names) != values.shape[1]:
        raise InvalidArgumentError(
            f"names: expected one for each of {values.shape[1]} regressors, got {len(names)}"
        )
    if len(values) < 3:
        raise DataError(f"inputs: expected at least 3 data, got {len(values)}")
    for name, column in zip(names, values.T, strict=True):
        if num_bad := int((~np.isfinite(column)).sum()):
            raise DataError(
                f"inputs: expected a number in every row of {name!r}, got {num_bad} that are not; fill them "
                "in, or leave these rows out"
            )
        if (column == column[0]).all():
            raise DataError(
                f"inputs: expected a regressor that changes, got {name!r} of {column[0]:g} in all rows; "
                "leave it out (the intercept is added inside)"
            )
