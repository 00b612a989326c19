"""Fully factorised variational inference under horseshoe priors ("Tiered-FF" and its full form).

    w = gamma z,    q(z) = N(loc, std^2),    q(s) = LogNormal(scale_loc, scale_std^2) for each scale s

with gamma from `scale_layout`: one scale per output unit (tiered) or one per weight besides (full). Minimises

    N E_q[loss] + KL(q(z) || N(0, 1)) + sum_s KL(q(s) || Gamma(a_s, b_s)),    in nats,

with one joint draw per step and the divergences in closed form. The loop's gradient by the weights is carried
on to the latents by automatic differentiation of gamma alone, so the network may be anything. Removed weights
leave the loss: their z goes back to its prior. Source: arXiv:2309.12095, section 3.
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
from secateur.inference.layer_scale import adabelief, inner_step, spread_start
from secateur.inference.scale_layout import ScaleLayout

__all__ = ["SCALES", "HorseshoeFF"]

SCALES = ("tiered", "full")
LATENTS = ("loc", "log_std", "scale_loc", "scale_log_std")


def _weights(
    loc: Tensor,
    log_std: Tensor,
    scale_loc: Tensor,
    scale_log_std: Tensor,
    noise: Tensor,
    scale_noise: Tensor,
    keep: Tensor | None,
    layout: ScaleLayout,
) -> Tensor:
    log_scales = scale_loc + scale_log_std.exp() * scale_noise
    gamma = (-0.5 * layout.log_inverse_square(log_scales)).exp()
    weights = gamma * (loc + log_std.exp() * noise)
    return weights if keep is None else weights * keep


def _objective(
    loc: Tensor,
    log_std: Tensor,
    scale_loc: Tensor,
    scale_log_std: Tensor,
    gradient: Tensor,
    noise: Tensor,
    scale_noise: Tensor,
    keep: Tensor | None,
    layout: ScaleLayout,
    num_data: int,
) -> Tensor:
    """A function with the gradient of the objective: the loss enters by its linear part at the draw."""
    weights = _weights(loc, log_std, scale_loc, scale_log_std, noise, scale_noise, keep, layout)
    # In nats of the whole data set, as an ELBO is written: AdaBelief is free of scale only far above its eps.
    divergence = 0.5 * (loc.square() + (2 * log_std).exp()) - log_std
    return (
        num_data * (gradient * weights).sum() + divergence.sum() + layout.divergence(scale_loc, scale_log_std)
    )


_gradients = torch.func.grad(_objective, argnums=(0, 1, 2, 3))


class HorseshoeFF(PosteriorOptimizer):
    """Fit a fully factorised posterior under a regularised horseshoe prior.

    Between draws the model holds the posterior mean of z times gamma at the medians of its scales.

    Args:
        params: `model.named_parameters()`, or groups of them; the last module is the output layer.
        lr: Step size of AdaBelief; 5e-3 in the paper.
        num_data: Number of training data N; the loss is a mean over a batch of them.
        scales: "tiered" for one scale per output unit, "full" for one per weight besides.
        global_scale: tau0, the expected scale of an idle weight.
        init_std: Initial posterior std of z and of the scales' logarithms.
        init_range: z of the weight matrices and all log scales start uniform in (-init_range, init_range);
            None starts from the network's own weights, with log scales 0.
        include: Name patterns of the parameters under the prior; all when None.
        exclude: Name patterns of parameters that are trained as points.
        generator: Source of the noise and of the start.
        compile: Compile the update.

    Raises:
        InvalidArgumentError: If a hyper-parameter is out of range, or `scales` is neither.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-3,
        *,
        num_data: int,
        scales: str = "tiered",
        global_scale: float = 1e-2,
        init_std: float = 0.1,
        init_range: float | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        compile: bool = False,
    ) -> None:
        if scales not in SCALES:
            raise InvalidArgumentError(f"scales: expected one of {', '.join(SCALES)}, got {scales!r}")
        check_positive(global_scale=global_scale, init_std=init_std)
        if init_range is not None:
            check_positive(init_range=init_range)
        self._full, self._global_scale = scales == "full", global_scale
        self._log_init_std = math.log(init_std)
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
                before = self._center(block)
                scale_loc = block.state["scale_loc"]
                scale_loc.uniform_(-init_range, init_range, generator=self.generator)
                block.state["loc"].copy_(before / self._gamma(block))  # keeps the network's own weights ...
                spread_start(block, init_range, generator=self.generator)  # ... but for its matrices
                block.write(self._center(block))
            block.inner = adabelief([block.state[name] for name in LATENTS], lr, compile=compile)
        self._weights_kernel = self._kernel(_weights)
        self._gradients_kernel = self._kernel(_gradients)

    def _new_state(self, block: ParameterBlock, group: dict[str, Any]) -> dict[str, Tensor]:
        block.layout = layout = ScaleLayout.of(
            block, last_layer=self.last_layer, full=self._full, global_scale=self._global_scale
        )
        mean = block.mean
        scale_loc = mean.new_zeros(layout.total())
        return {
            "loc": mean * (0.5 * layout.log_inverse_square(scale_loc)).exp(),
            "log_std": torch.full_like(mean, self._log_init_std),
            "scale_loc": scale_loc,
            "scale_log_std": torch.full_like(scale_loc, self._log_init_std),
        }

    def _draw(self, block: ParameterBlock, group: dict[str, Any], *, training: bool) -> Tensor:
        noise = torch.empty_like(block.mean).normal_(generator=self.generator)
        scale_noise = torch.empty_like(block.state["scale_loc"]).normal_(generator=self.generator)
        if training:
            block.drawn = {"noise": noise, "scale_noise": scale_noise}
        latents = [block.state[name] for name in LATENTS]
        return self._weights_kernel(*latents, noise, scale_noise, block.keep, block.layout)

    def _update(self, block: ParameterBlock, group: dict[str, Any], gradient: Tensor) -> Tensor:
        gradients = self._gradients_kernel(
            *[block.state[name] for name in LATENTS],
            gradient,
            block.drawn["noise"],
            block.drawn["scale_noise"],
            block.keep,
            block.layout,
            self.num_data,
        )
        inner_step(block, gradients, group["lr"])
        return self._center(block)

    def _gamma(self, block: ParameterBlock) -> Tensor:
        """Return gamma at the medians of the scales."""
        layout = block.layout
        return (-0.5 * layout.log_inverse_square(block.state["scale_loc"])).exp()

    def _center(self, block: ParameterBlock) -> Tensor:
        center = self._gamma(block) * block.state["loc"]
        return center if block.keep is None else center * block.keep

    def _moments(
        self, block: ParameterBlock, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        inverse_square = block.layout.log_inverse_square(block.state["scale_loc"]).exp()
        precision = inverse_square * (-2 * block.state["log_std"]).exp()
        return self._center(block), precision, block.named(inverse_square)
