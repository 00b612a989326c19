"""What `Calibrated` and `IVON` share: a running Hessian diagonal that is also the precision.

With h the Hessian diagonal per datum, delta the prior precision per datum, T the temperature, N the data:

    precision = N (h + delta) / T,    w = m + noise / sqrt(precision)
    h        <- (1 - r) h + r h' + r^2 (h - h')^2 / (2 (h + delta)),     h' = g * noise * sqrt(precision)

E[h'] is the Hessian diagonal averaged over the posterior. With x = r (h' - h) / (h + delta) the step is
h + delta <- (h + delta) (1 + x + x^2 / 2), never less than half of what it was, whatever h' is (the geodesic
correction of arXiv:2402.17641, eq. 6).

Gaussian noise is the posterior's own. Rademacher noise (plus or minus one, 64 signs from one random integer)
has the same mean and variance at a twentieth of the cost, and gives the Hessian diagonal as a central
difference, (g(m + s) - g(m - s)) / 2s, where Gaussian noise gives its average under q by Stein's identity.
Both are exact where the loss is quadratic. Predictions always use Gaussian noise.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.inference.base import PosteriorOptimizer
from secateur.inference.block import ParameterBlock, Part

__all__ = [
    "NOISES",
    "HessianOptimizer",
    "random_words",
    "sample_weights",
    "signs_from_words",
    "track_hessian",
]

NOISES = ("gaussian", "rademacher")


def random_words(num_signs: int, *, generator: torch.Generator) -> Int[Tensor, " words"]:
    """Return random integers whose bits are that many signs, 64 to the integer.

    Args:
        num_signs: How many signs are wanted.
        generator: Source of randomness, whose device they are on.
    """
    words = torch.empty((num_signs + 63) // 64, dtype=torch.int64, device=generator.device)
    # random_() without bounds leaves the sign bit 0; from the least integer on, all 64 are drawn
    return words.random_(-(2**63), None, generator=generator)


def signs_from_words(words: Int[Tensor, " words"], like: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return plus or minus one per bit, 64 from each word, as many as `like` has entries."""
    shifts = torch.arange(64, device=words.device)
    signs = ((words[:, None] >> shifts) & 1).to(like.dtype) * 2 - 1
    return signs.reshape(-1)[: like.numel()]


def sample_weights(
    mean: Float[Tensor, " n"],
    hessian: Float[Tensor, " n"],
    noise: Float[Tensor, " n"],
    keep: Tensor | None,
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


class HessianOptimizer(PosteriorOptimizer):
    """Base of the optimisers whose blocks have a `hessian`; draws and steps go part by part.

    Args:
        params: As for `PosteriorOptimizer`.
        defaults: As for `PosteriorOptimizer`; `weight_decay` and `temperature` among them.
        noise: Noise for training, one of `NOISES`.
        **options: As for `PosteriorOptimizer`.

    Raises:
        InvalidArgumentError: If there is no such noise, or as for `PosteriorOptimizer`.
    """

    divides_blocks = True
    takes_shards = True

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], *, noise: str, **options: Any
    ) -> None:
        super().__init__(params, defaults, **options)
        if noise not in NOISES:
            raise InvalidArgumentError(f"noise: expected one of {', '.join(NOISES)}, got {noise!r}")
        self.noise = noise
        self._sample_kernel = self._kernel(sample_weights)
        self._sign_kernel = self._kernel(signs_from_words)

    @abstractmethod
    def _moved(
        self,
        block: ParameterBlock,
        group: dict[str, Any],
        part: Part,
        gradient: Tensor,
        noise: Tensor,
        num_data: Tensor,
    ) -> Tensor:
        """Move a part of the state by one step and return the new posterior mean, removed entries zero."""

    def _put_draw(self, block: ParameterBlock, group: dict[str, Any], *, training: bool) -> None:
        num_data = self._scalar(block, self.num_data / group["temperature"])
        drawn: dict[str, Tensor] = {"num_data": num_data}
        if training and self.noise == "rademacher":
            drawn["words"] = random_words(block.num_drawn, generator=self.generator)
            if block.shards is not None:
                drawn["noise"] = block.shards.signs(drawn.pop("words"), block.dtype)
        elif training:
            drawn["noise"] = self._normal(block, block.num_drawn)
        for part in block.parts:
            mean, hessian = block.mean_of(part), block.state["hessian"][part.span]
            if training:
                noise = self._noise(drawn, mean, part)
            else:
                noise = self._normal(block, len(mean) if block.shards is None else block.num_drawn)
            weights = self._sample_kernel(
                mean, hessian, noise, block.kept(part), group["weight_decay"], num_data
            )
            block.write(weights, part)
        if training:
            if len(block.parts) == 1:  # small enough to keep its signs as numbers until the step
                drawn["noise"] = noise
            block.drawn = drawn

    def _normal(self, block: ParameterBlock, count: int) -> Tensor:
        drawn = torch.empty(count, dtype=block.dtype, device=block.device).normal_(generator=self.generator)
        return drawn if block.shards is None else block.shards.own(drawn)

    def _noise(self, drawn: dict[str, Tensor], like: Tensor, part: Part) -> Tensor:
        if "noise" in drawn:
            return drawn["noise"][part.span]
        return self._sign_kernel(drawn["words"][part.span.start // 64 : -(-part.span.stop // 64)], like)

    def _take_step(self, block: ParameterBlock, group: dict[str, Any]) -> None:
        gradients = block.gradients()
        if "step" in block.state:
            block.state["step"] += 1
        for part in block.parts:
            gradient = block.gather(gradients, part)
            noise = self._noise(block.drawn, gradient, part)
            block.write(self._moved(block, group, part, gradient, noise, block.drawn["num_data"]), part)

    def _hessian_moments(
        self, block: ParameterBlock, group: dict[str, Any], *, num_data: float
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        """Return mean, precision N (h + delta) / T, and the named prior precisions N delta / T."""
        delta, mean = group["weight_decay"], block.mean
        precision = num_data * (block.state["hessian"] + delta)
        prior = torch.full((), num_data * delta, dtype=mean.dtype, device=mean.device)
        return mean, precision, dict.fromkeys(block.names, prior)
