"""Posteriors of the scales of a regularised horseshoe: log-normals, with all they need in closed form.

The prior precision of a weight is a ratio of scales plus the slab's, in the notation of `horseshoe`:

    γ⁻² = exp(offset) Π_k s_k^power_k + c⁻²,    ln s_k ~ N(μ_k, σ_k²),    s_k ~ Gamma(a_k, b_k) a priori

A product of log-normals is log-normal, so E[γ⁻²], the layer's new prior precision, is exact.

Shapes: one layer of (rows, columns); a scale is (1, 1) per layer, (rows, 1) per row or (rows, columns) per
        weight, and they broadcast.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError

__all__ = ["HorseshoeScales"]

_LOG_PRECISION_LIMIT = 60.0
_SHARED_BY = {"layer": ("layer",), "tiered": ("layer", "row"), "full": ("layer", "row", "weight")}
"""The levels that have scales of their own, by hyperprior."""


@dataclass(frozen=True)
class HorseshoeScales:
    """Log-normal posteriors of a layer's scales: a tuple has one entry per kind of scale.

    Attributes:
        loc: μ of ln s.
        log_std: ln σ of ln s.
        power: Exponent with which s enters ξ / ψ; zero for c⁻², which is added.
        concentration: Gamma prior's shape parameter.
        rate: Gamma prior's inverse scale.
        offset: -2 ln τ0.
        floor: Smallest ln γ⁻².
    """

    loc: tuple[Tensor, ...]
    log_std: tuple[Tensor, ...]
    power: tuple[float, ...]
    concentration: tuple[float, ...]
    rate: tuple[float, ...]
    offset: float
    floor: float

    @classmethod
    def prior(
        cls,
        hyperprior: str,
        like: Tensor,
        *,
        global_scale: float,
        slab_concentration: float,
        slab_rate: float,
        widest: float,
    ) -> "HorseshoeScales":
        """Return the log-normals nearest in KL to the priors: σ² = 1 / a, μ = ln(a / b) - 1 / 2a.

        Args:
            hyperprior: Which weights share a scale: "full" none, "tiered" those of a row, "layer" all.
            like: The layer's weights, for shape, precision and device.
            global_scale: τ0, the expected scale of an idle weight.
            slab_concentration: Gamma shape parameter of c⁻².
            slab_rate: Its inverse scale.
            widest: Largest γ.

        Raises:
            InvalidArgumentError: If there is no such hyperprior.
        """
        if hyperprior not in _SHARED_BY:
            raise InvalidArgumentError(f"hyperprior must be full, tiered or layer, got {hyperprior!r}")
        rows, columns = like.shape
        sizes = {"layer": (1, 1), "row": (rows, 1), "weight": (rows, columns)}
        # each level is a ratio of two: the numerator of γ² has power -1 in γ⁻²
        kinds = [(sizes[level], power, 0.5, 1.0) for level in _SHARED_BY[hyperprior] for power in (-1.0, 1.0)]
        if hyperprior != "layer":
            kinds.append((sizes["layer"], 0.0, slab_concentration, slab_rate))
        return cls(
            loc=tuple(like.new_full(size, math.log(a / b) - 0.5 / a) for size, _, a, b in kinds),
            log_std=tuple(like.new_full(size, -0.5 * math.log(a)) for size, _, a, _ in kinds),
            power=tuple(power for _, power, _, _ in kinds),
            concentration=tuple(a for _, _, a, _ in kinds),
            rate=tuple(b for _, _, _, b in kinds),
            offset=0.0 if hyperprior == "layer" else -2 * math.log(global_scale),
            floor=max(-_LOG_PRECISION_LIMIT, -2 * math.log(widest)),
        )

    def log_precision(self, noise: tuple[Tensor, ...]) -> Tensor:
        """Return the logarithm of γ⁻² for one draw.

        Args:
            noise: Standard normal, one tensor per kind of scale.
        """
        logs = [
            loc + log_std.exp() * e for loc, log_std, e in zip(self.loc, self.log_std, noise, strict=True)
        ]
        ratio = sum(
            (k * log for k, log in zip(self.power, logs, strict=True)), logs[0].new_tensor(self.offset)
        )
        if self.power[-1] == 0:
            ratio = torch.logaddexp(ratio, logs[-1])
        return ratio.clamp(self.floor, _LOG_PRECISION_LIMIT)

    def expected_precision(self) -> Tensor:
        """Return E[γ⁻²], from the means of log-normals."""
        log_mean = self.loc[0].new_tensor(self.offset)
        added = torch.zeros_like(self.loc[0])
        for loc, log_std, power in zip(self.loc, self.log_std, self.power, strict=True):
            if power == 0:
                added = (loc + 0.5 * (2 * log_std).exp()).exp()
            else:
                log_mean = log_mean + power * loc + 0.5 * (2 * log_std).exp()
        precision = log_mean.clamp(max=_LOG_PRECISION_LIMIT).exp() + added
        return precision.clamp(min=math.exp(self.floor))

    def divergence(self) -> Tensor:
        """Return Σ KL(LogNormal(μ, σ²) || Gamma(a, b)) over all scales, in nats."""
        total = self.loc[0].new_zeros(())
        for loc, log_std, a, b in zip(self.loc, self.log_std, self.concentration, self.rate, strict=True):
            expected = (loc + 0.5 * (2 * log_std).exp()).exp()
            constant = math.lgamma(a) - a * math.log(b) - 0.5 * math.log(2 * math.pi * math.e)
            total = total + (constant - a * loc + b * expected - log_std).sum()
        return total
