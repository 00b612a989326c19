"""Tables with names of columns: CSV, TSV and Parquet files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secateur.data.examples import Examples, OwnExamples
from secateur.errors import DataError, UsageError
from secateur.runs.files import open_ordinary

__all__ = ["SUFFIXES", "read_tables"]

SUFFIXES = (".csv", ".tsv", ".parquet")
MOST_WORDS = 50  # different words of a column that become a feature each
SEPARATORS = (",", ";", "\t")


def read_tables(
    path: Path, target: Sequence[str], *, test: Path | None = None, ignore: Sequence[str] = ()
) -> OwnExamples:
    """Read a table; columns of words become a feature of 0 and 1 for each word.

    Args:
        path: A `.csv`, `.tsv` or `.parquet` file whose first line names the columns.
        target: Names of the columns to predict.
        test: Another table of the same columns, to judge by.
        ignore: Names of columns to leave out.

    Raises:
        DataError: If a file cannot be read, a column is not there, or a value is missing or of another kind.
        UsageError: If no target is named.
    """
    frame = _read(path)
    columns = [str(name) for name in frame.columns]
    if not target:
        raise UsageError(
            f"--target: expected the column of {path.name} to predict, one of {_listed(columns)}, got none"
        )
    for option, names in (("--target", target), ("--ignore", ignore)):
        for name in names:
            if name not in columns:
                raise _no_column(option, name, columns, path)
    features = [name for name in columns if name not in {*target, *ignore}]
    if not features:
        raise DataError(f"{path}: expected columns beside the target, got none")
    other = None if test is None else _read(test)
    if other is not None and (
        missing := [name for name in (*features, *target) if name not in other.columns]
    ):
        raise DataError(f"{test}: expected the columns of {path.name}, got no {missing[0]!r}")
    inputs, names, levels, remarks = [], [], {}, []
    for name in features:
        column = _column(frame, name, path)
        if column.dtype.kind in "fb":
            inputs.append(column.astype(np.float64)[:, None])
            names.append(name)
            continue
        words = np.unique(column)
        if len(words) > MOST_WORDS:
            raise DataError(
                f"{path}: expected numbers or at most {MOST_WORDS} different words in column {name!r}, got "
                f"{len(words)} different words; leave it out by --ignore {name!r}"
            )
        levels[name] = words
        inputs.append((column[:, None] == words).astype(np.float64))
        names += [f"{name}={word}" for word in words]
        remarks.append(f"column {name!r} has words: a feature for each of {_listed(list(words))}")
    train = Examples(np.hstack(inputs), _targets(frame, target, path))
    judged = None
    if other is not None and test is not None:
        columns_of_test = [
            _like(_column(other, name, test), levels.get(name), name, test) for name in features
        ]
        judged = Examples(np.hstack(columns_of_test), _targets(other, target, test))
    return OwnExamples(train, judged, tuple(names), (), tuple(remarks))


def _read(path: Path) -> Any:
    import pandas

    try:
        with open_ordinary(path) as file:
            if path.suffix.lower() == ".parquet":
                frame = pandas.read_parquet(file)
            else:
                head = file.readline(1 << 20).decode(errors="replace")
                file.seek(0)
                separator = max(SEPARATORS, key=head.count)
                frame = pandas.read_csv(
                    file, sep=separator, dtype=str, skipinitialspace=True, na_values=["?"]
                )
    except ImportError as error:
        raise DataError(
            f"{path}: expected the package pyarrow to read Parquet, got none; pip install 'secateur[tables]'"
        ) from error
    except (OSError, ValueError, LookupError, MemoryError) as error:  # pandas' and pyarrow's are of these
        said = (str(error).strip().splitlines() or [""])[0]
        raise DataError(f"{path}: expected a table that can be read, got: {said}") from error
    frame.columns = [str(name).strip() for name in frame.columns]
    if not len(frame):
        raise DataError(f"{path}: expected rows below the names of columns, got none")
    if path.suffix.lower() != ".parquet" and all(_is_number(name) for name in frame.columns):
        raise DataError(
            f"{path}: expected names of columns in the first line, got numbers; add a line of names"
        )
    if len(set(frame.columns)) < len(frame.columns):
        twice = next(name for name in frame.columns if list(frame.columns).count(name) > 1)
        raise DataError(f"{path}: expected each column once, got {twice!r} twice")
    return frame


def _column(frame: Any, name: str, path: Path) -> np.ndarray:
    """Return a column as numbers (float64), or as words; no value is missing."""
    import pandas

    values = frame[name]
    gone = values.isna()
    if gone.any():
        raise DataError(
            f"{path}: expected a value in every row of column {name!r}, got none in {int(gone.sum())} of "
            f"{len(frame)}, first in line {_line(gone)}; fill them in, leave these lines out, or give "
            f"--ignore {name!r}"
        )
    if values.dtype.kind in "fiub":
        return values.to_numpy(dtype=np.float64)
    numbers = pandas.to_numeric(values.astype(str), errors="coerce")
    words = numbers.isna()
    if words.all():
        return values.astype(str).to_numpy(dtype=str)
    if words.any():
        raise DataError(
            f"{path}: expected numbers in column {name!r}, got {str(values[words].iloc[0])!r:.40} in line "
            f"{_line(words)} ({int(words.sum())} of {len(frame)} rows are no numbers); correct them, or give "
            f"--ignore {name!r}"
        )
    return numbers.to_numpy(dtype=np.float64)


def _targets(frame: Any, target: Sequence[str], path: Path) -> np.ndarray:
    columns = [_column(frame, name, path) for name in target]
    if len(columns) == 1:
        return columns[0]
    if any(column.dtype.kind == "U" for column in columns):
        raise DataError(f"{path}: expected numbers in several target columns, got words; name one --target")
    return np.stack(columns, 1)


def _like(column: np.ndarray, words: np.ndarray | None, name: str, path: Path) -> np.ndarray:
    """Return a column of test data as features of the training data."""
    if words is None:
        if column.dtype.kind == "U":
            raise DataError(f"{path}: expected numbers in column {name!r} as in training, got words")
        return column[:, None]
    column = column.astype(str)
    if unseen := sorted(set(column.tolist()) - set(words.tolist())):
        raise DataError(f"{path}: expected words of the training data in column {name!r}, got {unseen[0]!r}")
    return (column[:, None] == words).astype(np.float64)


def _line(marked: Any) -> int:
    return int(np.flatnonzero(marked.to_numpy())[0]) + 2  # the first line has the names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown}, ... ({len(names)} in all)"


def _no_column(option: str, name: str, columns: Sequence[str], path: Path) -> DataError:
    from difflib import get_close_matches

    near = get_close_matches(name, columns, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return DataError(
        f"{option}: expected a column of {path.name}, one of {_listed(columns)}, got {name!r}{hint}"
    )
