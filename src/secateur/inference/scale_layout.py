"""The scales of a horseshoe prior over many parameters as one vector of logarithms.

    gamma^-2 = xi / psi + c^-2,   psi = tau0^2 (z0 / z1) v_i [v_ij],   xi = u_i [u_ij]     hidden layers
    gamma^-2 = z1 / z0                                                                  the last layer

with c^-2 ~ Gamma(2, 6) and all others Gamma(1/2, 1): a half-Cauchy variable squared is a ratio of two of
these (arXiv:2309.12095, section 3). [..] only in the full horseshoe. A layer is one module; a row is an
output unit, its bias included.

Shapes: `n` weights, `m` scales: z0, z1 (a layer), c^-2 (a hidden layer), u, v (a row), [u, v (a weight)].
"""

import math
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.inference.block import ParameterBlock
from secateur.modules import layer_of

__all__ = ["ScaleGroup", "ScaleLayout"]

HALF_CAUCHY = (0.5, 1.0)  # shape and rate of the Gamma variables whose ratio is a half-Cauchy squared
SLAB = (2.0, 6.0)  # of c^-2, which bounds the scale of a weight that stays


@dataclass(frozen=True)
class ScaleGroup:
    """Parameters of one module that have the same rows.

    Attributes:
        num_rows: Their rows.
        sizes: Number of weights of each.
        last: Whether they belong to the network's last module, which has one scale for all.
    """

    num_rows: int
    sizes: tuple[int, ...]
    last: bool


@dataclass(frozen=True)
class ScaleLayout:
    """Where each scale lies in one vector, and what they make of it.

    Attributes:
        groups: Parameters that share scales, in the order of the weights' vector.
        full: Whether each weight has scales of its own, or only each row.
        global_scale: tau0.
    """

    groups: tuple[ScaleGroup, ...]
    full: bool
    global_scale: float

    @classmethod
    def of(cls, block: ParameterBlock, *, last_layer: str, full: bool, global_scale: float) -> "ScaleLayout":
        """Group a vector's parameters by module and rows.

        Args:
            block: Parameters in the network's order.
            last_layer: Name of the network's last module.
            full: Whether each weight gets scales of its own.
            global_scale: tau0.
        """
        parameters = zip(block.names, block.parameters, strict=True)
        keyed = [
            (layer_of(name), each.shape[0] if each.dim() else 1, each.numel()) for name, each in parameters
        ]
        groups = []
        for (module, num_rows), members in groupby(keyed, key=lambda each: each[:2]):
            sizes = tuple(size for *_, size in members)
            groups.append(ScaleGroup(num_rows, sizes, module == last_layer))
        return cls(tuple(groups), full, global_scale)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of z0, z1, c^-2, u, v and, in the full horseshoe, u and v per weight."""
        hidden = [group for group in self.groups if not group.last]
        num_rows = sum(group.num_rows for group in hidden)
        per_layer = (len(self.groups), len(self.groups), len(hidden), num_rows, num_rows)
        num_weights = sum(sum(group.sizes) for group in hidden)
        return (*per_layer, num_weights, num_weights) if self.full else per_layer

    def log_inverse_square(self, log_scales: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
        """Return log gamma^-2 of each weight.

        Args:
            log_scales: Logarithms of all scales.
        """
        z0, z1, slab, u, v, *own = log_scales.split(self.sizes)
        hidden = [group for group in self.groups if not group.last]
        rows = (u - v).split([group.num_rows for group in hidden])
        weights = (own[0] - own[1]).split([sum(group.sizes) for group in hidden]) if own else ()
        ratio, parts, index = (z1 - z0).unbind(), [], 0
        offset = -2 * math.log(self.global_scale)
        for group, layer in zip(self.groups, ratio, strict=True):
            if group.last:
                parts.append(layer.expand(sum(group.sizes)))
                continue
            row = rows[index] + (layer + offset)
            if not self.full:
                row = torch.logaddexp(row, slab[index])
            spread = [row[:, None].expand(-1, size // group.num_rows).reshape(-1) for size in group.sizes]
            each = torch.cat(spread)
            parts.append(torch.logaddexp(each + weights[index], slab[index]) if self.full else each)
            index += 1
        return torch.cat(parts)

    def divergence(self, loc: Float[Tensor, " m"], log_std: Float[Tensor, " m"]) -> Float[Tensor, ""]:
        """Return sum KL(LogNormal(loc, std^2) || Gamma(a, b)) over all scales, up to a constant, in nats.

        Per scale: b exp(loc + std^2 / 2) - a loc - log std.

        Args:
            loc: Means of the logarithms.
            log_std: Logarithms of their standard deviations.
        """
        expected = (loc + 0.5 * (2 * log_std).exp()).exp()
        total = -log_std.sum()
        pieces = zip(loc.split(self.sizes), expected.split(self.sizes), strict=True)
        for index, (mean_log, mean) in enumerate(pieces):
            concentration, rate = SLAB if index == 2 else HALF_CAUCHY
            total = total + rate * mean.sum() - concentration * mean_log.sum()
        return total

    def total(self) -> int:
        """Return the number of scales."""
        return sum(self.sizes)
