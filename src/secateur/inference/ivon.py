"""Improved variational online Newton (IVON), written from arXiv:2402.17641, algorithm 1.

    std  = 1 / sqrt(lambda (h + delta)),    lambda = N / T,    w = m + std * noise
    g   <- b1 g + (1 - b1) g(w)
    h   <- b2 h + (1 - b2) h' + (1 - b2)^2 (h - h')^2 / (2 (h + delta)),    h' = g(w) * noise / std
    m   <- m - lr (g / (1 - b1^t) + delta m) / (h + delta)

The Hessian scales the step as well as the posterior. As it is usually run (h starts near 1, b2 = 0.99999)
the precision after a few thousand steps is still mostly its initial value, so evidence computed from it
means little; `Calibrated` exists for that reason.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.inference.base import Block, PosteriorOptimizer, check_positive
from secateur.inference.flat import FlatParameters
from secateur.inference.noise import NOISES, draw_noise, signs_from_bits

__all__ = ["IVON"]


def _sample(
    mean: Tensor, hessian: Tensor, noise: Tensor, keep: Tensor | None, delta: float, num_data: Tensor
) -> Tensor:
    weight = mean + noise * (num_data * (hessian + delta)).rsqrt()
    return weight if keep is None else weight * keep


def _newton_update(
    mean: Tensor,
    hessian: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    noise: Tensor,
    keep: Tensor | None,
    step: Tensor,
    lr: Tensor,
    num_data: Tensor,
    delta: float,
    betas: tuple[float, float],
    clip_radius: float,
) -> Tensor:
    if keep is not None:
        gradient = gradient * keep
    rate = 1 - betas[1]
    momentum.lerp_(gradient, 1 - betas[0])
    estimate = gradient * noise * (num_data * (hessian + delta)).sqrt()
    correction = 0.5 * rate**2 * (hessian - estimate).square() / (hessian + delta)
    hessian.lerp_(estimate, rate).add_(correction)
    direction = (momentum / (1 - betas[0] ** step) + delta * mean) / (hessian + delta)
    moved = mean - lr * direction.clamp(-clip_radius, clip_radius)
    return moved if keep is None else moved * keep


class IVON(PosteriorOptimizer):
    """Fit a Gaussian posterior by the improved variational online Newton method.

    Args:
        params: `model.named_parameters()`, or groups of them.
        lr: Step size; 0.1 to 0.2 is usual, decayed to zero over the run.
        num_data: Number of training data N; the loss is a mean over a batch of them.
        weight_decay: Prior precision per datum delta.
        temperature: Temperature T of posterior and prior alike.
        hessian_init: Initial Hessian per datum.
        betas: Decay rates of the gradient and of the Hessian average.
        clip_radius: Largest step direction per weight.
        noise: "rademacher" (cheap) or "gaussian", for training only.
        include: Name patterns of the parameters that get a posterior; all when None.
        exclude: Name patterns of parameters that are trained as points.
        generator: Source of the noise.
        compile: Compile the update into one fused pass.

    Raises:
        InvalidArgumentError: If a hyper-parameter is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.2,
        *,
        num_data: int,
        weight_decay: float = 1e-3,
        temperature: float = 1.0,
        hessian_init: float = 0.5,
        betas: tuple[float, float] = (0.9, 0.99999),
        clip_radius: float = float("inf"),
        noise: str = "gaussian",
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        compile: bool = False,
    ) -> None:
        check_positive(lr=lr, weight_decay=weight_decay, temperature=temperature, hessian_init=hessian_init)
        if noise not in NOISES:
            raise InvalidArgumentError(f"noise: expected one of {', '.join(NOISES)}, got {noise!r}")
        self.noise = noise
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "temperature": temperature,
            "hessian_init": hessian_init,
            "betas": betas,
            "clip_radius": clip_radius,
        }
        super().__init__(
            params,
            defaults,
            num_data=num_data,
            include=include,
            exclude=exclude,
            generator=generator,
            compile=compile,
        )
        self._sample_kernel = self._kernel(_sample)
        self._update_kernel = self._kernel(_newton_update)
        self._sign_kernel = self._kernel(signs_from_bits)

    def _new_state(self, flat: FlatParameters, group: dict[str, Any]) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), dtype=torch.float32, device=flat.parameters[0].device),
            "hessian": flat.full(group["hessian_init"]),
            "momentum": flat.full(0.0),
        }

    def _draw(self, block: Block, group: dict[str, Any], *, training: bool) -> Tensor:
        kind = self.noise if training else "gaussian"
        noise = draw_noise(kind, block.mean, generator=self.generator, expand=self._sign_kernel)
        num_data = self._scalar(block, self.num_data / group["temperature"])
        if training:
            block.drawn = {"noise": noise, "num_data": num_data}
        return self._sample_kernel(
            block.mean, block.state["hessian"], noise, block.keep, group["weight_decay"], num_data
        )

    def _update(self, block: Block, group: dict[str, Any], gradient: Tensor) -> Tensor:
        state = block.state
        state["step"] += 1
        return self._update_kernel(
            block.mean,
            state["hessian"],
            state["momentum"],
            gradient,
            block.drawn["noise"],
            block.keep,
            state["step"],
            self._scalar(block, group["lr"]),
            block.drawn["num_data"],
            group["weight_decay"],
            group["betas"],
            group["clip_radius"],
        )

    def _moments(
        self, block: Block, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        num_data = self.num_data / group["temperature"]
        precision = num_data * (block.state["hessian"] + group["weight_decay"])
        prior = self._scalar(block, num_data * group["weight_decay"])
        return block.mean, precision, dict.fromkeys(block.flat.names, prior)
