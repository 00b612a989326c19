"""Real targets: one mean per output, a noise that is known or learned.

With learned noise the likelihood has a posterior of its own over the noise precision τ, q(τ) = Gamma(a, b),
which starts at the prior Gamma(2, 2). Residuals r (m of them) update it in closed form,

    a <- a + m / 2,    b <- b + sum r^2 / 2.

The loss is the expected one, E_q[-ln N(y; f, 1/τ)] = ½ ln 2π - ½ (ψ(a) - ln b) + ½ (a / b) r² per output, so
its Hessian is a / b. Predictions integrate τ out: a datum of c outputs has a multivariate Student-t density,

    ln p(y | f) = lnΓ(a + c/2) - lnΓ(a) - c/2 ln(2π b) - (a + c/2) ln(1 + sum r^2 / 2b).

Targets may have a unit of their own: with a location and a scale, r = (y - location) / scale - f, and every
density of y is divided by the scale. Networks, losses' gradients, noise and Hessian know standardised targets
alone, so no unit of y changes what is learned or removed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from secateur import metrics
from secateur.errors import InvalidArgumentError
from secateur.likelihoods.base import Likelihood, check_outputs, check_same_shape, paired, widened
from secateur.likelihoods.gamma import gamma_quantiles
from secateur.likelihoods.samples import mixed, stacked
from secateur.likelihoods.target_units import TargetUnits

__all__ = ["Gaussian"]

COVERAGES = (0.5, 0.9)
_STANDARD = (("location", 0.0), ("scale", 1.0))
LN_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Real targets with Gaussian noise around the outputs: squared-error loss.

    The outputs are means, shape (n,), (n, 1) or (n, values). The targets have one number for each output. All
    outputs share one noise. A prediction holds the means of the posterior samples in its last axis. Outputs,
    predictions and noise are those of standardised targets, (target - location) / scale. Losses, expected
    targets and scores are in the targets' own unit.

    Attributes:
        noise: Standard deviation of the noise, or "learned" for an unknown one.
        concentration: Shape of the Gamma distribution of a learned noise precision.
        rate: Inverse scale of that distribution.
        location: Target that an output of 0 stands for; a number, or one for each output.
        scale: How much of the target's unit an output of 1 stands for; a number, or one for each output.
    """

    noise: float | Literal["learned"] = 1.0
    concentration: float = 2.0
    rate: float = 2.0
    location: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

    name: ClassVar[str] = "gaussian"
    link: ClassVar[str] = "identity"

    def __post_init__(self) -> None:
        if isinstance(self.noise, str) and self.noise != "learned":
            raise InvalidArgumentError(
                f'noise: expected a standard deviation or "learned", got {self.noise!r}'
            )
        for name in ("concentration", "rate") if self.learned else ("noise", "concentration", "rate"):
            value = getattr(self, name)
            if not (0 < value < math.inf):
                raise InvalidArgumentError(f"{name}: expected a positive finite number, got {value}")
        self._units  # noqa: B018 (checks the numbers)

    @property
    def _units(self) -> TargetUnits:
        return TargetUnits(self.location, self.scale)

    def describe(self) -> dict[str, Any]:
        """Return the name and the parameters as JSON values; location and scale only where they are given."""
        known = super().describe()
        return {key: value for key, value in known.items() if (key, value) not in _STANDARD}

    def target_units(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return location and scale, one for each output, or one for all."""
        return self._units.per_output

    @property
    def learned(self) -> bool:
        """Whether the noise is unknown, with a posterior of its own."""
        return self.noise == "learned"

    @property
    def precision(self) -> float:
        """Expected inverse variance of the noise."""
        return self.concentration / self.rate if self.noise == "learned" else self.noise**-2

    def updated(self, outputs: Tensor, targets: Tensor) -> "Gaussian":
        """Return this likelihood after learning its noise from residuals; itself if the noise is known.

        Each call adds to what is already known. To refit the noise to a network that has moved, start again
        from `Gaussian(noise="learned")`.

        Args:
            outputs: Means, shape (*d, values).
            targets: A number for each output.

        Raises:
            InvalidArgumentError: If shapes do not fit, or a residual is not finite.
        """
        if not self.learned:
            return self
        check_same_shape(outputs, targets)
        means, values = paired(outputs.detach(), self._units.standardise(targets))
        squares = (values.double() - means.double()).square().sum().item()
        if not math.isfinite(squares):
            raise InvalidArgumentError(
                "outputs, targets: expected finite residuals, got nan or infinity; look at the data"
            )
        return replace(
            self,
            concentration=self.concentration + 0.5 * values.numel(),
            rate=self.rate + 0.5 * squares,
        )

    def check(self, outputs: Tensor, targets: Tensor | None = None) -> None:
        """Refuse targets that are not one finite number per output; see `Likelihood.check`.

        Args:
            outputs: Means.
            targets: A number for each output; None checks the means alone.

        Raises:
            InvalidArgumentError: If shapes, kinds or values do not fit; the message says what to do.
        """
        check_outputs(outputs)
        self._units.check(outputs.shape[-1] if outputs.dim() > 1 else 1)
        if targets is None:
            return
        check_same_shape(outputs, targets)
        if targets.is_complex() or targets.dtype == torch.bool:
            raise InvalidArgumentError(
                f"targets: expected real numbers, got {targets.dtype}; "
                'use likelihood="bernoulli" for yes or no'
            )
        if not targets.isfinite().all():
            bad = int((~targets.isfinite()).sum())
            raise InvalidArgumentError(
                f"targets: expected finite numbers, got nan or infinity in {bad} of {targets.numel()}; "
                "leave those data out"
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the negative log density of each datum, expected over a learned noise, shape (*d).

        Args:
            outputs: Means, shape (*d, values).
            targets: A number for each output.

        Raises:
            InvalidArgumentError: If the shapes do not fit each other.
        """
        check_same_shape(outputs, targets)
        means, values = paired(outputs, self._units.standardise(targets))
        if self.noise == "learned":
            digamma = torch.digamma(torch.tensor(self.concentration, dtype=torch.float64)).item()
            log_precision = digamma - math.log(self.rate)
        else:
            log_precision = -2 * math.log(self.noise)
        scaled = math.sqrt(self.precision) * (values - means)  # before squaring, which may overflow
        loss = (0.5 * scaled.square() + 0.5 * (LN_2PI - log_precision)).sum(-1)
        return loss if self._units.trivial else loss + self._units.log_scale(means.shape[-1])

    def root(self, outputs: Tensor) -> Tensor:
        """Return the identity divided by the standard deviation of the noise, the root of the Hessian.

        Args:
            outputs: Means, shape (*d, values); only their shape and kind are read.

        Returns:
            B, shape (*d, values, values).
        """
        identity = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
        inverse_std = math.sqrt(self.precision) if self.noise == "learned" else 1 / self.noise
        return (inverse_std * identity).expand(*outputs.shape, outputs.shape[-1])

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a target for each datum: its means plus noise, whose precision is drawn per datum if learned.

        Args:
            outputs: Means, shape (*d, values).
            generator: Source of randomness, on the outputs' device.

        Returns:
            Numbers in the outputs' shape.
        """
        means = widened(outputs.detach())
        draws = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
        if self.noise != "learned":
            return self._units.restore(means + self.noise * draws)
        shape = means.shape if means.dim() == 1 else (*means.shape[:-1], 1)
        concentration = torch.full(shape, self.concentration, dtype=means.dtype, device=means.device)
        # torch.distributions draws by this function too, but takes no generator
        precision = torch._standard_gamma(concentration, generator=generator) / self.rate
        return self._units.restore(means + draws / precision.sqrt())

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the expected targets: the outputs, in the targets' unit.

        Args:
            outputs: Means, shape (*d, values).
        """
        return self._units.restore(outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the means with an axis for posterior samples.

        Args:
            outputs: Means, shape (n,) or (*d, values).

        Returns:
            Means, shape (*d, values, 1).
        """
        return stacked(outputs)

    def average(self, predictions: Iterable[Tensor]) -> Tensor:
        """Collect the means of posterior samples, whose mixture is the prediction.

        Args:
            predictions: Means of each sample, shape (*d, values, 1).

        Returns:
            Means, shape (*d, values, s).
        """
        return mixed(predictions)

    def expectation(self, prediction: Tensor) -> Tensor:
        """Average the means over posterior samples; in the targets' unit.

        Args:
            prediction: Means, shape (*d, values, s).
        """
        return self._units.restore(prediction.mean(-1))

    def log_likelihood(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the log density of each datum under the mixture, noise integrated out, shape (num_data,).

        Args:
            prediction: Means, shape (*d, values, s).
            targets: A number for each output.
        """
        means = prediction.double()
        squares = (self._values(prediction, targets).unsqueeze(-1) - means).square().sum(-2)
        num_values = means.shape[-2]
        if self.noise == "learned":
            a, b = self.concentration, self.rate
            constant = (
                math.lgamma(a + num_values / 2) - math.lgamma(a) - num_values / 2 * (LN_2PI + math.log(b))
            )
            density = constant - (a + num_values / 2) * (squares / (2 * b)).log1p()
        else:
            density = -0.5 * squares / self.noise**2 - num_values * (0.5 * LN_2PI + math.log(self.noise))
        each = metrics.mixture_log_density(density) - self._units.log_scale(num_values)
        return each.flatten().to(prediction.dtype)

    def prediction_scores(
        self, prediction: Tensor, targets: Tensor, *, sample_log_likelihoods: Tensor | None = None
    ) -> dict[str, float]:
        """Score means and noise: error, likelihoods, continuous ranked probability score, coverage.

        All are in the targets' own unit.

        Args:
            prediction: Means, shape (*d, values, s).
            targets: A number for each output.
            sample_log_likelihoods: `log_likelihood` of each posterior sample, shape (s, num_data).
        """
        each = self.log_likelihood(prediction, targets)
        means, values, variances, ranks = self._ranked(prediction, targets)
        scales = self._units.scales(means.shape[-2]).to(means.device)
        # an output's score is proportional to its unit
        ranked = [
            float(scale)
            * metrics.continuous_ranked_probability_score(means[..., k, :], values[..., k], variances)
            for k, scale in enumerate(scales)
        ]
        errors = scales * (means.mean(-1) - values)
        return {
            "negative_log_likelihood": -each.double().mean().item(),
            "root_mean_squared_error": errors.square().mean().sqrt().item(),
            "continuous_ranked_probability_score": math.fsum(ranked) / len(ranked),
            **{f"coverage_{100 * level:.0f}": metrics.coverage(ranks, level) for level in COVERAGES},
            "log_predictive_density": metrics.joint_log_density(
                each.unsqueeze(0) if sample_log_likelihoods is None else sample_log_likelihoods
            ),
        }

    def intervals(self, prediction: Tensor, targets: Tensor) -> metrics.Intervals:
        """Compare the probability of central intervals with the share of targets inside.

        Args:
            prediction: Means, shape (*d, values, s).
            targets: A number for each output.
        """
        return metrics.intervals(self._ranked(prediction, targets)[-1])

    def _ranked(self, prediction: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return standardised means and targets, noise variances, and P(prediction <= target)."""
        means, values = prediction.double(), self._values(prediction, targets)
        variances = self._noise_variances().to(means.device)
        return means, values, variances, metrics.mixture_rank(means, values, variances)

    def _values(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return self._units.standardise(targets.reshape(prediction.shape[:-1])).double()

    def _noise_variances(self) -> Tensor:
        """Return the noise variance, or equally likely ones that stand for a learned one's distribution."""
        if self.noise != "learned":
            return torch.tensor([self.noise**2], dtype=torch.float64)
        return self.rate / gamma_quantiles(self.concentration)
