"""Zero-mean, unit-variance noise for weights under training.

Gaussian noise is the posterior's own. Rademacher noise (plus or minus one, 64 signs from one random
integer) has the same mean and variance at a twentieth of the cost, and gives the Hessian diagonal as a
central difference, (g(m + s) - g(m - s)) / 2s, where Gaussian noise gives its average under q by Stein's
identity. Both are exact where the loss is quadratic. Predictions always use Gaussian noise.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["NOISES", "draw_noise", "signs_from_bits"]

NOISES = ("gaussian", "rademacher")


def signs_from_bits(bits: Int[Tensor, " words"], like: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return plus or minus one per bit, 64 from each word, as many as `like` has entries."""
    shifts = torch.arange(64, device=bits.device)
    signs = ((bits[:, None] >> shifts) & 1).to(like.dtype) * 2 - 1
    return signs.reshape(-1)[: like.numel()]


def draw_noise(
    kind: str,
    like: Float[Tensor, " n"],
    *,
    generator: torch.Generator,
    expand: Callable[[Tensor, Tensor], Tensor] = signs_from_bits,
) -> Float[Tensor, " n"]:
    """Draw noise of the named kind.

    Args:
        kind: One of `NOISES`.
        like: Vector whose length, dtype and device the noise takes.
        generator: Source of randomness on that device.
        expand: `signs_from_bits` or a compiled form of it.
    """
    if kind == "gaussian":
        return torch.empty_like(like).normal_(generator=generator)
    words = torch.empty((like.numel() + 63) // 64, dtype=torch.int64, device=like.device)
    # random_() without bounds leaves the sign bit 0; from the least integer on, all 64 are drawn
    words.random_(-(2**63), None, generator=generator)
    return expand(words, like)
