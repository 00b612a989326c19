"""Reconstruct the command line of a run, for its record and to resume it after Ctrl-C."""

import inspect
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["command_line", "run_directory"]


def command_line(command: Callable[..., None], given: Mapping[str, Any]) -> str:
    """Format the shell command that calls a command's function with these values.

    Args:
        command: The function; parameters without a default are arguments, the others options, left out
            where they have their default.
        given: A value for each parameter.
    """
    arguments, options = [], []
    for name, parameter in inspect.signature(command).parameters.items():
        value, option = given[name], name.strip("_").replace("_", "-")
        if parameter.default is parameter.empty:
            arguments.append(str(value))
        elif value == parameter.default:
            continue
        elif isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:
            options += [f"--{option}", str(value)]
    return shlex.join(["secateur", command.__name__, *arguments, *options])


def run_directory(network: str, data: str, method: str, seed: int) -> Path:
    """Return the default directory of a run."""
    return Path("runs") / f"{network}-{data}-{method}-seed{seed}"
