"""Reconstruct the command line of a run, for its record and to resume it after Ctrl-C."""

import inspect
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typer.models import OptionInfo

from secateur.grid.cell import slug

__all__ = ["command_line", "run_directory"]


def command_line(command: Callable[..., None], given: Mapping[str, Any]) -> str:
    """Format the shell command that calls a command's function with these values.

    Args:
        command: The function; parameters without a default are arguments unless declared as options. Options
            are left out where they have their default, and repeated for lists.
        given: A value for each parameter.
    """
    arguments, options = [], []
    for name, parameter in inspect.signature(command).parameters.items():
        value, option = given[name], name.strip("_").replace("_", "-")
        declared = getattr(parameter.annotation, "__metadata__", ())
        if parameter.default is parameter.empty and not any(
            isinstance(each, OptionInfo) for each in declared
        ):
            arguments.append(str(value))
        elif value == parameter.default:
            continue
        elif isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:
            for each in value if isinstance(value, list) else [value]:
                options += [f"--{option}", str(each)]
    return shlex.join(["secateur", command.__name__.replace("_", "-"), *arguments, *options])


def run_directory(network: str, data: str, method: str, seed: int) -> Path:
    """Return the default directory of a run; own networks and data by the last part of their names."""
    return Path("runs") / f"{slug(network)}-{slug(data)}-{method}-seed{seed}"
