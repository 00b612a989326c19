"""Compact the network of a finished run, and export it to files for other programs.

The example input has the image shape of the training data. Files go into the run's directory by default.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError, unknown_name
from secateur.export import artifact
from secateur.export.onnx_graph import OnnxFile, onnx
from secateur.export.sparse_kernels import KernelRow, measure_kernels, sparse
from secateur.pruning import compact
from secateur.training import Run, load_run
from secateur.training.run import example_images

__all__ = ["FORMATS", "Exported", "compact_run", "export_run"]

FORMATS = ("onnx", "safetensors", "sparse")
_TO = {"onnx": "network.onnx", "safetensors": "network.safetensors", "sparse": "sparse.safetensors"}


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: The file.
        num_bytes: Its size.
        network: What is in it; None where that is a graph of several networks.
        num_weights: Parameters before.
        kernels: The choice of kernel for each layer; empty where none was made.
        largest_difference: From the masked network's outputs, relative to the largest of them; None where
            the file is the average over samples.
    """

    path: Path
    num_bytes: int
    network: nn.Module | None
    num_weights: int
    kernels: tuple[KernelRow, ...] = ()
    largest_difference: float | None = None


def compact_run(directory: Path, *, out: Path | None = None, multiple_of: int = 1) -> Exported:
    """Compact the network of a run, and save it.

    Args:
        directory: Of a finished run; nothing of it is changed.
        out: File to write; `compact.safetensors` in the directory when None.
        multiple_of: Units that a layer keeps are rounded up to a multiple of this.

    Raises:
        ArtifactError: If the run is missing or damaged, or the file cannot be written.
        InvalidArgumentError: If `multiple_of` is not positive.
    """
    run = load_run(directory)
    images = example_images(run)
    small = compact(run.model, images, multiple_of=multiple_of, as_graph=True)
    return _saved(run, small, out or directory / "compact.safetensors", images)


def export_run(
    directory: Path, *, to: str, out: Path | None = None, num_samples: int = 0, batch: int = 1
) -> Exported:
    """Export the compact network of a run.

    Args:
        directory: Of a finished run; nothing of it is changed.
        to: One of `FORMATS`: an ONNX graph, Secateur's own file, or that file with the sparse kernels that
            are faster on this machine.
        out: File to write; in the directory when None.
        num_samples: For ONNX: draws from the posterior, at the run's predictive temperature, whose
            probabilities the one graph averages; 0 takes the posterior mean.
        batch: For sparse kernels: the batch size to be fast at.

    Raises:
        UsageError: If there is no such format.
        ArtifactError: If the run is missing or damaged, or the file cannot be written.
        InvalidArgumentError: If an argument is out of range, or ONNX cannot hold the network.
    """
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    if num_samples and to != "onnx":
        raise InvalidArgumentError(f"samples: expected none for --to {to}, got {num_samples}; use --to onnx")
    run = load_run(directory)
    images = example_images(run)
    path = out or directory / _TO[to]
    if to == "onnx":
        written, network = _onnx(run, path, images, num_samples)
        difference = None if num_samples else written.largest_difference
        return Exported(path, written.num_bytes, network, _count(run.model), (), difference)
    small = compact(run.model, images, as_graph=True)
    if to == "safetensors":
        return _saved(run, small, path, images)
    many = example_images(run, batch)
    kernels = measure_kernels(small, many)
    return _saved(run, sparse(small, many, kernels=kernels), path, images, kernels)


def _onnx(run: Run, path: Path, images: Tensor, num_samples: int) -> tuple[OnnxFile, nn.Module | None]:
    if not num_samples:
        small = compact(run.model, images, as_graph=True)
        return onnx(small, path, images), small
    temperature = run.config["predictive_temperature"]
    if temperature == 0:
        raise InvalidArgumentError(
            "samples: expected none, since this run predicts best by its mean alone (temperature 0), "
            f"got {num_samples}; leave --samples away"
        )
    posterior = run.posterior.at_temperature(temperature)
    generator = torch.Generator().manual_seed(run.config["seed"])
    written = onnx(
        run.model,
        path,
        images,
        posterior=posterior,
        num_samples=num_samples,
        calibration=run.calibration,
        generator=generator,
    )
    return written, None


def _saved(
    run: Run, network: nn.Module, path: Path, images: Tensor, kernels: tuple[KernelRow, ...] = ()
) -> Exported:
    num_bytes = artifact.save(network, path, example_input=images)
    with torch.no_grad():
        expected, found = run.model(images), artifact.load(path)(images)
    difference = float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-30))
    return Exported(path, num_bytes, network, _count(run.model), kernels, difference)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
