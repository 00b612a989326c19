"""Data sets as standardised tensors: from a local folder, the system's package, or a checked download.

`registry` holds the one table of names: a new data set is one entry there.
"""

from secateur.data.augment import crop_and_flip
from secateur.data.dataset import Dataset, Split, validate
from secateur.data.files import Source
from secateur.data.images import fit_to
from secateur.data.registry import (
    image_size,
    load,
    locate,
    names,
    out_of_distribution,
    registered_name,
    title,
)

__all__ = [
    "Dataset",
    "Source",
    "Split",
    "crop_and_flip",
    "fit_to",
    "image_size",
    "load",
    "locate",
    "names",
    "out_of_distribution",
    "registered_name",
    "title",
    "validate",
]
