"""From evidence to a decision: a spike-and-slab prior whose sparsity is learned from delta_f.

Each weight of a layer is in the slab (stays) with probability rho and in the spike (is zero) otherwise,
rho ~ Beta(alpha, beta). With delta_f in nats, positive in favour of removal, the mean-field posterior of
the indicators and of rho is the fixed point of

    q_k   = sigmoid(zeta - delta_f_k)                 probability that weight k stays
    zeta  = digamma(alpha + sum q) - digamma(beta + num_removed + sum (1 - q))

Theory: arXiv:2309.12095, spike-and-slab reduction.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["SpikeAndSlab", "spike_and_slab"]


@dataclass(frozen=True)
class SpikeAndSlab:
    """The decision for one layer.

    Attributes:
        keep_probability: Probability that each weight stays.
        log_odds: Expected prior log odds zeta of staying, the threshold on delta_f; a scalar, in nats.
        keep: Whether each weight stays: `delta_f <= log_odds`.
    """

    keep_probability: Float[Tensor, "*n"]
    log_odds: Float[Tensor, ""]
    keep: Bool[Tensor, "*n"]


def spike_and_slab(
    delta_f: Float[Tensor, "*n"],
    *,
    num_removed: int = 0,
    alpha: float = 1.0,
    beta: float = 1.0,
    num_iterations: int = 4,
) -> SpikeAndSlab:
    """Decide which weights of one layer stay, learning how sparse the layer is.

    Args:
        delta_f: Evidence for removing each weight that is still in, in nats.
        num_removed: Weights of the layer that are already out; they count as spikes, so the sparser the
            layer the more evidence a weight must show to stay.
        alpha: Beta pseudo-count of weights that stay; positive.
        beta: Beta pseudo-count of weights that go; positive.
        num_iterations: Fixed-point iterations; the paper uses four.
    """
    total = delta_f.numel()
    zeta = torch.digamma(torch.as_tensor(alpha, dtype=delta_f.dtype, device=delta_f.device)) - torch.digamma(
        torch.as_tensor(beta + num_removed, dtype=delta_f.dtype, device=delta_f.device)
    )
    keep_probability = torch.sigmoid(zeta - delta_f)
    for _ in range(num_iterations):
        keep_probability = torch.sigmoid(zeta - delta_f)
        kept = keep_probability.sum()
        zeta = torch.digamma(alpha + kept) - torch.digamma(beta + num_removed + total - kept)
    return SpikeAndSlab(keep_probability, zeta, delta_f <= zeta)
