"""Batch normalisation under sampled weights: every network is judged with moments of its own.

In training each batch is normalised by its own moments, under the weights drawn for that batch, so the
running moments are an average over batches *and* draws. They belong to no network that is ever judged: not
to the posterior mean, whose activations lack the noise, and not to a draw, whose activations carry noise of
its own in every layer. A draw is far off under any one set of moments that is shared by all draws, be it the
running one, the mean network's, or an average over draws; `docs/batch-norm.md` has figures. So

* the posterior-mean network gets the moments of a pass over training images (`reestimate`), after every
  epoch and every reduction; those are what `model.safetensors` holds;
* every draw gets moments of its own, from `NUM_CALIBRATION` training images. A run of a network with batch
  normalisation therefore stores these images, so that it predicts without its data set.

Scales and shifts have a posterior like any weight, and are never pruned (`pruning.ranking.candidates`).

Source: weights averaged after training need their moments anew for the same reason, Izmailov et al. 2018,
arXiv:1803.05407, section 3.2.
Shapes: n images, each (c, h, w).
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.errors import ArtifactError
from secateur.training.files import write_whole

__all__ = [
    "NUM_CALIBRATION",
    "NUM_MEAN_NETWORK",
    "has_batch_norm",
    "moments",
    "read_calibration",
    "reestimate",
    "spread",
    "write_calibration",
]

NUM_CALIBRATION = 256  # images that each draw's moments are taken from
NUM_MEAN_NETWORK = 2000  # images that the posterior-mean network's moments are taken from
BATCH_SIZE = 500
FILE_NAME = "calibration.safetensors"


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether a network keeps running moments that belong to the weights it was trained under.

    Args:
        model: Any module.
    """
    return any(True for _ in _tracking(model))


def spread(images: Float[Tensor, "n c h w"], count: int) -> Float[Tensor, "m c h w"]:
    """Return at most `count` of the images, spread evenly: a data set may be sorted by class.

    Args:
        images: All of them.
        count: The most to return.
    """
    if len(images) <= count:
        return images
    return images[torch.arange(count, device=images.device) * len(images) // count]


@torch.no_grad()
def moments(
    model: nn.Module, images: Float[Tensor, "n c h w"], weights: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the running moments that a network would have of these images, by buffer name.

    Every batch is normalised by its own moments, and all batches count alike; everything else, dropout
    included, is in the mode it is in. The model's own buffers are not touched.

    Args:
        model: Network in evaluation mode.
        images: Two or more, as they are in use: not augmented.
        weights: Parameters and buffers to use instead of the model's own, as `functional_call` names them.

    Returns:
        Mean and (unbiased) variance of each normalised channel; nothing where no layer keeps any.
    """
    buffers: dict[str, Tensor] = {}
    norms = dict(_tracking(model))
    for prefix, norm in norms.items():
        for name, buffer in norm.named_buffers(recurse=False):
            buffers[f"{prefix}.{name}" if prefix else name] = torch.zeros_like(buffer)
    if not buffers:
        return {}
    device = next(iter(buffers.values())).device
    given = {**(weights or {}), **buffers}
    with _averaging(norms.values()):
        # of equal sizes: a last batch of a single image has no variance
        for batch in images.tensor_split(math.ceil(len(images) / BATCH_SIZE)):
            functional_call(model, given, (batch.to(device),))
    return {name: buffer for name, buffer in buffers.items() if not name.endswith("num_batches_tracked")}


@torch.no_grad()
def reestimate(model: nn.Module, images: Float[Tensor, "n c h w"]) -> None:
    """Give a network the moments that belong to its present weights, in place.

    They are those of at most `NUM_MEAN_NETWORK` of the images, spread evenly over them. Training goes on as
    if nothing had happened, since it never reads them. Unlike `torch.optim.swa_utils.update_bn` this leaves
    dropout off.

    Args:
        model: Network in any mode, masked or not.
        images: Training images, as they are in use: not augmented.
    """
    were_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        found = moments(model, spread(images, NUM_MEAN_NETWORK))
    finally:
        for module in were_training:
            module.training = True
    for name, buffer in model.named_buffers():
        if name in found:
            buffer.copy_(found[name])


def write_calibration(directory: Path, images: Float[Tensor, "n c h w"]) -> dict[str, str]:
    """Write the images that draws are calibrated on, for predictions without the data set.

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
    """Return the images that `write_calibration` wrote, or None where there are none.

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


def _tracking(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            yield name, module


@contextmanager
def _averaging(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Let batch norms normalise by the batch, and average their moments over batches alike."""
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    try:
        for norm, _, _ in before:
            norm.training, norm.momentum = True, None  # None is the cumulative average
        yield
    finally:
        for norm, training, momentum in before:
            norm.training, norm.momentum = training, momentum
