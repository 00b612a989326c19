"""Read JSON files of a run, checking every field; errors name the file and the field."""

import json
import math
from pathlib import Path
from typing import Any

from secateur.errors import ArtifactError
from secateur.runs.files import read_bytes

__all__ = ["Fields", "parse", "read_text"]


class Fields:
    """The fields of one JSON object, checked as they are taken; errors name the file and the field."""

    def __init__(self, path: Path, values: object, where: str = "") -> None:
        self.path, self.where = path, where
        if not isinstance(values, dict):
            raise self.damaged(f"expected a JSON object{where}, got {type(values).__name__}")
        self.values: dict[str, Any] = values

    def damaged(self, what: str) -> ArtifactError:
        """Return the error that this file is not as it should be."""
        return ArtifactError(
            f"{self.path} is damaged: {what}; fit again, or take the file from an intact copy of the run"
        )

    def take(self, key: str) -> Any:
        """Return a field of any kind."""
        if key not in self.values:
            raise self.damaged(f"expected the field {key!r}{self.where}, got none")
        return self.values[key]

    def text(self, key: str) -> str:
        """Return a field that is text."""
        value = self.take(key)
        if not isinstance(value, str):
            raise self.damaged(f"expected text in {key!r}{self.where}, got {value!r:.60}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number; nan where it is null. A default stands for a field that may be missing."""
        value = self.take(key) if default is None else self.values.get(key, default)
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.damaged(f"expected a number in {key!r}{self.where}, got {value!r:.60}")
        return float(value)

    def count(self, key: str, default: int | None = None) -> int:
        """Return a number that is whole and not negative."""
        value = self.number(key, None if default is None else float(default))
        if not (math.isfinite(value) and value >= 0 and value == int(value)):
            raise self.damaged(f"expected a count in {key!r}{self.where}, got {value}")
        return int(value)

    def items(self, key: str) -> list[Any]:
        """Return a field that is a list."""
        values = self.take(key)
        if not isinstance(values, list):
            raise self.damaged(f"expected a list in {key!r}{self.where}, got {values!r:.60}")
        return values

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return a field that is a list of numbers."""
        row = Fields(self.path, {f"{key}[{i}]": v for i, v in enumerate(self.items(key))}, self.where)
        return tuple(row.number(k) for k in row.values)

    def counts(self, key: str) -> tuple[int, ...]:
        """Return a field that is a list of counts."""
        row = Fields(self.path, {f"{key}[{i}]": v for i, v in enumerate(self.items(key))}, self.where)
        return tuple(row.count(k) for k in row.values)

    def rows(self, key: str) -> list["Fields"]:
        """Return a field that is a list of objects."""
        return [Fields(self.path, v, f" in {key}[{i}]") for i, v in enumerate(self.items(key))]

    def optional(self, key: str) -> "Fields | None":
        """Return a field that is an object; None where it is null or missing."""
        value = self.values.get(key)
        return None if value is None else Fields(self.path, value, f" in {key}")


def read_text(path: Path) -> str:
    """Return what an ordinary file of a run holds.

    Raises:
        ArtifactError: If it is missing, unreadable, no ordinary file, or too large.
    """
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None


def parse(path: Path, text: str, where: str = "") -> Fields:
    """Return the JSON object in a text.

    Args:
        path: The file it is from, for the error.
        text: The text.
        where: Its place in the file, for the error: `" in line 3"`.

    Raises:
        ArtifactError: If it is not a JSON object.
    """
    try:
        return Fields(path, json.loads(text), where)
    except json.JSONDecodeError as error:
        place = where or f" at line {error.lineno}"
        raise ArtifactError(
            f"{path} is damaged: expected JSON, got an error{place} ({error.msg}); "
            "fit again, or take the file from an intact copy of the run"
        ) from None
