"""From evidence to a decision: a spike-and-slab prior whose sparsity is learned from delta_f.

Each weight of a layer is in the slab (stays) with probability rho and in the spike (is zero) otherwise,
rho ~ Beta(alpha, beta). With delta_f in nats, positive in favour of removal, the mean-field posterior of
the indicators and of rho is the fixed point of

    q_k   = sigmoid(zeta - delta_f_k)                 probability that weight k stays
    zeta  = digamma(alpha + sum q) - digamma(beta + num_removed + sum (1 - q))

It starts from what is known before any evidence: zeta = digamma(alpha) - digamma(beta + num_removed).
Each step maps zeta by an increasing function g, so zeta moves in one direction until it meets the first
fixed point. Once a step is below `TOLERANCE`, Newton's steps (g(zeta) - zeta) / (1 - g'(zeta)) end the
iteration: the error of each is about the square of its length. Long vectors are read into a histogram, from
which all but the last sums are taken.

Theory: arXiv:2309.12095, spike-and-slab reduction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction import _streaming
from secateur.reduction._validation import require
from secateur.shapes import Bool, Float

__all__ = ["SpikeAndSlab", "spike_and_slab", "spike_and_slab_log_odds"]

TOLERANCE = 1e-3
"""Change of the log odds, in nats, at which Newton's steps take over."""

MAX_ITERATIONS = 1000
"""Bound of the steps of either kind."""

STEEP = 0.95
"""Slope g' from which Newton's steps are not trusted."""

_BINS_PER_NAT = 64
_RANGE = 36.0
"""Of the histogram, in nats: what lies outside stays or goes for certain, to the last bit of a float32."""


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
    num_iterations: int | None = None,
) -> SpikeAndSlab:
    """Decide which weights of one layer stay, learning how sparse the layer is.

    Sums run in float64. Without gradients, tensors on the CPU are streamed in cache-sized chunks.

    Args:
        delta_f: Evidence for removing each weight that is still in, in nats; any shape.
        num_removed: Weights of the layer that are already out; they count as spikes, so the sparser the
            layer the more evidence a weight must show to stay.
        alpha: Beta pseudo-count of weights that stay; positive.
        beta: Beta pseudo-count of weights that go; positive.
        num_iterations: Fixed-point iterations; the paper uses four. When None, iterate until the log odds
            no longer change.

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
    log_odds = spike_and_slab_log_odds(
        delta_f, num_removed=num_removed, alpha=alpha, beta=beta, num_iterations=num_iterations
    )
    if _streams(delta_f):
        keep_probability, keep = _streamed_decision(delta_f, log_odds)
    else:
        keep_probability, keep = torch.sigmoid(log_odds - delta_f), delta_f <= log_odds
    return SpikeAndSlab(keep_probability, log_odds, keep)


def spike_and_slab_log_odds(
    delta_f: Float[Tensor, "*n"],
    *,
    num_removed: int = 0,
    alpha: float = 1.0,
    beta: float = 1.0,
    num_iterations: int | None = None,
) -> Float[Tensor, ""]:
    """Return the threshold of `spike_and_slab` alone: the expected log odds of staying, in nats.

    Args:
        delta_f: As for `spike_and_slab`.
        num_removed: As for `spike_and_slab`.
        alpha: As for `spike_and_slab`.
        beta: As for `spike_and_slab`.
        num_iterations: As for `spike_and_slab`.

    Raises:
        InvalidArgumentError: As for `spike_and_slab`.
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 < value < math.inf:
            raise InvalidArgumentError(f"{name} must be positive and finite, got {value}")
    for name, count in (("num_removed", num_removed), ("num_iterations", num_iterations or 0)):
        if count < 0:
            raise InvalidArgumentError(f"{name} must not be negative, got {count}")
    prior = _Prior(alpha, beta + num_removed)
    if num_iterations is None:
        log_odds = _converged(delta_f, prior)
    else:
        log_odds = prior.log_odds(delta_f.numel())
        for _ in range(num_iterations):
            log_odds = prior.log_odds(delta_f.numel(), _expected_kept(delta_f, log_odds))
    if log_odds.isnan() or num_iterations == 0:
        require("delta_f", delta_f, ~delta_f.isnan(), "a number of nats")
    return log_odds.to(delta_f)


@dataclass(frozen=True)
class _Prior:
    """Beta counts, weights that are already out included."""

    stay: float
    go: float

    def log_odds(self, total: int, kept: Tensor | None = None) -> Tensor:
        """Expected log odds of staying if so many of all weights stay; before any evidence when None."""
        if kept is None:
            kept = gone = torch.zeros((), dtype=torch.float64)
        else:
            gone = total - kept
        return torch.digamma(self.stay + kept) - torch.digamma(self.go + gone)

    def slope(self, total: int, kept: Tensor) -> Tensor:
        """Change of these log odds by one more weight that stays."""
        return torch.polygamma(1, self.stay + kept) + torch.polygamma(1, self.go + total - kept)


def _converged(delta_f: Tensor, prior: _Prior) -> Tensor:
    """Follow the iteration to its fixed point; a nan ends it at once."""
    total, log_odds = delta_f.numel(), prior.log_odds(delta_f.numel())
    sums = _histogram_sums(delta_f) if _streams(delta_f) else partial(_sums, delta_f)
    for _ in range(MAX_ITERATIONS):
        before, log_odds = log_odds, prior.log_odds(total, sums(log_odds)[0])
        if not (log_odds - before).abs() >= TOLERANCE:
            break
    enough = 4 * math.sqrt(torch.finfo(delta_f.dtype).eps)  # after such a step the error is a few roundings
    for _ in range(MAX_ITERATIONS):
        step, steep = _newton_step(sums(log_odds), log_odds, total, prior)
        log_odds = log_odds + step
        if steep or not step.abs() >= enough:
            break
    if _streams(delta_f):  # the histogram's sum is a little off, its derivative good enough for a last step
        pair = _expected_kept(delta_f, log_odds), sums(log_odds)[1]
        log_odds = log_odds + _newton_step(pair, log_odds, total, prior)[0]
    return log_odds


def _newton_step(
    sums: tuple[Tensor, Tensor], log_odds: Tensor, total: int, prior: _Prior
) -> tuple[Tensor, bool]:
    """Return Newton's step, or a plain one where g' is near 1, and whether it is."""
    kept, spread = sums
    slope = (prior.slope(total, kept) * spread).detach()
    step = prior.log_odds(total, kept) - log_odds
    return (step, True) if slope >= STEEP else (step / (1 - slope), False)


def _histogram_sums(delta_f: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function that gives the sums of `_sums` by a histogram of the evidence."""
    flat, num_bins = delta_f.detach().reshape(-1), round(2 * _RANGE * _BINS_PER_NAT) + 1
    middle = torch.tensor(_RANGE * _BINS_PER_NAT + 0.5, dtype=flat.dtype)
    counts = torch.zeros(num_bins, dtype=torch.int64)
    with torch.no_grad():
        for chunk in _streaming.chunks(flat.numel()):
            place = torch.add(middle, flat[chunk], alpha=_BINS_PER_NAT).clamp_(0, num_bins - 1)
            index = place.to(torch.int32).clamp_(min=0)  # a nan goes anywhere: the last pass finds it
            counts += torch.bincount(index, minlength=num_bins)
    weights = counts.double()
    center = torch.arange(num_bins, dtype=torch.float64) / _BINS_PER_NAT - _RANGE

    def sums(log_odds: Tensor) -> tuple[Tensor, Tensor]:
        stays = torch.sigmoid(log_odds - center)
        return (weights * stays).sum(), (weights * stays * (1 - stays)).sum()

    return sums


def _streams(delta_f: Tensor) -> bool:
    """Whether the evidence is one long run of memory that needs no gradient."""
    if torch.is_grad_enabled() and delta_f.requires_grad:
        return False
    return delta_f.device.type == "cpu" and delta_f.is_contiguous() and delta_f.numel() > _streaming.ROW_SIZE


def _sums(delta_f: Tensor, log_odds: Tensor) -> tuple[Tensor, Tensor]:
    """Expected number of weights that stay, and its derivative sum q (1 - q) by the log odds."""
    stays = torch.sigmoid(log_odds.to(delta_f) - delta_f)
    return stays.sum(dtype=torch.float64), (stays * (1 - stays)).sum(dtype=torch.float64)


def _expected_kept(delta_f: Tensor, log_odds: Tensor) -> Tensor:
    """Expected number of weights that stay, chunk by chunk where the evidence streams."""
    if not _streams(delta_f):
        return _sums(delta_f, log_odds)[0]
    flat, zeta = delta_f.detach().reshape(-1), log_odds.detach().to(delta_f)

    with torch.no_grad():
        kept = [
            _streaming.total((zeta - flat[chunk]).sigmoid_()) for chunk in _streaming.chunks(flat.numel())
        ]
    return torch.tensor(math.fsum(kept), dtype=torch.float64)


def _streamed_decision(delta_f: Tensor, log_odds: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of staying and decision, chunk by chunk."""
    flat, zeta = delta_f.detach().reshape(-1), log_odds.detach()
    keep_probability = torch.empty(delta_f.shape, dtype=delta_f.dtype)
    keep = torch.empty(delta_f.shape, dtype=torch.bool)
    probabilities, decisions = keep_probability.reshape(-1), keep.reshape(-1)

    with torch.no_grad():
        for chunk in _streaming.chunks(flat.numel()):
            torch.sub(zeta, flat[chunk], out=probabilities[chunk]).sigmoid_()
            torch.le(flat[chunk], zeta, out=decisions[chunk])
    return keep_probability, keep
