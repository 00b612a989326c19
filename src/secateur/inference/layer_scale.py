"""The paper's flat prior: standard-normal weights times one learned scale per layer, non-centred.

    w = s_l z,    z ~ N(0, 1),    s_l = f_l / sqrt(t_l),    t_l = c_l^-2 ~ Gamma(2, 2) (shape, rate)

with f_l = 1/10 in hidden layers and 1 in the last (arXiv:2309.12095, section 3). A layer is one module: its
weight and its bias share the scale.

Shapes: `n` weights in one vector, `l` layers, in the vector's order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.inference.block import ParameterBlock
from secateur.modules import layer_of

__all__ = ["GAMMA_RATE", "GAMMA_SHAPE", "LayerSizes", "adabelief", "inner_step", "spread_start"]

GAMMA_SHAPE = 2.0
GAMMA_RATE = 2.0


@dataclass(frozen=True)
class LayerSizes:
    """Where each layer's weights lie in one vector.

    Attributes:
        num_weights: Weights of each layer, in order.
        log_factor: log f_l of each layer, on the weights' device: made there at each step, it would have the
            device wait for the host.
        names: Parameter names of each layer.
    """

    num_weights: tuple[int, ...]
    log_factor: Float[Tensor, " l"]
    names: tuple[tuple[str, ...], ...]

    @classmethod
    def of(
        cls, block: ParameterBlock, *, last_layer: str, hidden_factor: float = 0.1, last_factor: float = 1.0
    ) -> "LayerSizes":
        """Group a vector's parameters by the module they belong to.

        Args:
            block: Parameters in the network's order.
            last_layer: Name of the network's last module, which may be in another vector.
            hidden_factor: f_l of all layers but the last.
            last_factor: f_l of the last layer.
        """
        pairs = zip(block.names, block.sizes, strict=True)
        modules = groupby(pairs, key=lambda pair: layer_of(pair[0]))
        layers = [(module, list(group)) for module, group in modules]
        factors = [last_factor if module == last_layer else hidden_factor for module, _ in layers]
        return cls(
            tuple(sum(size for _, size in layer) for _, layer in layers),
            block.full(0.0).new_tensor([math.log(factor) for factor in factors]),
            tuple(tuple(name for name, _ in layer) for _, layer in layers),
        )

    def scale(self, log_precision: Float[Tensor, " l"]) -> Float[Tensor, " l"]:
        """Return s_l from log t_l."""
        return (self.log_factor - 0.5 * log_precision).exp()

    def spread(self, per_layer: Float[Tensor, " l"]) -> Float[Tensor, " n"]:
        """Return one value per weight from one per layer."""
        parts = zip(per_layer.unbind(), self.num_weights, strict=True)
        return torch.cat([value.expand(count) for value, count in parts])

    def total(self, per_weight: Float[Tensor, " n"]) -> Float[Tensor, " l"]:
        """Return one sum per layer from one value per weight."""
        return torch.stack([part.sum() for part in per_weight.split(self.num_weights)])

    def prior_precision(self, scale: Float[Tensor, " l"]) -> dict[str, Tensor]:
        """Return 1 / s_l^2 for each parameter by name."""
        return {
            name: precision
            for names, precision in zip(self.names, scale.square().reciprocal().unbind(), strict=True)
            for name in names
        }


def adabelief(latents: Sequence[Tensor], lr: float, *, compile: bool) -> Optimizer:
    """Return AdaBelief (arXiv:2010.07468) over latent vectors, which become leaves that hold gradients.

    Args:
        latents: Vectors to optimise in place.
        lr: Step size.
        compile: Compile its update.
    """
    # here, not above: the package takes 0.7 s to import, and most users need no AdaBelief
    from pytorch_optimizer import create_optimizer

    leaves = nn.ParameterList([nn.Parameter(latent) for latent in latents])
    return create_optimizer(leaves, "adabelief", lr=lr, compile=compile, foreach=True)


def inner_step(block: ParameterBlock, gradients: Sequence[Tensor], lr: float) -> None:
    """Let a block's inner optimizer move its latents by one step.

    Args:
        block: ParameterBlock whose `inner` holds the latents.
        gradients: Gradient of each latent, in the order they were given.
        lr: Step size of this step.
    """
    assert block.inner is not None
    (group,) = block.inner.param_groups
    group["lr"] = lr
    for latent, gradient in zip(group["params"], gradients, strict=True):
        latent.grad = gradient
    block.inner.step()


def spread_start(block: ParameterBlock, init_range: float, *, generator: torch.Generator) -> None:
    """Start z of a block's weight matrices and their biases uniform in (-init_range, init_range).

    A network's usual initial weights lie far inside this prior, and a deep network that starts there may
    collapse onto the prior before it has learned. The authors' public code starts all z uniform in (-2, 2).
    Modules without a matrix, such as normalisation layers, keep their own start.

    Args:
        block: Its state holds z as `loc`.
        init_range: Bound of the uniform distribution.
        generator: Source of the draws.
    """
    parameters = zip(block.names, block.parameters, strict=True)
    matrices = {layer_of(name) for name, parameter in parameters if parameter.dim() > 1}
    for name, z in block.named(block.state["loc"]).items():
        if layer_of(name) in matrices:
            z.uniform_(-init_range, init_range, generator=generator)
