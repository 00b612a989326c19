"""Handwritten digits, 8 x 8 in 17 grey levels: the small data set that comes with scikit-learn.

Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI, doi:10.24432/C50P49 (its
        test part, 1797 images), as `sklearn.datasets.load_digits` holds it.
"""

from pathlib import Path

import torch

from secateur.data.files import Source
from secateur.data.images import RawImages

__all__ = ["locate", "read"]


def locate(data_dir: Path | None = None, *, base_url: str | None = None) -> Source:
    """Return scikit-learn as the source; the arguments are ignored."""
    return Source("embedded")


def read(source: Source, *, progress: bool = False) -> RawImages:
    """Read the images; a fixed fifth of each class is the test set."""
    from sklearn.datasets import load_digits  # takes half a second: only who reads digits waits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = torch.from_numpy((digits.images * (255 / 16)).round().astype("uint8")).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype("int64"))
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=digits.target)
    return RawImages(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
    )
