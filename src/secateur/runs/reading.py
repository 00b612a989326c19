"""Read the JSON files of a run as values of `secateur.runs.records`; errors name the file and the field."""

import json
from collections.abc import Container
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from secateur.errors import ArtifactError
from secateur.runs.directory import RunDirectory
from secateur.runs.files import read_bytes
from secateur.runs.records import SCORES_OF, Bench, Config, Count, Epoch, Metrics, Number, Scores

__all__ = ["RunRecord", "checked", "damaged", "decode", "read_object", "read_run"]

T = TypeVar("T")
_EXPECTED = {
    "float_type": "a number",
    "int_type": "a count",
    "int_from_float": "a count",
    "greater_than_equal": "a count",
    "less_than_equal": "a count of a possible size",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a JSON object",
    "too_short": "at least one entry",
}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything that the JSON files of a finished run say, checked.

    Attributes:
        directory: Where they are.
        config: What was asked for.
        metrics: What came of it.
        epochs: The history.
        bench: The network's forms measured side by side; None where nobody asked for it.
        config_values: All of `config.json`, as it is there.
        metrics_values: All of `metrics.json`.
        history: All of `history.jsonl`.
    """

    directory: RunDirectory
    config: Config
    metrics: Metrics
    epochs: tuple[Epoch, ...]
    bench: Bench | None
    config_values: dict[str, Any]
    metrics_values: dict[str, Any]
    history: list[dict[str, Any]]

    def scores(self, *, of_mean_network: bool = False) -> Scores:
        """Return the scores of the averaged prediction, or of the posterior-mean network.

        Raises:
            ArtifactError: If one that the likelihood has is missing.
        """
        values = self.metrics.mean_network if of_mean_network else self.metrics_values
        where = " in mean_network" if of_mean_network else ""
        scores = decode(self.directory.metrics, json.dumps(values).encode(), Scores, where)[0]
        if missing := [name for name in SCORES_OF[self.likelihood] if name not in (values or {})]:
            raise damaged(self.directory.metrics, f"expected the field {missing[0]!r}{where}, got none")
        return scores

    @property
    def likelihood(self) -> str:
        """Name of the likelihood of the targets; classes where the run does not say."""
        name = str((self.config.likelihood or {}).get("name"))
        return name if name in SCORES_OF else "categorical"


def read_run(directory: Path, *, verified: bool = False) -> RunRecord:
    """Read the JSON files of a finished run.

    Args:
        directory: What `--out` of a fit names.
        verified: Whether every file of the run, those of tensors included, must be as the run wrote it.

    Raises:
        ArtifactError: If the directory or one of its files is missing or damaged; the message names it.
    """
    files = RunDirectory(Path(directory))
    if not files.path.is_dir():
        raise ArtifactError(f"expected the directory of a run, got {directory}, which is not a directory")
    config, config_values = read_object(files.config, Config)
    metrics, metrics_values = read_object(files.metrics, Metrics)
    lines = read_bytes(files.history).splitlines()
    rows = [decode(files.history, line, Epoch, f" in line {n}") for n, line in enumerate(lines, 1)]
    if verified:
        files.verify()
    return RunRecord(
        directory=files,
        config=config,
        metrics=metrics,
        epochs=tuple(epoch for epoch, _ in rows),
        bench=read_object(files.bench, Bench)[0] if files.bench.exists() else None,
        config_values=config_values,
        metrics_values=metrics_values,
        history=[row for _, row in rows],
    )


def read_object(path: Path, kind: type[T]) -> tuple[T, dict[str, Any]]:
    """Read the object in a JSON file, as a dataclass and as it is there.

    Args:
        path: File to read.
        kind: The dataclass.

    Raises:
        ArtifactError: If the file is missing, or a field is missing or of another type; it is named.
    """
    return decode(path, read_bytes(path), kind)


def decode(path: Path, content: bytes, kind: type[T], where: str = "") -> tuple[T, dict[str, Any]]:
    """Return the object in a JSON text, as a dataclass and as it is there.

    Args:
        path: The file it is from, for the error.
        content: The text.
        kind: The dataclass.
        where: Its place in the file, for the error: `" in line 3"`.

    Raises:
        ArtifactError: If a field is missing or of another type; the message names it.
    """
    try:
        value = _adapter(kind).validate_json(content, strict=True)  # type: ignore[arg-type]
        return value, json.loads(content)
    except ValidationError as error:
        said = _said(error.errors(include_url=False)[0], where)
    except (ValueError, RecursionError) as error:  # what one parser takes and the other does not
        said = f"expected JSON, got an error{where} ({error})"
    raise damaged(path, said)


def damaged(path: Path, said: str) -> ArtifactError:
    """Return the error for a file of a run that is damaged.

    Args:
        path: The file.
        said: What was expected and what was got.
    """
    return ArtifactError(
        f"{path} is damaged: {said}; fit again, or take the file from an intact copy of the run"
    )


def checked(cls: Any, *, without: Container[str] = (), **more: Any) -> Any:
    """Return a dataclass with the fields of another, to read it from a file that nobody vouches for.

    Its numbers are bounded, and those that are null are nan.

    Args:
        cls: The dataclass.
        without: Names of fields to leave out.
        more: Types of further fields, or of fields that have another type in the file.
    """
    kinds: dict[Any, Any] = {
        float: Number,
        float | None: Number,
        int: Count,
        dict[str, int]: dict[str, Count],
    }
    rows: list[tuple[str, Any, Any]] = []
    for each in fields(cls):
        if each.name not in without and each.name not in more:
            default = {} if each.default is MISSING else {"default": each.default}
            if each.default_factory is not MISSING:
                default = {"default_factory": each.default_factory}
            rows.append((each.name, kinds.get(each.type, each.type), field(**default)))
    rows += [(name, kinds.get(kind, kind), field()) for name, kind in more.items()]
    return make_dataclass(f"Checked{cls.__name__}", rows, frozen=True, kw_only=True)


@cache
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)


def _said(error: Any, where: str) -> str:
    """Return what the schema's library says of the first thing that is wrong, in our words."""
    kind, got = error["type"], error["input"]
    if kind in {"json_invalid", "string_unicode"}:
        return f"expected JSON, got an error{where} ({error['msg'].removeprefix('Invalid JSON: ')})"
    names: list[str] = []
    for part in error["loc"]:
        if isinstance(part, int) and names:
            names[-1] += f"[{part}]"
        else:
            names.append(str(part))
    name = names.pop() if names else ""
    place = "".join(f" in {outer}" for outer in reversed(names)) + where
    if kind == "missing":
        return f"expected the field {name!r}{place}, got none"
    if kind == "dataclass_type":
        return f"expected a JSON object{f' in {name}' if name else ''}{place}, got {type(got).__name__}"
    named = f" in {name!r}{place}" if name else place
    if kind == "value_error":
        return f"expected {error['ctx']['error']}{named}"
    expected = _EXPECTED.get(kind, error["msg"].removeprefix("Input should be "))
    return f"expected {expected}{named}, got {got!r:.60}"
