"""Compact, export and measure the network of a finished run: load, decide, judge, write.

The example input has the image shape of the training data. Files go into the run's directory by default. The
networks in them take inputs and give predictions in their own units, where the run standardised its own data.
"""

import copy
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from secateur.compaction import plain_copy
from secateur.data import Dataset, Split
from secateur.data.examples import OwnExamples
from secateur.errors import ArtifactError, InvalidArgumentError, unknown_name
from secateur.export import artifact
from secateur.export.measure import BenchRow, bench
from secateur.export.onnx_graph import onnx, onnx_session
from secateur.export.own_units import in_own_units
from secateur.export.sparse_kernels import KernelRow, measure_kernels, sparse
from secateur.likelihoods import Categorical
from secateur.pruning import compact
from secateur.runs import RunDirectory, write_json
from secateur.training import Run, load_run
from secateur.training.run import example_images, run_data

__all__ = ["FORMATS", "Exported", "Measured", "compact_run", "export_run", "measure_run"]

FORMATS = ("onnx", "safetensors", "sparse")
_TO = {"onnx": "network.onnx", "safetensors": "network.safetensors", "sparse": "sparse.safetensors"}
_TEST_BATCH = 500


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


@dataclass(frozen=True)
class Measured:
    """Variants of a run's network side by side on this machine.

    Attributes:
        rows: One per variant.
        accuracy: Share of the test set put in the right class, by variant; empty where it was not asked.
        kernels: The choice of kernel for each linear layer, at the largest batch size.
        entropy_bound: Bytes that the kept weights need at least if which they are was random.
        remarks: What was left out, and why.
        machine: Where and with what this was measured.
    """

    rows: tuple[BenchRow, ...]
    accuracy: dict[str, float]
    kernels: dict[int, tuple[KernelRow, ...]]
    entropy_bound: float
    remarks: tuple[str, ...]
    machine: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for `bench.json`."""
        values = asdict(self)
        for row in values["rows"]:
            row["accuracy"] = self.accuracy.get(row["variant"])
        del values["accuracy"]
        values["kernels"] = [{"batch": batch, "layers": rows} for batch, rows in values["kernels"].items()]
        return values


def compact_run(
    directory: Path, *, out: Path | None = None, multiple_of: int = 1, model: nn.Module | None = None
) -> Exported:
    """Compact the network of a run, and save it.

    Args:
        directory: Of a finished run; nothing of it is changed.
        out: File to write; `compact.safetensors` in the directory when None.
        multiple_of: Units that a layer keeps are rounded up to a multiple of this.
        model: Network of the run, if it is none of `secateur.networks`.

    Raises:
        ArtifactError: If the run is missing or damaged, or the file cannot be written.
        InvalidArgumentError: If `multiple_of` is not positive.
    """
    run = load_run(directory, model=model)
    run, images = in_own_units(run, example_images(run))
    small = compact(run.model, images, multiple_of=multiple_of, as_graph=True)
    return _saved(run, small, out or directory / "compact.safetensors", images)


def export_run(
    directory: Path,
    *,
    to: str,
    out: Path | None = None,
    num_samples: int = 0,
    batch: int = 1,
    model: nn.Module | None = None,
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
        model: Network of the run, if it is none of `secateur.networks`.

    Raises:
        UsageError: If there is no such format.
        ArtifactError: If the run is missing or damaged, or the file cannot be written.
        InvalidArgumentError: If an argument is out of range, or ONNX cannot hold the network.
    """
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    if num_samples and to != "onnx":
        raise InvalidArgumentError(f"samples: expected none for --to {to}, got {num_samples}; use --to onnx")
    run, path = load_run(directory, model=model), out or directory / _TO[to]
    run, images = in_own_units(run, example_images(run, batch + 1)[:batch])
    if num_samples:
        return _averaged(run, path, images, num_samples)
    small = compact(run.model, images, as_graph=True)
    if to == "onnx":
        written = onnx(small, path, images)
        return Exported(path, written.num_bytes, small, _count(run), (), written.largest_difference)
    if to == "safetensors":
        return _saved(run, small, path, images)
    kernels = measure_kernels(small, images)
    return _saved(run, sparse(small, images, kernels=kernels), path, images, kernels)


def _averaged(run: Run, path: Path, images: Tensor, num_samples: int) -> Exported:
    temperature = run.config["predictive_temperature"]
    if temperature == 0:
        raise InvalidArgumentError(
            "samples: expected none, since this run predicts best by its mean alone (temperature 0), "
            f"got {num_samples}; leave --samples away"
        )
    written = onnx(
        run.model,
        path,
        images,
        posterior=run.posterior.at_temperature(temperature),
        num_samples=num_samples,
        link=run.likelihood.link,
        calibration=run.calibration,
        generator=torch.Generator().manual_seed(run.config["seed"]),
    )
    return Exported(path, written.num_bytes, None, _count(run))


def _saved(
    run: Run, network: nn.Module, path: Path, images: Tensor, kernels: tuple[KernelRow, ...] = ()
) -> Exported:
    num_bytes = artifact.save(network, path, example_input=images)
    with torch.no_grad():
        expected, found = run.model(images), artifact.load(path)(images)
    difference = float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-30))
    return Exported(path, num_bytes, network, _count(run), kernels, difference)


def _count(run: Run) -> int:
    return sum(parameter.numel() for parameter in run.model.parameters())


def measure_run(
    directory: Path,
    *,
    dense: Path | None = None,
    batches: tuple[int, ...] = (1, 32, 256),
    seconds: float = 5.0,
    multiple_of: int = 1,
    data_dir: Path | None = None,
    accuracy: bool = True,
    model: nn.Module | None = None,
    data: Dataset | OwnExamples | str | None = None,
) -> Measured:
    """Measure a run's network dense, masked, compact and in onnxruntime, and write `bench.json` beside it.

    All variants run in this process, call by call in turn. Differences are from the masked network. On
    disk, dense and masked networks are what `torch` users write: all their tensors, masks included. Sparse
    kernels are a variant of their own where they are faster for a layer.

    Args:
        directory: Of a finished run.
        dense: Of a finished run of the same network that kept its weights, to stand for the dense one; when
            None, that is the masked network with its zeros multiplied like any weight.
        batches: Batch sizes.
        seconds: Time spent on each batch size, over all variants.
        multiple_of: Units that a layer of the compact network keeps are rounded up to a multiple of this.
        data_dir: Where to look for the data set first.
        accuracy: Whether to judge each variant on the test set.
        model: Network of the runs, if it is none of `secateur.networks`.
        data: The run's own data, if they are no longer where they were.

    Raises:
        ArtifactError: If a run is missing or damaged, or they are not of one network.
        InvalidArgumentError: If an argument is out of range.
        DataError: If the data set cannot be found.
    """
    if not batches or min(batches) < 1 or not seconds > 0:
        raise InvalidArgumentError(
            f"batch, seconds: expected positive numbers, got {list(batches)} and {seconds}"
        )
    other = copy.deepcopy(model)
    run = load_run(directory, model=model)
    images = example_images(run, max(batches))
    small = compact(run.model, images[:2], multiple_of=multiple_of, as_graph=True)
    small.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the run's own network lies
    whole = plain_copy(run.model) if dense is None else _same_network(run, dense, other)
    kernels = measure_kernels(small, images)
    variants: dict[str, nn.Module | Path] = {"masked": run.model, "dense": whole, "compact": small}
    if any(row.kernel != "dense" for row in kernels):
        variants["compact, sparse"] = sparse(small, images, kernels=kernels)
    remarks = []
    with tempfile.TemporaryDirectory() as folder:
        if find_spec("onnxruntime") is None:
            remarks.append("onnxruntime: not installed; pip install 'secateur[export]'")
        else:
            try:
                for name, network in (("compact", small), ("dense", whole)):
                    path = Path(folder) / f"{name}.onnx"
                    variants[f"{name}, onnxruntime"] = onnx(network, path, images[:2]).path
            except InvalidArgumentError as error:
                remarks.append(f"onnxruntime: {error}")
        rows = bench(variants, images[:8], batches=batches, seconds=seconds)
        scores = {}
        if accuracy and isinstance(run.likelihood, Categorical):
            scores = _accuracies(variants, run_data(run, "test", data_dir, data))
    rows = tuple(_as_torch_saves(row, variants[row.variant]) for row in rows)
    measured = Measured(
        rows=tuple(sorted(rows, key=lambda row: not row.variant.startswith("dense"))),
        accuracy=scores,
        kernels={max(batches): kernels},
        entropy_bound=artifact.entropy_bound(small),
        remarks=tuple(remarks),
        machine={
            "machine": platform.machine(),
            "num_threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "seconds": seconds,
            "dense_run": None if dense is None else str(dense),
        },
    )
    write_json(RunDirectory(directory).bench, measured.as_dict())
    return measured


def _same_network(run: Run, directory: Path, model: nn.Module | None) -> nn.Module:
    other = load_run(directory, model=model)
    shapes = ({n: p.shape for n, p in plain_copy(r.model).named_parameters()} for r in (run, other))
    if len({tuple(sorted(found.items())) for found in shapes}) > 1:
        raise ArtifactError(
            f"--dense {directory}: expected a run of the same network ({run.config['network']}), got "
            f"{other.config['network']} with other weights"
        )
    return plain_copy(other.model)


def _as_torch_saves(row: BenchRow, variant: nn.Module | Path) -> BenchRow:
    """Give dense and masked networks the size of a plain file of all their tensors."""
    if row.variant not in {"dense", "masked"}:
        return row
    assert isinstance(variant, nn.Module)
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in variant.state_dict().items()}
    return replace(row, file_bytes=len(save(tensors)))


@torch.no_grad()
def _accuracies(variants: Mapping[str, nn.Module | Path], test: Split) -> dict[str, float]:
    scores = {}
    for name, variant in variants.items():
        if isinstance(variant, nn.Module):
            parts = [variant.eval()(batch) for batch in test.images.split(_TEST_BATCH)]
        else:
            session = onnx_session(variant)
            parts = [session(batch)[0] for batch in test.images.split(_TEST_BATCH)]
        scores[name] = float((torch.cat(parts).argmax(1) == test.labels).double().mean())
    return scores
