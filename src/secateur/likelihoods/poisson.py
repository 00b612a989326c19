"""Counts: one log rate per output."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur import metrics
from secateur.errors import InvalidArgumentError
from secateur.likelihoods.base import Likelihood, check_outputs, check_same_shape, paired, widened
from secateur.likelihoods.samples import mixed, stacked

__all__ = ["Poisson"]


@dataclass(frozen=True)
class Poisson(Likelihood):
    """Counts whose log rates are the outputs, summed over the counts of a datum.

    The outputs are log rates, shape (n,), (n, 1) or (n, counts). The targets are whole numbers from 0, one
    for each output. A prediction holds the log rates of the posterior samples in its last axis.

    Attributes:
        scale: Rate that an output of 0 stands for: rates are scale * exp(output). A network that begins near
            0 then begins at the scale, for which the mean count is a good choice.
    """

    scale: float = 1.0

    name: ClassVar[str] = "poisson"
    link: ClassVar[str] = "exp"

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise InvalidArgumentError(f"scale: expected a positive finite number, got {self.scale}")

    def describe(self) -> dict[str, Any]:
        """Return the name and the parameters as JSON values; the scale only where it is given."""
        return {"name": self.name} if self.scale == 1 else super().describe()

    def target_units(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the log of the scale, and 1: an output plus that log is a log rate."""
        return (math.log(self.scale),), (1.0,)

    def _log_rates(self, outputs: Tensor) -> Tensor:
        return outputs if self.scale == 1 else outputs + math.log(self.scale)

    def check(self, outputs: Tensor, targets: Tensor | None = None) -> None:
        """Refuse rates that overflow, and targets that are not counts; see `Likelihood.check`.

        Args:
            outputs: Log rates.
            targets: A count for each output; None checks the log rates alone.

        Raises:
            InvalidArgumentError: If shapes, kinds or values do not fit; the message says what to do.
        """
        check_outputs(outputs)
        if not self._log_rates(widened(outputs)).exp().isfinite().all():
            raise InvalidArgumentError(
                f"outputs: expected log rates whose exponential is finite, got up to "
                f"{outputs.max().item():g}; return the logarithm of the rate"
            )
        if targets is None:
            return
        check_same_shape(outputs, targets)
        if targets.is_complex() or not targets.isfinite().all() or (targets != targets.floor()).any():
            raise InvalidArgumentError(
                f"targets: expected whole numbers, got others as {targets.dtype}; "
                'use likelihood="gaussian" for real targets'
            )
        if (targets < 0).any():
            raise InvalidArgumentError(
                f"targets: expected counts from 0, got {targets.min().item():g}; "
                'use likelihood="gaussian" for targets that may be negative'
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute rate - count * log rate + ln count! of each datum, summed over its counts, shape (*d).

        Args:
            outputs: Log rates, shape (*d, counts).
            targets: A count for each output.

        Raises:
            InvalidArgumentError: If the shapes do not fit each other.
        """
        log_rates, counts = paired(outputs, targets)
        return _loss(self._log_rates(log_rates), counts).sum(-1)

    def root(self, outputs: Tensor) -> Tensor:
        """Return diag(sqrt(rate)), the root of the Hessian.

        Args:
            outputs: Log rates, shape (*d, counts).

        Returns:
            B, shape (*d, counts, counts).
        """
        return (0.5 * self._log_rates(widened(outputs))).exp().diag_embed().to(outputs.dtype)

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a count for each output.

        Args:
            outputs: Log rates, shape (*d, counts).
            generator: Source of randomness, on the outputs' device.

        Returns:
            Whole numbers as floats, in the outputs' shape.
        """
        return torch.poisson(self._log_rates(widened(outputs.detach())).exp(), generator=generator)

    def mean(self, outputs: Tensor) -> Tensor:
        """Compute the rates.

        Args:
            outputs: Log rates, shape (*d, counts).
        """
        return self._log_rates(outputs).exp()

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the log rates with an axis for posterior samples.

        Args:
            outputs: Log rates, shape (n,) or (*d, counts).

        Returns:
            Log rates, shape (*d, counts, 1).
        """
        return stacked(self._log_rates(outputs))

    def average(self, predictions: Iterable[Tensor]) -> Tensor:
        """Collect the log rates of posterior samples, whose mixture is the prediction.

        Args:
            predictions: Log rates of each sample, shape (*d, counts, 1).

        Returns:
            Log rates, shape (*d, counts, s).
        """
        return mixed(predictions)

    def expectation(self, prediction: Tensor) -> Tensor:
        """Average the rates over posterior samples.

        Args:
            prediction: Log rates, shape (*d, counts, s).
        """
        return prediction.exp().mean(-1)

    def log_likelihood(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the log probability of each datum's counts under the mixture, shape (num_data,).

        Args:
            prediction: Log rates, shape (*d, counts, s).
            targets: A count for each output.
        """
        counts = targets.reshape(prediction.shape[:-1]).to(prediction.dtype).unsqueeze(-1)
        return metrics.mixture_log_density(-_loss(prediction, counts).sum(-2)).flatten()

    def prediction_scores(
        self, prediction: Tensor, targets: Tensor, *, sample_log_likelihoods: Tensor | None = None
    ) -> dict[str, float]:
        """Score rates: likelihoods per datum, deviance and root mean squared error per count.

        Args:
            prediction: Log rates, shape (*d, counts, s).
            targets: A count for each output.
            sample_log_likelihoods: `log_likelihood` of each posterior sample, shape (s, num_data).
        """
        each = self.log_likelihood(prediction, targets)
        rates = prediction.double().exp().mean(-1)
        counts = targets.reshape(rates.shape).double()
        return {
            "negative_log_likelihood": -each.double().mean().item(),
            "deviance": metrics.poisson_deviance(rates, counts),
            "root_mean_squared_error": metrics.root_mean_squared_error(rates, counts),
            "log_predictive_density": metrics.joint_log_density(
                each.unsqueeze(0) if sample_log_likelihoods is None else sample_log_likelihoods
            ),
        }


def _loss(log_rates: Tensor, counts: Tensor) -> Tensor:
    return log_rates.exp() - counts * log_rates + (counts + 1).lgamma()
