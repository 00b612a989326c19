"""Posteriors of regression coefficients, and the evidence of dropping some: exact, or by Laplace's method.

Shapes: n data, d regressors, c outputs; p = 1 + d rows of coefficients, that of the intercept first.
        Coefficients are (p, c), a coefficient's place in a vector is row * c + output. Subsets are boolean
        (m, d), True where dropped: a regressor goes with all its outputs.
Theory: linear regression with unknown noise is Normal-Gamma, and dropping regressors exact
        (`reduction.normal_gamma`). Elsewhere the posterior is a Gaussian at the mode whose precision is the
        Hessian there, Σ_i x_i x_i^T ⊗ B_i B_i^T + prior with B the likelihood's Hessian root; for these
        likelihoods, all with canonical links, that is the exact Hessian. Dropping is then exact for the
        Gaussian (`reduction.dense`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Likelihood
from secateur.reduction import (
    NormalGamma,
    dense_delta_f,
    dense_reduced_posterior,
    normal_gamma_delta_f,
    normal_gamma_reduced_posterior,
    regression_posterior,
)

__all__ = ["LaplaceModel", "LinearModel", "RegressionModel"]

INTERCEPT_PRECISION = 1e-4  # next to none: nothing is to pull predictions towards 0
NOISE_PRIOR = 0.5  # shape and rate: as much as one datum says, of noise as large as the targets' spread
MODELS_AT_ONCE = 2048
MOST_STEPS = 200
TOLERANCE = 1e-10  # of Newton's decrement, in nats


@dataclass(frozen=True, eq=False)
class RegressionModel(ABC):
    """The posterior of the coefficients of standardised regressors.

    Attributes:
        num_regressors: d.
        num_outputs: c.
        mean: Posterior mean, shape (p, c).
        covariance: Posterior covariance of the coefficients as a vector, shape (p c, p c).
    """

    num_regressors: int
    num_outputs: int
    mean: Tensor
    covariance: Tensor

    @abstractmethod
    def mean_without(self, removed: Tensor) -> Tensor:
        """Return the posterior mean without some regressors, 0 for those, shape (p, c).

        Args:
            removed: Which are dropped, shape (d).
        """

    @abstractmethod
    def gaussian(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, precision and prior precision of a Gaussian, from which subsets are looked for."""

    @abstractmethod
    def _delta_f(self, pinned: Tensor) -> Tensor:
        """Return the evidence of subsets, given as coefficients that are pinned to 0, shape (m, p c)."""

    @final
    def delta_f(self, removed: Tensor) -> Tensor:
        """Return the log evidence of dropping each subset, in nats, shape (m).

        Args:
            removed: Which regressors each subset lacks, shape (m, d).
        """
        pinned = self._pinned(removed)
        return torch.cat([self._delta_f(some) for some in pinned.split(MODELS_AT_ONCE)])

    def _pinned(self, removed: Tensor) -> Tensor:
        """Return which coefficients go with regressors; the intercept never does."""
        stays = torch.zeros(*removed.shape[:-1], 1, dtype=torch.bool)
        return torch.cat([stays, removed], -1).repeat_interleave(self.num_outputs, -1)


@final
@dataclass(frozen=True, eq=False)
class LinearModel(RegressionModel):
    """Linear regression with unknown noise, exact.

    Attributes:
        prior: Prior of coefficients and noise precision.
        posterior: Their posterior.
    """

    prior: NormalGamma
    posterior: NormalGamma

    @classmethod
    def fit(cls, design: Tensor, targets: Tensor, prior_precision: float) -> "LinearModel":
        """Return the posterior under the data.

        Args:
            design: A column of ones and the standardised regressors, shape (n, p).
            targets: Standardised targets, shape (n).
            prior_precision: Inverse variance of a coefficient, in units of the noise precision.
        """
        noise = torch.tensor(NOISE_PRIOR, dtype=design.dtype)
        diagonal = _prior_diagonal(design.shape[1], 1, prior_precision)
        prior = NormalGamma(torch.zeros_like(diagonal), diagonal.diag(), noise, noise)
        posterior = regression_posterior(design, targets, prior=prior)
        # a Student-t of 2 a degrees of freedom has this covariance
        variance = posterior.rate / (posterior.concentration - 1)
        covariance = variance * torch.linalg.inv(posterior.precision)
        return cls(design.shape[1] - 1, 1, posterior.mean[:, None], covariance, prior, posterior)

    def mean_without(self, removed: Tensor) -> Tensor:
        """Return the posterior mean without some regressors; see `RegressionModel.mean_without`."""
        reduced = self._reduced(self._pinned(removed))
        found = normal_gamma_reduced_posterior(self.posterior, prior=self.prior, reduced=reduced)
        return found.mean[:, None]

    def gaussian(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the posterior at the expected noise precision; see `RegressionModel.gaussian`."""
        noise = self.posterior.concentration / self.posterior.rate
        return self.posterior.mean, noise * self.posterior.precision, noise * self.prior.precision

    def _delta_f(self, pinned: Tensor) -> Tensor:
        return normal_gamma_delta_f(self.posterior, prior=self.prior, reduced=self._reduced(pinned))

    def _reduced(self, pinned: Tensor) -> NormalGamma:
        batch = pinned.shape[:-1]
        noise = self.prior.concentration.expand(batch)
        return NormalGamma(
            torch.zeros(pinned.shape, dtype=noise.dtype), _pins(self.prior.precision, pinned), noise, noise
        )


@final
@dataclass(frozen=True, eq=False)
class LaplaceModel(RegressionModel):
    """Regression of classes or counts, by Laplace's method.

    Attributes:
        precision: Posterior precision, shape (p c, p c).
        prior_precision: Prior precision, likewise.
    """

    precision: Tensor
    prior_precision: Tensor

    @classmethod
    def fit(
        cls, design: Tensor, targets: Tensor, likelihood: Likelihood, num_outputs: int, prior_precision: float
    ) -> "LaplaceModel":
        """Return the Gaussian about the posterior mode, found by Newton's method.

        Args:
            design: A column of ones and the standardised regressors, shape (n, p).
            targets: As the likelihood takes them.
            likelihood: Of the targets.
            num_outputs: c.
            prior_precision: Inverse variance of a coefficient.

        Raises:
            InvalidArgumentError: If the mode is not found.
        """
        prior = _prior_diagonal(design.shape[1], num_outputs, prior_precision)

        def loss(weights: Tensor) -> Tensor:
            outputs = design @ weights.view(-1, num_outputs)
            return likelihood.loss(outputs, targets).sum() + 0.5 * (prior * weights.square()).sum()

        def hessian(weights: Tensor) -> Tensor:
            root = likelihood.root(design @ weights.view(-1, num_outputs))
            curvature = torch.einsum("ni,nj,nkl->ikjl", design, design, root @ root.mT)
            return curvature.reshape(len(weights), len(weights)) + prior.diag()

        weights = torch.zeros_like(prior)
        for _ in range(MOST_STEPS):
            at = weights.clone().requires_grad_()
            value = loss(at)
            (gradient,) = torch.autograd.grad(value, at)
            step = torch.linalg.solve(hessian(weights), gradient)
            decrement, size = float(gradient @ step), 1.0
            if decrement < TOLERANCE:
                break
            # a full step may overshoot far from the mode
            while not loss(weights - size * step) <= value.detach() - 0.1 * size * decrement and size > 1e-8:
                size /= 2
            weights = weights - size * step
        else:
            raise InvalidArgumentError(
                f"prior_precision: expected one under which coefficients settle, got {prior_precision:g}; "
                "take a larger one, or look for huge values among the regressors"
            )
        precision = hessian(weights)
        precision = 0.5 * (precision + precision.mT)
        mean = weights.view(-1, num_outputs)
        return cls(
            design.shape[1] - 1, num_outputs, mean, torch.linalg.inv(precision), precision, prior.diag()
        )

    def mean_without(self, removed: Tensor) -> Tensor:
        """Return the posterior mean without some regressors; see `RegressionModel.mean_without`."""
        mean, _ = dense_reduced_posterior(
            self.mean.flatten(),
            self.precision,
            prior_precision=self.prior_precision,
            reduced_precision=_pins(self.prior_precision, self._pinned(removed)),
        )
        return mean.view_as(self.mean)

    def gaussian(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the posterior; see `RegressionModel.gaussian`."""
        return self.mean.flatten(), self.precision, self.prior_precision

    def _delta_f(self, pinned: Tensor) -> Tensor:
        return dense_delta_f(
            self.mean.flatten(),
            self.precision,
            prior_precision=self.prior_precision,
            reduced_precision=_pins(self.prior_precision, pinned),
        )


def _prior_diagonal(num_rows: int, num_outputs: int, precision: float) -> Tensor:
    diagonal = torch.full((num_rows, num_outputs), precision, dtype=torch.float64)
    diagonal[0] = INTERCEPT_PRECISION
    return diagonal.flatten()


def _pins(precision: Tensor, pinned: Tensor) -> Tensor:
    """Return a prior precision with `inf` on the diagonal where a coefficient is pinned."""
    return torch.where(torch.diag_embed(pinned), torch.inf, precision)
