"""From evidence to a decision: reducing a layer's prior to a regularised horseshoe.

Sign:   delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
Shapes: one layer, weights (rows, columns); scales are shared as the hyperprior says.
Theory: the reduced prior is N(0, γ²) with hierarchical scales, arXiv:2309.12095; the regularised horseshoe,
        Piironen & Vehtari 2017. Half-Cauchy variables are square roots of ratios of Gamma(1/2, 1):

    γ⁻² = ξ / ψ + c⁻²,    ψ = τ0² (z0 / z1) v_i [v_ij],    ξ = u_i [u_ij],    c⁻² ~ Gamma(2, 6),
    z0, z1, u, v ~ Gamma(1/2, 1)          "tiered": one scale per row; "full": with [..], one per weight
    γ² = z0 / z1                          "layer": one scale, as the paper has it for the last layer

All scales s have log-normal posteriors (`horseshoe_scales`), fitted by maximising

    E[ Σ delta_f(γ) ] - Σ KL(LogNormal(μ, σ²) || Gamma(a, b)),

a lower bound on the log evidence of the hierarchical model against the full one. No data are touched: the
expectation is over a pair of antithetic draws a step, the KL in closed form.

Convergence: the mean bound of a window of steps is compared with that of the window before. Without a gain of
two standard errors the step size is halved; after `NUM_HALVINGS` of them the fit has converged, and the
parameters are averaged over the last window.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction._validation import (
    Values,
    broadcast_shape,
    common_tensors,
    require_finite,
    require_positive,
)
from secateur.reduction.gaussian import delta_f, reduced_posterior
from secateur.reduction.horseshoe_scales import HorseshoeScales
from secateur.shapes import Bool, Float

__all__ = ["HorseshoeReduction", "horseshoe"]

NUM_HALVINGS = 5
"""Halvings of the step size until the fit counts as converged."""


@dataclass(frozen=True)
class HorseshoeReduction:
    """A layer under its horseshoe prior.

    Attributes:
        scale: New prior standard deviation of each weight, E[γ⁻²]^(-1/2).
        keep: Whether each weight stays: its scale is not below the threshold.
        delta_f: Evidence per weight of the new prior N(0, scale²) against the full one, nats.
        mean: Posterior means under the new prior; zero where a weight goes.
        precision: Posterior precisions under the new prior; `inf` where a weight goes.
        bound: Lower bound on the log evidence of the whole hierarchical model against the full one, nats.
        num_steps: Steps taken.
        converged: Whether the criterion was met before the steps ran out.
    """

    scale: Float[Tensor, "rows columns"]
    keep: Bool[Tensor, "rows columns"]
    delta_f: Float[Tensor, "rows columns"]
    mean: Float[Tensor, "rows columns"]
    precision: Float[Tensor, "rows columns"]
    bound: float
    num_steps: int
    converged: bool


def horseshoe(
    mean: Float[Tensor, "rows columns"],
    precision: Float[Tensor, "rows columns"],
    *,
    prior_precision: Values,
    hyperprior: Literal["full", "tiered", "layer"] = "tiered",
    global_scale: float = 1e-2,
    slab_concentration: float = 2.0,
    slab_rate: float = 6.0,
    threshold: float = 1e-6,
    widest: float = math.inf,
    max_steps: int = 20_000,
    window: int = 100,
    learning_rate: float = 0.1,
    generator: torch.Generator | None = None,
) -> HorseshoeReduction:
    """Reduce a layer's zero-mean Gaussian prior to a regularised horseshoe.

    Args:
        mean: Posterior means.
        precision: Posterior inverse variances; positive. Where estimation noise left one below the prior's,
            the data count as having said nothing about its width.
        prior_precision: Inverse variances of the full prior N(0, 1 / prior_precision).
        hyperprior: Which weights share a scale: "full" none, "tiered" those of a row, "layer" all.
        global_scale: τ0, the expected scale of an idle weight.
        slab_concentration: Gamma shape parameter of c⁻², which bounds the scale of a weight that stays.
        slab_rate: Its inverse scale.
        threshold: Scale below which a weight counts as removed.
        widest: Largest scale. Where data have told a weight nothing of its width, a wider prior has evidence
            without bound, which is an artefact of the Gaussian; the full prior's own std forbids widening.
        max_steps: Steps after which to stop in any case.
        window: Steps over which the bound is averaged to judge convergence.
        learning_rate: First step size in log scales and in log standard deviations (Adam).
        generator: Source of the draws; a fixed one is made where None is given.

    Returns:
        Scales, decision and the posterior under the new prior.

    Raises:
        InvalidArgumentError: If an argument is out of range.

    References:
        arXiv:2309.12095, the reduction with a regularised horseshoe prior.
    """
    values = common_tensors(mean=mean, precision=precision, prior_precision=prior_precision)
    shape = broadcast_shape(mean=values["mean"].shape, prior_precision=values["prior_precision"].shape)
    if values["precision"].shape != shape or values["mean"].shape != shape:
        raise InvalidArgumentError(f"precision must have shape {tuple(shape)}, got {tuple(precision.shape)}")
    require_finite("mean", values["mean"])
    require_positive("precision", values["precision"])
    require_positive("prior_precision", values["prior_precision"])
    positive = {
        "global_scale": global_scale,
        "slab_concentration": slab_concentration,
        "slab_rate": slab_rate,
        "threshold": threshold,
        "learning_rate": learning_rate,
        "max_steps": max_steps,
        "window": window - 1,
    }
    for name, number in positive.items():
        if not 0 < number < math.inf:
            raise InvalidArgumentError(f"{name} must be positive and finite, got {number}")
    if not widest > 0:
        raise InvalidArgumentError(f"widest must be positive, got {widest}")

    m, p0 = values["mean"].detach(), values["prior_precision"].detach().expand(shape)
    p = torch.maximum(values["precision"].detach(), p0)
    if generator is None:
        generator = torch.Generator(m.device).manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():  # the fit needs gradients, whoever calls
        gaussian = (m.clone(), p.clone(), p0.clone())
        scales = HorseshoeScales.prior(
            hyperprior,
            gaussian[0],
            global_scale=global_scale,
            slab_concentration=slab_concentration,
            slab_rate=slab_rate,
            widest=widest,
        )
        scales, bound, num_steps, converged = _fit(
            scales, gaussian, max_steps, window, learning_rate, generator
        )

    new_precision = scales.expected_precision().expand(shape)
    scale = new_precision.rsqrt()
    keep = scale >= threshold
    pinned = torch.where(keep, new_precision, math.inf)
    after_mean, after_precision = reduced_posterior(m, p, prior_precision=p0, reduced_precision=pinned)
    evidence = delta_f(m, p, prior_precision=p0, reduced_precision=new_precision)
    return HorseshoeReduction(scale, keep, evidence, after_mean, after_precision, bound, num_steps, converged)


def _fit(
    scales: HorseshoeScales,
    gaussian: tuple[Tensor, Tensor, Tensor],
    max_steps: int,
    window: int,
    learning_rate: float,
    generator: torch.Generator,
) -> tuple[HorseshoeScales, float, int, bool]:
    """Maximise the bound as the module header says."""
    leaves = [v.clone().requires_grad_() for v in (*scales.loc, *scales.log_std)]
    optimizer = torch.optim.Adam(leaves, lr=learning_rate)
    sums = [torch.zeros_like(leaf) for leaf in leaves]
    bounds: list[float] = []
    before: tuple[float, float] | None = None
    halvings = step = 0
    average = sums

    while step < max_steps and halvings < NUM_HALVINGS:
        current = _with(scales, leaves)
        noise = tuple(torch.empty_like(loc).normal_(generator=generator) for loc in current.loc)
        evidence = sum(
            _evidence(current.log_precision(draw), *gaussian) for draw in (noise, tuple(-e for e in noise))
        )
        bound = 0.5 * evidence - current.divergence()
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        step += 1
        bounds.append(bound.item())
        for total, leaf in zip(sums, leaves, strict=True):
            total.add_(leaf.detach())
        if len(bounds) < window:
            continue
        values = torch.tensor(bounds, dtype=torch.float64)
        now = values.mean().item(), values.var().item() / window
        average = [total / window for total in sums]
        if before is not None and now[0] - before[0] < 2 * math.sqrt(now[1] + before[1]):
            halvings += 1
            for group in optimizer.param_groups:
                group["lr"] /= 2
        before, bounds = now, []
        for total in sums:
            total.zero_()
    if before is None:  # not one whole window
        return _with(scales, [total / step for total in sums]), sum(bounds) / step, step, False
    return _with(scales, average), before[0], step, halvings == NUM_HALVINGS


def _with(scales: HorseshoeScales, leaves: list[Tensor]) -> HorseshoeScales:
    half = len(leaves) // 2
    return replace(scales, loc=tuple(leaves[:half]), log_std=tuple(leaves[half:]))


def _evidence(log_reduced: Tensor, mean: Tensor, precision: Tensor, prior: Tensor) -> Tensor:
    """Σ delta_f to N(0, exp(-log_reduced)), in the form that needs only 1 / R0."""
    variance = (-log_reduced).exp()
    growth = (precision - prior) * variance
    misfit = precision * mean.square() * (1 - prior * variance) / (1 + growth)
    return 0.5 * ((precision / prior).log() - growth.log1p() - misfit).sum()
