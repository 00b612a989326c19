"""Data sets as standardised tensors: from a local folder, the system's package, or a checked download.

`registry` holds the one table of names: a new data set is one entry there. `own` reads files and arrays of
the user's own.
"""

from secateur.data.augment import crop_and_flip
from secateur.data.dataset import Dataset, Split, Standardisation, validate
from secateur.data.files import Source
from secateur.data.images import fit_to
from secateur.data.own import OwnData, from_arrays, is_own_data, read_own
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
    "OwnData",
    "Source",
    "Split",
    "Standardisation",
    "crop_and_flip",
    "fit_to",
    "from_arrays",
    "image_size",
    "is_own_data",
    "load",
    "locate",
    "names",
    "out_of_distribution",
    "read_own",
    "registered_name",
    "title",
    "validate",
]
