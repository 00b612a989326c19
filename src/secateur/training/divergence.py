"""Locate the first non-finite value in a diverged training run."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import DivergenceError

__all__ = ["check_losses", "check_weights"]


def check_losses(
    losses: list[Tensor], *, last_step: int, model: nn.Module, batch: Tensor, learning_rate: float
) -> float:
    """Check that losses are finite, and return the last.

    Args:
        losses: Losses of the latest steps, in order; reading them makes a GPU wait.
        last_step: Number of the last one's step.
        model: Network under the weights of the last step.
        batch: Images of the last step.
        learning_rate: Step size to advise against.

    Raises:
        DivergenceError: With the first step whose loss is not finite, and the layer.
    """
    values = torch.stack(losses).tolist()
    for number, value in enumerate(values, last_step - len(values) + 1):
        if not math.isfinite(value):
            layer = _first_bad_parameter(model) or _first_bad_module(model, batch)
            raise _diverged(number, f"a finite loss, got {value}, first in {layer}", learning_rate)
    return values[-1]


def check_weights(model: nn.Module, *, step: int, learning_rate: float) -> None:
    """Check that weights are finite; the last step of an epoch has no loss that would show it.

    Args:
        model: Network at the posterior mean.
        step: Number of the last step.
        learning_rate: Step size to advise against.

    Raises:
        DivergenceError: With the step and the first parameter that is not finite.
    """
    if name := _first_bad_parameter(model):
        raise _diverged(step, f"finite weights, got nan or inf, first in {name}", learning_rate)


def _diverged(step: int, what: str, learning_rate: float) -> DivergenceError:
    return DivergenceError(
        f"step {step}: expected {what}; try a smaller --learning-rate (now {learning_rate:.2g}), "
        "and check that inputs are standardised"
    )


def _first_bad_parameter(model: nn.Module) -> str | None:
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return name
    return None


@torch.no_grad()
def _first_bad_module(model: nn.Module, batch: Tensor) -> str:
    """Find the innermost module with the first non-finite output."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not output.isfinite().all():
                found.append(f"layer {name}" if name else f"the forward pass of {type(model).__name__}")

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss itself"
