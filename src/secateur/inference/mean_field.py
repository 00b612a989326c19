"""Fully factorised variational inference under the paper's flat prior ("Flat-FF"), non-centred.

    w = s_l gamma z,   q(z) = N(loc, std^2),   q(t_l) = LogNormal(m_l, v_l^2),   s_l = f_l / sqrt(t_l)

Minimises  N E_q[loss] + KL(q(z) || N(0, 1)) + KL(q(t) || Gamma(2, 2)), in nats, with one joint draw
per step and both KL terms in closed form:

    KL_z = sum (std^2 + loc^2 - 1) / 2 - log std
    KL_t = sum_l  2 exp(m + v^2 / 2) - 2 m - log v + const

gamma is 1 until a reduction narrows the prior of some weights (`adopt`).
Removed weights leave the sum: their z goes back to its prior. Source: arXiv:2309.12095, section 3 (flat
prior) and 4.1 (AdaBelief); reduction of z against N(0, 1) is the paper's BMR, since delta_f does not change
when a weight and its prior are rescaled together.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.inference.arguments import check_positive
from secateur.inference.base import PosteriorOptimizer
from secateur.inference.block import ParameterBlock
from secateur.inference.layer_scale import (
    GAMMA_RATE,
    GAMMA_SHAPE,
    LayerSizes,
    adabelief,
    inner_step,
    spread_start,
)
from secateur.posterior import Posterior

__all__ = ["FlatFF"]

LATENTS = ("loc", "log_std", "precision_loc", "precision_log_std")


def _build(
    loc: Tensor,
    log_std: Tensor,
    log_precision: Tensor,
    noise: Tensor,
    keep: Tensor | None,
    gamma: Tensor | None,
    layers: LayerSizes,
) -> Tensor:
    weight = _scale(log_precision, gamma, layers) * (loc + log_std.exp() * noise)
    return weight if keep is None else weight * keep


def _scale(log_precision: Tensor, gamma: Tensor | None, layers: LayerSizes) -> Tensor:
    """Return the prior std of each weight, s_l gamma."""
    scale = layers.spread(layers.scale(log_precision))
    return scale if gamma is None else scale * gamma


def _gradients(
    loc: Tensor,
    log_std: Tensor,
    precision_loc: Tensor,
    precision_log_std: Tensor,
    gradient: Tensor,
    noise: Tensor,
    layer_noise: Tensor,
    keep: Tensor | None,
    gamma: Tensor | None,
    layers: LayerSizes,
    num_data: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # In nats of the whole data set, as an ELBO is written: AdaBelief is free of scale only far above its eps.
    gradient = gradient * num_data if keep is None else gradient * (num_data * keep)
    std, layer_std = log_std.exp(), precision_log_std.exp()
    log_precision = precision_loc + layer_std * layer_noise
    by_z = _scale(log_precision, gamma, layers) * gradient
    by_log_precision = -0.5 * layers.total(by_z * (loc + std * noise))
    expected_precision = (precision_loc + 0.5 * layer_std.square()).exp()
    return (
        by_z + loc,
        by_z * noise * std + (std.square() - 1),
        by_log_precision + (GAMMA_RATE * expected_precision - GAMMA_SHAPE),
        by_log_precision * layer_noise * layer_std
        + (GAMMA_RATE * expected_precision * layer_std.square() - 1),
    )


class FlatFF(PosteriorOptimizer):
    """Fit a fully factorised posterior under the paper's flat prior, by stochastic variational inference.

    Between draws the model holds the posterior mean of z times the scale at the median of q(t).

    Args:
        params: `model.named_parameters()`, or groups of them; the last module is the output layer.
        lr: Step size of AdaBelief; 5e-3 in the paper, 1e-2 when reducing.
        num_data: Number of training data N; the loss is a mean over a batch of them.
        init_std: Initial posterior std of z.
        hidden_factor: f_l of all layers but the last.
        last_factor: f_l of the last layer.
        init_range: z of the weight matrices and their biases start uniform in (-init_range, init_range); None
            starts from the network's own weights.
        adaptive: Keep a gamma per weight, so that a reduction can narrow its prior.
        include: Name patterns of the parameters under the prior; all when None.
        exclude: Name patterns of parameters that are trained as points.
        generator: Source of the noise.
        compile: Compile the update.

    Raises:
        InvalidArgumentError: If a hyper-parameter is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-3,
        *,
        num_data: int,
        init_std: float = 0.1,
        hidden_factor: float = 0.1,
        last_factor: float = 1.0,
        init_range: float | None = None,
        adaptive: bool = False,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        compile: bool = False,
    ) -> None:
        check_positive(init_std=init_std, hidden_factor=hidden_factor, last_factor=last_factor)
        self._hidden_factor, self._last_factor = hidden_factor, last_factor
        self._log_init_std, self.adaptive = math.log(init_std), adaptive
        if init_range is not None:
            check_positive(init_range=init_range)
        super().__init__(
            params,
            {"lr": lr},
            num_data=num_data,
            include=include,
            exclude=exclude,
            generator=generator,
            compile=compile,
        )
        for block in self._blocks:
            if init_range is not None:
                spread_start(block, init_range, generator=self.generator)
                block.write(self._center(block))
            block.inner = adabelief([block.state[name] for name in LATENTS], lr, compile=compile)
        self._build_kernel = self._kernel(_build)
        self._gradient_kernel = self._kernel(_gradients)

    def _new_state(self, block: ParameterBlock, group: dict[str, Any]) -> dict[str, Tensor]:
        block.layout = layers = LayerSizes.of(
            block,
            last_layer=self.last_layer,
            hidden_factor=self._hidden_factor,
            last_factor=self._last_factor,
        )
        mean = block.mean
        precision_loc = mean.new_zeros(len(layers.num_weights))
        return {
            "loc": mean / layers.spread(layers.scale(precision_loc)),
            "log_std": torch.full_like(mean, self._log_init_std),
            "precision_loc": precision_loc,
            "precision_log_std": torch.full_like(precision_loc, self._log_init_std),
            **({"gamma": torch.ones_like(mean)} if self.adaptive else {}),
        }

    def _draw(self, block: ParameterBlock, group: dict[str, Any], *, training: bool) -> Tensor:
        state = block.state
        noise = torch.empty_like(block.mean).normal_(generator=self.generator)
        layer_noise = torch.empty_like(state["precision_loc"]).normal_(generator=self.generator)
        if training:
            block.drawn = {"noise": noise, "layer_noise": layer_noise}
        log_precision = state["precision_loc"] + state["precision_log_std"].exp() * layer_noise
        return self._build_kernel(
            state["loc"],
            state["log_std"],
            log_precision,
            noise,
            block.keep,
            state.get("gamma"),
            block.layout,
        )

    def _update(self, block: ParameterBlock, group: dict[str, Any], gradient: Tensor) -> Tensor:
        latents = [block.state[name] for name in LATENTS]
        gradients = self._gradient_kernel(
            *latents,
            gradient,
            block.drawn["noise"],
            block.drawn["layer_noise"],
            block.keep,
            block.state.get("gamma"),
            block.layout,
            self.num_data,
        )
        inner_step(block, gradients, group["lr"])
        return self._center(block)

    def _center(self, block: ParameterBlock) -> Tensor:
        center = self._prior_std(block) * block.state["loc"]
        return center if block.keep is None else center * block.keep

    def _prior_std(self, block: ParameterBlock) -> Tensor:
        """Return s_l gamma of each weight, s_l at the median of q(t_l)."""
        return _scale(block.state["precision_loc"], block.state.get("gamma"), block.layout)

    def _moments(
        self, block: ParameterBlock, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        prior_std = self._prior_std(block)
        precision = (-2 * block.state["log_std"]).exp() / prior_std.square()
        if "gamma" in block.state:
            return self._center(block), precision, block.named(prior_std.square().reciprocal())
        layers: LayerSizes = block.layout
        prior = layers.prior_precision(layers.scale(block.state["precision_loc"]))
        return self._center(block), precision, prior

    @torch.no_grad()
    def adopt(self, posterior: Posterior) -> None:
        """Go on under a narrower prior, from the posterior that reduction gave.

        The layer's scale stays; gamma takes up the rest of the prior, and z is rescaled with it.

        Args:
            posterior: Mean, precision and prior precision of the weights under their new prior, finite where
                they stay; entries that are out are left as they are (see `hold`).

        Raises:
            InvalidArgumentError: If the optimizer is not `adaptive`.
        """
        self._outside("adopt")
        if not self.adaptive:
            raise InvalidArgumentError("adopt: expected an optimizer with adaptive=True, got one without")
        for block in self._blocks:
            layers, state = block.layout, block.state
            names, shapes = block.names, [each.shape for each in block.parameters]
            mean, precision, prior, stays = (
                torch.cat([part.expand(shape).reshape(-1) for part, shape in zip(parts, shapes, strict=True)])
                for parts in (
                    [posterior.mean[name] for name in names],
                    [posterior.precision[name] for name in names],
                    [posterior.prior_precision[name] for name in names],
                    [posterior.present(name) for name in names],
                )
            )
            prior_std = prior.rsqrt()
            layer_scale = layers.spread(layers.scale(state["precision_loc"]))
            state["gamma"].copy_(torch.where(stays, prior_std / layer_scale, state["gamma"]))
            state["loc"].copy_(torch.where(stays, mean / prior_std, state["loc"]))
            narrower = -0.5 * precision.log() - prior_std.log()
            state["log_std"].copy_(torch.where(stays, narrower, state["log_std"]))
            block.write(self._center(block))
