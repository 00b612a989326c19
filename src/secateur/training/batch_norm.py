"""Store and load the training images that batch normalisation is calibrated on for each draw of weights.

In training each batch is normalised by its own moments, under the weights drawn for that batch. The running
moments are therefore an average over batches *and* draws. They suit no network that is evaluated: neither
the posterior mean, whose activations lack the noise, nor a single draw, whose activations carry noise of its
own in every layer. `docs/batch-norm.md` has figures. So

* the posterior-mean network gets the moments of a pass over training images (`modules.reestimate`) after
  every epoch and every reduction; `model.safetensors` holds these moments;
* every draw gets moments of its own, from `NUM_CALIBRATION` training images. A run of a network with batch
  normalisation stores these images, so that it predicts without its data set.

Scales and shifts have a posterior like any weight, and are never pruned (`pruning.ranking.candidates`).
"""

import hashlib
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from secateur.errors import ArtifactError
from secateur.runs import write_whole

__all__ = ["NUM_CALIBRATION", "read_calibration", "write_calibration"]

NUM_CALIBRATION = 256  # images; the moments of each draw are estimated on them
FILE_NAME = "calibration.safetensors"


def write_calibration(directory: Path, images: Float[Tensor, "n c h w"]) -> dict[str, str]:
    """Write calibration images to a run's directory.

    Args:
        directory: Of the run.
        images: `NUM_CALIBRATION` training images or fewer.

    Returns:
        SHA-256 of the file, by file name.

    Raises:
        ArtifactError: If it cannot be written.
    """
    content = save({"images": images.detach().cpu().contiguous().clone()})
    write_whole(directory / FILE_NAME, content)
    return {FILE_NAME: hashlib.sha256(content).hexdigest()}


def read_calibration(directory: Path) -> Tensor | None:
    """Read calibration images from a run's directory; None where there are none.

    Args:
        directory: Of the run.

    Raises:
        ArtifactError: If the file is damaged.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return None
    try:
        return load_file(path)["images"]
    except (SafetensorError, OSError, KeyError) as error:
        raise ArtifactError(f"{path}: expected the calibration images of a run, got: {error}") from error
