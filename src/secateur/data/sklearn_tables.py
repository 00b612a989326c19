"""Small tables that come with scikit-learn: iris, wine and breast_cancer (classes), diabetes (a number).

Sources: as scikit-learn's documentation lists them; all are embedded in the package.
"""

from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from secateur.data.examples import Examples, OwnExamples
from secateur.data.files import Source

__all__ = ["TABLES", "locate"]


def locate(data_dir: Path | None = None, *, base_url: str | None = None) -> Source:
    """Return scikit-learn as the source; the arguments are ignored."""
    return Source("embedded")


def _read(name: str) -> OwnExamples:
    from sklearn import datasets  # takes half a second: only who reads one waits

    found = getattr(datasets, f"load_{name}")()
    return OwnExamples(
        Examples(np.asarray(found.data, dtype=np.float64), np.asarray(found.target)),
        feature_names=tuple(map(str, found.feature_names)),
        class_names=tuple(map(str, getattr(found, "target_names", ()))),
    )


TABLES = MappingProxyType({
    name: partial(_read, name) for name in ("iris", "wine", "breast_cancer", "diabetes")
})
"""What reads each table, by its name."""
