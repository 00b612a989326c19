"""Functions and classes of the user's own, by name: `package.module:function`.

Calling one imports its module, which runs code. So a name is used only where the user typed it, on a command
line or as an argument; a name that stands in a file is never imported.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import nn

from secateur.errors import SecateurError, UsageError, in_a_line

__all__ = ["build_module", "call_factory", "current_directory_first", "is_factory"]


def is_factory(text: str) -> bool:
    """Return whether a text names a function of a module, as `package.module:function`.

    Args:
        text: Value of an option.

    >>> is_factory("own.networks:build"), is_factory("fashion-mnist"), is_factory("C:/data.safetensors")
    (True, False, False)
    """
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def call_factory(option: str, text: str) -> Any:
    """Import a function of the environment and return what it returns; this runs the module's code.

    Inside `current_directory_first` the current directory is looked into as well.

    Args:
        option: What the error calls it, `--model`.
        text: `package.module:function`; the function is called without arguments.

    Raises:
        UsageError: If there is no such module or function, or its code fails.
    """
    module_name, _, name = text.partition(":")
    expected = "a module that can be imported"
    try:
        module = importlib.import_module(module_name)
        expected = f"a function {name!r} in {module_name}"
        function = reduce(getattr, name.split("."), module)
        expected = "a function that returns when called without arguments"
        if not callable(function):
            raise UsageError(
                f"{option} {text}: expected a function that is called without arguments, got "
                f"{type(function).__name__}"
            )
        return function()
    except ModuleNotFoundError as error:
        missing = f"no module {error.name!r}" if error.name else str(error)
        expected = "a module of the current directory or the environment"
        raise UsageError(f"{option} {text}: expected {expected}, got {missing}") from error
    except SecateurError:
        raise
    except Exception as error:
        remedy = ""
        if isinstance(error, TypeError) and "argument" in str(error):
            remedy = "; give its arguments defaults, or name a function that calls it"
        raise UsageError(f"{option} {text}: expected {expected}, got {in_a_line(error)}{remedy}") from error


def build_module(option: str, text: str, *, seed: int | None = None) -> nn.Module:
    """Import a function or class of the environment that returns a network, and call it.

    Args:
        option: What the error calls it.
        text: `package.module:function`.
        seed: Seed of the initial weights; the global random state stays as it was. None draws from it.

    Raises:
        UsageError: If there is no such function, or it returns no network with weights.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        model = call_factory(option, text)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{option} {text}: expected a torch.nn.Module, got {type(model).__name__}")
    if next(model.parameters(), None) is None:
        raise UsageError(f"{option} {text}: expected a network with weights, got one without")
    return model


@contextmanager
def current_directory_first() -> Iterator[None]:
    """Let imports look into the current directory, as `python -m` does; an installed command does not.

    Code that a factory returned may import more at any time, so the block holds all of its use.
    """
    sys.path.insert(0, "")
    try:
        yield
    finally:
        if "" in sys.path:
            sys.path.remove("")
