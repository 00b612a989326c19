"""Read the JSON files of runs for reports: every field is checked for its type and its size.

Text that a terminal or a page could take for more than text has its control characters replaced. This file
holds what reports ask of `secateur.runs` to read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pandas import DataFrame

from secateur.errors import ArtifactError
from secateur.runs.fields import Fields, parse, read_text

__all__ = ["Fields", "kinds_of", "parsed", "parsed_lines", "printable", "table_of", "values_of"]

_LARGEST = 1e30  # what no number of a run reaches, and no figure can show


def printable(value: Any) -> Any:
    """Replace control and formatting characters in text, also inside lists and dictionaries.

    >>> printable({"name": "a" + chr(27) + "[2J"})
    {'name': 'a\ufffd[2J'}
    """
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else "\ufffd" for c in value)
    if isinstance(value, dict):
        return {printable(key): printable(each) for key, each in value.items()}
    return [printable(each) for each in value] if isinstance(value, list) else value


def parsed(path: Path, text: str | None = None, where: str = "") -> Fields:
    """Return the JSON object in a file, its text printable.

    Args:
        path: The file.
        text: What to read instead of all of it.
        where: Place of that text, for the error: `" in line 3"`.

    Raises:
        ArtifactError: If it is missing or damaged; the message names it.
    """
    try:
        given = parse(path, read_text(path) if text is None else text, where)
        return Fields(path, printable(given.values), where)
    except (RecursionError, ValueError):  # nested too deep, or a number of thousands of digits
        raise _damaged(path, where) from None
    except ArtifactError as error:
        if isinstance(error.__context__, ValueError):  # no JSON, or no text: said without the decoder's words
            raise _damaged(path, where) from None
        raise


def _damaged(path: Path, where: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged: expected the JSON that a run writes{where}, got something else; fit again, or "
        "take the file from an intact copy of the run"
    )


def kinds_of(cls: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass, for `values_of`."""
    return {field.name: field.type for field in fields(cls)}


def values_of(row: Fields, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a JSON object, each checked for its type.

    Args:
        row: The object.
        kinds: Type of each field by name; a number that may be missing is of type `float | None`.
    """
    take = {
        str: row.text, int: lambda key: _bounded(row, key, row.count), float: lambda key: _number(row, key),
        bool: lambda key: bool(row.take(key)), tuple[int, ...]: row.counts, tuple[float, ...]: row.numbers,
        tuple[str, ...]: lambda key: tuple(map(str, row.items(key))) if key in row.values else (),
        dict[str, int]: lambda key: _counts(row, key),
        int | None: lambda key: None if row.values.get(key) is None else _bounded(row, key, row.count),
    }  # fmt: skip
    return {
        key: take[kind](key) if kind in take else _number(row, key, math.nan) for key, kind in kinds.items()
    }


def _bounded(row: Fields, key: str, take: Any) -> Any:
    try:
        value = take(key)
    except OverflowError:
        value = math.inf
    if abs(value) > _LARGEST:
        raise row.damaged(f"expected a number below {_LARGEST:g} in {key!r}{row.where}, got a larger one")
    return value


def _number(row: Fields, key: str, default: float | None = None) -> float:
    value = float(_bounded(row, key, lambda name: row.number(name, default)))
    return value if math.isfinite(value) else math.nan


def _counts(row: Fields, key: str) -> dict[str, int]:
    inner = row.optional(key)
    return {} if inner is None else {name: inner.count(name) for name in inner.values}


def table_of(rows: Sequence[Fields], kinds: Mapping[str, Any]) -> DataFrame:
    """Return JSON objects as a table with a column for each field; see `values_of`."""
    return DataFrame([values_of(row, kinds) for row in rows], columns=list(kinds))


def parsed_lines(path: Path) -> list[Fields]:
    """Return the JSON objects in a file that has one in each line."""
    try:
        lines = read_text(path).splitlines()
    except ArtifactError as error:
        raise (_damaged(path, "") if isinstance(error.__context__, ValueError) else error) from None
    return [parsed(path, line, f" in line {number}") for number, line in enumerate(lines, 1)]
