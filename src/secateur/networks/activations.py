"""Activation functions by the names that a command line or a saved configuration can hold."""

from collections.abc import Callable

from torch import nn

from secateur.errors import unknown_name

__all__ = ["ACTIVATIONS", "activation_module"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
}


def activation_module(name: str) -> nn.Module:
    """Return a new module for the activation function called `name`.

    Raises:
        UsageError: If there is no such activation.
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()
