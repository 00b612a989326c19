"""The data of a finished run, found again by what its configuration says of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur import networks
from secateur.data import Dataset, OwnData, Standardisation, load, names, read_own, registered_name
from secateur.data.examples import OwnExamples
from secateur.data.own import prepare_own
from secateur.errors import ArtifactError, DataError

__all__ = ["dataset_of", "standardisation_in"]


def standardisation_in(config: Mapping[str, Any]) -> Standardisation | None:
    """Return how a run standardised its inputs; None where it did not.

    Args:
        config: Content of `config.json`.
    """
    known = config.get("inputs")
    return None if known is None else Standardisation(tuple(known["mean"]), tuple(known["std"]))


def dataset_of(
    config: Mapping[str, Any],
    out: Path | None,
    *,
    kind: str,
    data_dir: Path | None = None,
    data: Dataset | OwnExamples | str | None = None,
) -> Dataset:
    """Load the data set that a run was trained on.

    A file is read again from its place and must be the same. A function is never called because a file names
    it.

    Args:
        config: Content of `config.json`.
        out: Directory of the run, for errors.
        kind: Name of its likelihood.
        data_dir: Where to look for named data sets first.
        data: The run's own data as read, or the path where they are now.

    Raises:
        ArtifactError: If the data set has no name, or its function has to be named again.
        DataError: If it cannot be found, or is another one.
    """
    name, source = registered_name(config["data"]), config.get("source")
    if isinstance(data, OwnExamples):
        share = {"test_fraction": source["test_fraction"]} if isinstance(source, dict) else {}
        found = prepare_own(data, config["data"], likelihood=kind, **share)
    elif isinstance(data, Dataset):
        found = data
    elif name in names():
        network = config["network"]
        size = networks.image_size(network) if network in networks.names() else None
        found = load(name, data_dir=data_dir, image_size=size, likelihood=kind)
    elif isinstance(source, dict) and source.get("path"):
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in source.items()
        }
        known.pop("function", None)
        found = read_own(OwnData(**known | ({"path": data} if data is not None else {})))
    elif isinstance(source, dict) and source.get("function"):
        raise ArtifactError(
            f"{out}: expected the run's own data, got none; give --data {source['function']}, which imports "
            "it, if you trust it"
        )
    else:
        raise ArtifactError(
            f"{out}: expected a run on one of the data sets {', '.join(names())}, got one on "
            f"{config['data']!r}; use load_run(...).predict on your own data"
        )
    expected = standardisation_in(config)
    if expected is not None and found.inputs != expected:
        raise DataError(
            f"{found.name}: expected the data that the run was trained on, got others (their means differ)"
        )
    return found
