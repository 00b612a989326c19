"""The command line of a run, written out again: for its record, and to go on with it after Ctrl-C."""

import shlex
from pathlib import Path

import typer

__all__ = ["command_line", "run_directory"]


def command_line(
    context: typer.Context, *, without: tuple[str, ...] = (), extra: tuple[str, ...] = ()
) -> str:
    """Return the shell command of the running subcommand, with only the options that were given.

    Args:
        context: That of the subcommand.
        without: Parameters left out, by their Python names.
        extra: Words put at the end.
    """
    arguments, options = [], []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        value = context.params.get(name)
        if name in without or source is None or source.name != "COMMANDLINE" or value is None:
            continue
        if parameter.param_type_name == "argument":
            arguments.append(str(value))
        elif isinstance(value, bool):
            spellings = parameter.opts if value else parameter.secondary_opts
            options.extend(spellings[:1])
        else:
            options += [parameter.opts[0], str(value)]
    return shlex.join(["secateur", str(context.command.name), *arguments, *options, *extra])


def run_directory(network: str, data: str, method: str, seed: int) -> Path:
    """Return where a run is kept if the user names no other place."""
    return Path("runs") / f"{network}-{data}-{method}-seed{seed}"
