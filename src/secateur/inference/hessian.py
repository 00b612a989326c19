"""What `Calibrated` and `IVON` share: a running Hessian diagonal that is also the precision.

With h the Hessian diagonal per datum, delta the prior precision per datum, T the temperature, N the data:

    precision = N (h + delta) / T,    w = m + noise / sqrt(precision)
    h        <- (1 - r) h + r h' + r^2 (h - h')^2 / (2 (h + delta)),     h' = g * noise * sqrt(precision)

E[h'] is the Hessian diagonal averaged over the posterior. With x = r (h' - h) / (h + delta) the step is
h + delta <- (h + delta) (1 + x + x^2 / 2), never less than half of what it was, whatever h' is (the geodesic
correction of arXiv:2402.17641, eq. 6).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.inference.block import Block
from secateur.inference.noise import NOISES, draw_noise, signs_from_bits

__all__ = ["HessianSampler", "hessian_moments", "sample_weights", "track_hessian"]


def sample_weights(
    mean: Float[Tensor, " n"],
    hessian: Float[Tensor, " n"],
    noise: Float[Tensor, " n"],
    keep: Float[Tensor, " n"] | None,
    delta: float,
    num_data: Float[Tensor, ""],
) -> Float[Tensor, " n"]:
    """Return weights drawn from the posterior; removed ones are zero.

    Args:
        mean: Posterior mean.
        hessian: Hessian diagonal per datum.
        noise: Zero-mean, unit-variance noise.
        keep: 1 where an entry stays, 0 where it is removed; None when all stay.
        delta: Prior precision per datum.
        num_data: Effective number of data, N / T.
    """
    weight = mean + noise * (num_data * (hessian + delta)).rsqrt()
    return weight if keep is None else weight * keep


def track_hessian(
    hessian: Float[Tensor, " n"],
    gradient: Float[Tensor, " n"],
    noise: Float[Tensor, " n"],
    delta: float,
    num_data: Float[Tensor, ""],
    rate: float,
) -> None:
    """Move the running Hessian in place by one gradient taken at a draw.

    Args:
        hessian: Hessian diagonal per datum; moved.
        gradient: Gradient of the mean loss at the draw.
        noise: Noise of the draw.
        delta: Prior precision per datum.
        num_data: Effective number of data of the draw.
        rate: Weight r of the new estimate.
    """
    estimate = gradient * noise * (num_data * (hessian + delta)).sqrt()
    correction = 0.5 * rate**2 * (hessian - estimate).square() / (hessian + delta)
    hessian.lerp_(estimate, rate).add_(correction)


class HessianSampler:
    """Draws the weights of a block whose state has a `hessian`.

    Args:
        noise: Noise for training, one of `NOISES`; predictions always use Gaussian noise.
        kernel: Returns a function as it is or compiled.

    Raises:
        InvalidArgumentError: If there is no such noise.
    """

    def __init__(self, noise: str, kernel: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        if noise not in NOISES:
            raise InvalidArgumentError(f"noise: expected one of {', '.join(NOISES)}, got {noise!r}")
        self.noise = noise
        self._sample_kernel = kernel(sample_weights)
        self._sign_kernel = kernel(signs_from_bits)

    def draw(
        self,
        block: Block,
        *,
        delta: float,
        num_data: Float[Tensor, ""],
        generator: torch.Generator,
        training: bool,
    ) -> Float[Tensor, " n"]:
        """Return weights drawn from the posterior of a block.

        Args:
            block: Its mean, state and mask are read.
            delta: Prior precision per datum.
            num_data: Effective number of data, N / T.
            generator: Source of the noise.
            training: Whether to remember the draw on the block, for `track_hessian`.
        """
        kind = self.noise if training else "gaussian"
        noise = draw_noise(kind, block.mean, generator=generator, expand=self._sign_kernel)
        if training:
            block.drawn = {"noise": noise, "num_data": num_data}
        return self._sample_kernel(block.mean, block.state["hessian"], noise, block.keep, delta, num_data)


def hessian_moments(
    block: Block, *, delta: float, num_data: float
) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
    """Return a block's mean, its precision N (h + delta) / T, and the named prior precisions N delta / T.

    Args:
        block: Block whose state has a `hessian`.
        delta: Prior precision per datum.
        num_data: Effective number of data, N / T.
    """
    precision = num_data * (block.state["hessian"] + delta)
    prior = torch.full((), num_data * delta, dtype=block.mean.dtype, device=block.mean.device)
    return block.mean, precision, dict.fromkeys(block.flat.names, prior)
