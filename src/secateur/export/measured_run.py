"""Measure the network of a finished run in every form, and write `bench.json`."""

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
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.export import artifact
from secateur.export.measure import BenchRow, bench
from secateur.export.onnx_graph import onnx, onnx_session
from secateur.export.sparse_kernels import KernelRow, measure_kernels, sparse
from secateur.export.streamlining import Streamlining, measure_streamlining, streamlined
from secateur.pruning import compact
from secateur.runs import RunDirectory, write_json
from secateur.training import Run, load_run
from secateur.training.run import example_images, run_data

__all__ = ["Measured", "measure_run", "write_measured"]

_TEST_BATCH = 500


@dataclass(frozen=True)
class Measured:
    """Variants of a run's network side by side on this machine.

    Attributes:
        rows: One per variant.
        accuracy: Share of the test set put in the right class, by variant; empty where it was not asked.
        kernels: The choice of kernel for each layer, by batch size.
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
        values["kernels"] = [
            {"batch": batch, "layers": layers} for batch, layers in values["kernels"].items()
        ]
        return values


def measure_run(
    directory: Path,
    *,
    dense: Path | None = None,
    batches: tuple[int, ...] = (1, 32, 256),
    seconds: float = 5.0,
    multiple_of: int = 1,
    data_dir: Path | None = None,
    accuracy: bool = True,
) -> Measured:
    """Measure a run's network dense, masked, compact, with sparse kernels, and in onnxruntime.

    All variants run in this process, call by call in turn. Differences are from the masked network. On
    disk, dense and masked networks are what `torch` users write: all their tensors, masks included.

    Args:
        directory: Of a finished run.
        dense: Of a finished run of the same network that kept its weights, to stand for the dense one; when
            None, that is the masked network with its zeros multiplied like any weight.
        batches: Batch sizes.
        seconds: Time spent on each batch size, over all variants.
        multiple_of: Units that a layer of the compact network keeps are rounded up to a multiple of this.
        data_dir: Where to look for the data set first.
        accuracy: Whether to judge each variant on the test set.

    Raises:
        ArtifactError: If a run is missing or damaged, or they are not of one network.
        InvalidArgumentError: If an argument is out of range.
        DataError: If the data set cannot be found.
    """
    if not batches or min(batches) < 1 or not seconds > 0:
        raise InvalidArgumentError(
            f"batch, seconds: expected positive numbers, got {list(batches)} and {seconds}"
        )
    run = load_run(directory)
    images = example_images(run, max(batches))
    small = compact(run.model, images[:2], multiple_of=multiple_of, as_graph=True)
    small.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the run's own network lies
    kernels = {size: measure_kernels(small, images[:size]) for size in (min(batches), max(batches))}
    variants: dict[str, nn.Module | Path] = {
        "masked": run.model,
        "dense": plain_copy(run.model) if dense is None else _same_network(run, dense),
        "compact": small,
    }
    for size, choice in kernels.items():
        variants[f"sparse, for batch {size}"] = sparse(small, images[:size], kernels=choice)
    variants |= _streamlined(small, images, (min(batches), max(batches)), "compact")
    if dense is not None:  # what streamlining alone is worth; without that run the zeros would leave as well
        whole = variants["dense"]
        assert isinstance(whole, nn.Module)
        variants |= _streamlined(whole, images, (min(batches), max(batches)), "dense")
    with tempfile.TemporaryDirectory() as folder:
        remarks = []
        if find_spec("onnxruntime") is None:
            remarks.append("onnxruntime: not installed; pip install 'secateur[export]'")
        else:
            try:
                variants["compact, onnxruntime"] = onnx(small, Path(folder) / "small.onnx", images[:2]).path
                whole = variants["dense"]
                assert isinstance(whole, nn.Module)
                variants["dense, onnxruntime"] = onnx(whole, Path(folder) / "dense.onnx", images[:2]).path
            except InvalidArgumentError as error:
                remarks.append(f"onnxruntime: {error}")
        rows = bench(variants, images[: min(len(images), 8)], batches=batches, seconds=seconds)
        scores = _accuracies(run, variants, data_dir) if accuracy else {}
    rows = tuple(_as_torch_saves(row, variants[row.variant]) for row in rows)
    return Measured(
        rows=tuple(sorted(rows, key=lambda row: not row.variant.startswith("dense"))),
        accuracy=scores,
        kernels=kernels,
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


def _streamlined(
    network: nn.Module, images: Tensor, sizes: tuple[int, ...], name: str
) -> dict[str, nn.Module | Path]:
    """Return the network streamlined for each batch size, or once if the same form suits all."""
    choices: dict[Streamlining, list[int]] = {}
    for size in sizes:
        choices.setdefault(measure_streamlining(network, images[:size]), []).append(size)
    return {
        f"{name}, streamlined" + (f" for batch {suits[0]}" if len(choices) > 1 else ""): streamlined(
            network, images[:2], choice=choice
        )
        for choice, suits in choices.items()
    }


def _same_network(run: Run, directory: Path) -> nn.Module:
    other = load_run(directory)
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
def _accuracies(
    run: Run, variants: Mapping[str, nn.Module | Path], data_dir: Path | None
) -> dict[str, float]:
    test = run_data(run, "test", data_dir)
    scores = {}
    for name, variant in variants.items():
        if isinstance(variant, nn.Module):
            parts = [variant.eval()(batch) for batch in test.images.split(_TEST_BATCH)]
        else:
            session = onnx_session(variant)
            parts = [session((batch,))[0] for batch in test.images.split(_TEST_BATCH)]
        scores[name] = float((torch.cat(parts).argmax(1) == test.labels).double().mean())
    return scores


def write_measured(directory: Path, measured: Measured) -> Path:
    """Write `bench.json` into a run's directory, whole, and return its path.

    Raises:
        ArtifactError: If it cannot be written.
    """
    path = RunDirectory(directory).bench
    write_json(path, measured.as_dict())
    return path
