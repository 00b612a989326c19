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

from secateur.inference.block import ParameterBlock, Part
from secateur.inference.hessian import HessianOptimizer, track_hessian

__all__ = ["IVON"]


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
    momentum.lerp_(gradient, 1 - betas[0])
    track_hessian(hessian, gradient, noise, delta, num_data, 1 - betas[1])
    direction = (momentum / (1 - betas[0] ** step) + delta * mean) / (hessian + delta)
    moved = mean - lr * direction.clamp(-clip_radius, clip_radius)
    return moved if keep is None else moved * keep


class IVON(HessianOptimizer):
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

    positive = ("lr", "weight_decay", "temperature", "hessian_init")

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
            noise=noise,
            num_data=num_data,
            include=include,
            exclude=exclude,
            generator=generator,
            compile=compile,
        )
        self._update_kernel = self._kernel(_newton_update)

    def _new_state(self, block: ParameterBlock, group: dict[str, Any]) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), dtype=torch.float32, device=block.device),
            "hessian": block.full(group["hessian_init"]),
            "momentum": block.full(0.0),
        }

    def _moved(
        self,
        block: ParameterBlock,
        group: dict[str, Any],
        part: Part,
        gradient: Tensor,
        noise: Tensor,
        num_data: Tensor,
    ) -> Tensor:
        return self._update_kernel(
            block.mean_of(part),
            block.state["hessian"][part.span],
            block.state["momentum"][part.span],
            gradient,
            noise,
            block.kept(part),
            block.state["step"],
            self._scalar(block, group["lr"]),
            num_data,
            group["weight_decay"],
            group["betas"],
            group["clip_radius"],
        )

    def _moments(
        self, block: ParameterBlock, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        return self._hessian_moments(block, group, num_data=self.num_data / group["temperature"])
