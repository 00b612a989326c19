"""Call a function of the user's that the command line names as `package.module:function`."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

from secateur.errors import SecateurError, UsageError, in_a_line

__all__ = ["call_factory", "current_directory_first", "is_factory"]


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
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = f"no module {error.name!r}" if error.name else str(error)
        raise UsageError(
            f"{option} {text}: expected a module of the current directory or the environment, got {missing}"
        ) from error
    except Exception as error:
        raise _failed(option, text, "a module that can be imported", error) from error
    try:
        function = reduce(getattr, name.split("."), module)
    except AttributeError as error:
        raise UsageError(
            f"{option} {text}: expected a function {name!r} in {module_name}, got none of that name"
        ) from error
    if not callable(function):
        raise UsageError(
            f"{option} {text}: expected a function that is called without arguments, got "
            f"{type(function).__name__}"
        )
    try:
        return function()
    except SecateurError:
        raise
    except Exception as error:
        raise _failed(option, text, "a function that returns when called without arguments", error) from error


def _failed(option: str, text: str, expected: str, error: Exception) -> UsageError:
    return UsageError(f"{option} {text}: expected {expected}, got {in_a_line(error)}")


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
