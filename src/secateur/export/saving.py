"""Save a network to a directory, and load it: `secateur.save` and `secateur.load`.

A network of the Transformers library whose sizes fit its own config is written as that library does, so that
its `from_pretrained` reads the directory too. Any other becomes one file (`artifact`), a few per cent larger
than the entropy of its weights.
"""

from pathlib import Path
from typing import Any

from torch import nn

from secateur.compaction import plain_copy
from secateur.errors import ArtifactError
from secateur.export import artifact, transformers_network
from secateur.export.transformers_network import CONFIG, WEIGHTS

__all__ = ["NETWORK", "load", "save"]

NETWORK = "network.safetensors"


def save(
    model: nn.Module, directory: str | Path, *, example_input: Any = None, values: str | None = None
) -> Path:
    """Save a network, masked or compact, to a directory.

    Args:
        model: Any network; masks are made permanent in the files.
        directory: Made if it is missing; a network that is in it is replaced.
        example_input: Arguments of a call, for a network whose code reads shapes.
        values: Type that weights are rounded to, as of `artifact.save`. None keeps each as it is.

    Returns:
        The file with the weights.

    Raises:
        ArtifactError: If it cannot be written.
        InvalidArgumentError: If `values` is no such type, or a graph calls what is not torch's own.
    """
    folder = Path(directory)
    plain = plain_copy(model)
    own = values is None and transformers_network.describe(plain) is not None
    if own and transformers_network.fits_its_config(plain):
        written = transformers_network.write_network(plain, folder)
        other = folder / NETWORK
    else:
        written, other = folder / NETWORK, folder / WEIGHTS
        artifact.save(model, written, example_input=example_input, values=values)
    other.unlink(missing_ok=True)  # of another network: a directory holds one
    return written


def load(
    directory: str | Path, model: nn.Module | None = None, *, max_weights: int | None = None
) -> nn.Module:
    """Load a network from a directory that `save` wrote; no code from its files is run.

    Args:
        directory: The directory.
        model: A network of the saved one's class, which gets the saved sizes and weights. Needed only where
            the file cannot say how the network is built: where its code is neither torch's layers and
            functions nor of this or the Transformers library.
        max_weights: Weights that a file may unfold to; None sets a bound by the file's size.

    Returns:
        The network, on the CPU, in evaluation mode.

    Raises:
        ArtifactError: If the directory holds no network, a damaged one, one that is larger than allowed, or
            one that needs a `model`.
    """
    folder = Path(directory)
    if (folder / NETWORK).exists() or not (folder / CONFIG).exists():
        return artifact.load(folder / NETWORK, model, max_weights=max_weights)
    if model is not None:
        raise ArtifactError(f"model: expected none for {folder}, whose config says it; load it without")
    return transformers_network.load_network(folder, "auto")
