"""Options in a TOML file: read as defaults of a command, and printed to be read again."""

import inspect
import json
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.errors import UsageError
from secateur.runs.files import read_bytes

__all__ = ["NOT_IN_FILES", "ConfigFile", "PrintConfig", "as_toml"]

NOT_IN_FILES = ("config", "print_config")
LARGEST = 1 << 20


def _read(ctx: Any, path: Path | None) -> Path | None:
    """Take the options in a file as defaults; what is typed goes before them."""
    if path is None:
        return None
    try:
        values = tomllib.loads(read_bytes(path, largest=LARGEST).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: expected TOML, got: {error}") from error
    parameters = {str(each.name).strip("_"): each for each in ctx.command.params}
    defaults = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        known = [each for each in parameters if each not in NOT_IN_FILES]
        if name not in known or isinstance(value, dict):
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"--config {path}: expected options of this command, got {key!r}{hint}")
        parameter = parameters[name]
        if parameter.param_type_name == "argument":
            raise UsageError(
                f"--config {path}: expected options only, got {key!r}; type it after the command"
            )
        defaults[str(parameter.name)] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        is_eager=True,
        callback=_read,
        help="Options from a TOML file; those that are typed go before them.",
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all options as TOML for --config, and stop.")
]


def as_toml(command: Callable[..., None], given: Mapping[str, Any]) -> str:
    """Format the options of a command as TOML.

    Args:
        command: Its function.
        given: A value for each parameter; None is left out.
    """
    lines = []
    for name, parameter in inspect.signature(command).parameters.items():
        value = given[name]
        if parameter.default is parameter.empty or name in NOT_IN_FILES or value is None:
            continue
        plain = [str(each) for each in value] if isinstance(value, list) else value
        text = json.dumps(str(plain) if isinstance(plain, Path) else plain)  # a JSON value of these is TOML
        lines.append(f"{name.strip('_')} = {text}")
    return "\n".join(lines)
