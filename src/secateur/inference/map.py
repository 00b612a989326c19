"""Maximum a posteriori under the paper's flat prior: a point, the baseline of the comparison.

Minimises, over z and t of `layer_scale`,  N mean loss + sum z^2 / 2 + sum_l (2 t_l - log t_l),  and where the
weights themselves have a Gaussian prior too (weight decay),  + precision sum w^2 / 2.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.inference.base import PosteriorOptimizer
from secateur.inference.block import ParameterBlock
from secateur.inference.layer_scale import GAMMA_RATE, GAMMA_SHAPE, LayerSizes, adabelief, inner_step

__all__ = ["FlatMAP"]


def _gradients(
    z: Tensor,
    log_precision: Tensor,
    gradient: Tensor,
    keep: Tensor | None,
    layers: LayerSizes,
    num_data: int,
    prior_precision: float,
) -> tuple[Tensor, Tensor]:
    # In nats of the whole data set, as an ELBO is written: AdaBelief is free of scale only far above its eps.
    gradient = gradient * num_data if keep is None else gradient * (num_data * keep)
    scale = layers.spread(layers.scale(log_precision))
    by_weight = scale * (gradient + prior_precision * scale * z)
    prior = GAMMA_RATE * log_precision.exp() - (GAMMA_SHAPE - 1)
    return by_weight + z, prior - 0.5 * layers.total(by_weight * z)


def _weights(z: Tensor, log_precision: Tensor, keep: Tensor | None, layers: LayerSizes) -> Tensor:
    weight = layers.spread(layers.scale(log_precision)) * z
    return weight if keep is None else weight * keep


class FlatMAP(PosteriorOptimizer):
    """Fit the most probable weights and layer scales; the posterior is a point (precision `inf`).

    `sampled_parameters()` is allowed and draws nothing.

    Args:
        params: `model.named_parameters()`, or groups of them; the last module is the output layer.
        lr: Step size of AdaBelief.
        num_data: Number of training data N; the loss is a mean over a batch of them.
        prior_precision: Of a Gaussian prior of the weights beside the flat one; 0 is the paper's.
        include: Name patterns of the parameters under the prior; all when None.
        exclude: Name patterns of parameters that are trained without it.
        generator: Unused here; part of the common interface.
        compile: Compile the update.
    """

    needs_sample = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        num_data: int,
        prior_precision: float = 0.0,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        compile: bool = False,
    ) -> None:
        if not 0 <= prior_precision < math.inf:
            raise InvalidArgumentError(
                f"prior_precision: expected a finite number, at least 0, got {prior_precision}"
            )
        self._prior_precision = prior_precision
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
            latents = [block.state["z"], block.state["log_precision"]]
            block.inner = adabelief(latents, lr, compile=compile)
        self._gradient_kernel = self._kernel(_gradients)
        self._weight_kernel = self._kernel(_weights)

    def _new_state(self, block: ParameterBlock, group: dict[str, Any]) -> dict[str, Tensor]:
        block.layout = layers = LayerSizes.of(block, last_layer=self.last_layer)
        mean = block.mean
        log_precision = mean.new_zeros(len(layers.num_weights))
        return {"z": mean / layers.spread(layers.scale(log_precision)), "log_precision": log_precision}

    def _draw(self, block: ParameterBlock, group: dict[str, Any], *, training: bool) -> Tensor:
        return block.mean if block.keep is None else block.mean * block.keep

    def _update(self, block: ParameterBlock, group: dict[str, Any], gradient: Tensor) -> Tensor:
        layers, state = block.layout, block.state
        gradients = self._gradient_kernel(
            state["z"],
            state["log_precision"],
            gradient,
            block.keep,
            layers,
            self.num_data,
            self._prior_precision,
        )
        inner_step(block, gradients, group["lr"])
        return self._weight_kernel(state["z"], state["log_precision"], block.keep, layers)

    def _moments(
        self, block: ParameterBlock, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        layers: LayerSizes = block.layout
        prior = layers.prior_precision(layers.scale(block.state["log_precision"]))
        return block.mean, math.inf, prior
