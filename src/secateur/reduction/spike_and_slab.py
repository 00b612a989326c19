"""From evidence to a decision: a spike-and-slab prior whose sparsity is learned from delta_f.

Each weight of a layer is in the slab (stays) with probability rho and in the spike (is zero) otherwise,
rho ~ Beta(alpha, beta). With delta_f in nats, positive in favour of removal, the mean-field posterior of
the indicators and of rho is the fixed point of

    q_k   = sigmoid(zeta - delta_f_k)                 probability that weight k stays
    zeta  = digamma(alpha + sum q) - digamma(beta + num_removed + sum (1 - q))

It starts from what is known before any evidence: zeta = digamma(alpha) - digamma(beta + num_removed).

Theory: arXiv:2309.12095, spike-and-slab reduction.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction import _streaming
from secateur.reduction._validation import require

__all__ = ["SpikeAndSlab", "spike_and_slab"]


@dataclass(frozen=True)
class SpikeAndSlab:
    """The decision for one layer.

    Attributes:
        keep_probability: Probability that each weight stays, `sigmoid(log_odds - delta_f)`.
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

    Sums run in float64. Without gradients, tensors on the CPU are streamed in cache-sized chunks.

    Args:
        delta_f: Evidence for removing each weight that is still in, in nats; any shape.
        num_removed: Weights of the layer that are already out; they count as spikes, so the sparser the
            layer the more evidence a weight must show to stay.
        alpha: Beta pseudo-count of weights that stay; positive.
        beta: Beta pseudo-count of weights that go; positive.
        num_iterations: Fixed-point iterations; the paper uses four.

    Returns:
        Probabilities, threshold and decision.

    Raises:
        InvalidArgumentError: If delta_f has a nan, or a count is out of its range.

    References:
        arXiv:2309.12095, the reduction with a spike-and-slab prior.

    Example:
        >>> import torch
        >>> spike_and_slab(torch.tensor([-9.0, 1.0, 2.0, 2.0])).keep
        tensor([ True, False, False, False])
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 < value < math.inf:
            raise InvalidArgumentError(f"{name} must be positive and finite, got {value}")
    for name, count in (("num_removed", num_removed), ("num_iterations", num_iterations)):
        if count < 0:
            raise InvalidArgumentError(f"{name} must not be negative, got {count}")

    streams = (
        delta_f.device.type == "cpu" and delta_f.is_contiguous() and delta_f.numel() > _streaming.CHUNK_SIZE
    )
    if torch.is_grad_enabled() and delta_f.requires_grad:
        streams = False
    total = delta_f.numel()

    kept = torch.zeros((), dtype=torch.float64, device=delta_f.device)
    log_odds = _log_odds(kept, torch.zeros_like(kept), alpha, beta + num_removed)
    for _ in range(num_iterations):
        kept = _streamed_sum(delta_f, log_odds) if streams else _sum(delta_f, log_odds)
        log_odds = _log_odds(kept, total - kept, alpha, beta + num_removed)

    log_odds = log_odds.to(delta_f.dtype)
    if streams:
        keep_probability, keep = _streamed_decision(delta_f, log_odds)
    else:
        keep_probability, keep = torch.sigmoid(log_odds - delta_f), delta_f <= log_odds
    if log_odds.isnan() or (num_iterations == 0 and bool(keep_probability.isnan().any())):
        require("delta_f", delta_f, ~delta_f.isnan(), "a number of nats")
    return SpikeAndSlab(keep_probability, log_odds, keep)


def _log_odds(kept: Tensor, gone: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.digamma(alpha + kept) - torch.digamma(beta + gone)


def _sum(delta_f: Tensor, log_odds: Tensor) -> Tensor:
    """Expected number of weights that stay."""
    return torch.sigmoid(log_odds.to(delta_f.dtype) - delta_f).sum(dtype=torch.float64)


def _streamed_sum(delta_f: Tensor, log_odds: Tensor) -> Tensor:
    """The same, chunk by chunk."""
    flat, zeta = delta_f.detach().reshape(-1), log_odds.to(delta_f.dtype)

    def kept(chunk: slice) -> float:
        return (zeta - flat[chunk]).sigmoid_().sum().item()

    return torch.tensor(math.fsum(_streaming.over_chunks(kept, flat.numel())), dtype=torch.float64)


def _streamed_decision(delta_f: Tensor, log_odds: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of staying and decision, chunk by chunk."""
    flat, zeta = delta_f.detach().reshape(-1), log_odds.detach()
    keep_probability = torch.empty(delta_f.shape, dtype=delta_f.dtype)
    keep = torch.empty(delta_f.shape, dtype=torch.bool)
    probabilities, decisions = keep_probability.reshape(-1), keep.reshape(-1)

    def decide(chunk: slice) -> float:
        torch.sub(zeta, flat[chunk], out=probabilities[chunk]).sigmoid_()
        torch.le(flat[chunk], zeta, out=decisions[chunk])
        return 0.0

    _streaming.over_chunks(decide, flat.numel())
    return keep_probability, keep
