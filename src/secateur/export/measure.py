"""Measure size, multiply-adds, memory and latency of networks on this machine.

Latencies of all variants are measured in one run, in turn (`timing`), so that whatever else the machine does
falls on all of them; reported are the median and the quartiles.
"""

import statistics
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from secateur.compaction import plain_copy
from secateur.errors import InvalidArgumentError
from secateur.export import artifact
from secateur.export.onnx_graph import onnx_session
from secateur.export.sparse_kernels import CsrLinear
from secateur.export.timing import alternating_times
from secateur.modules import (
    call,
    call_arguments,
    evaluation_mode,
    largest_relative_difference,
    map_tensors,
)

__all__ = ["BenchRow", "Latency", "bench", "num_macs", "peak_memory", "state_bytes"]


@dataclass(frozen=True)
class Latency:
    """Time of one call, in seconds.

    Attributes:
        batch: Batch size.
        median: Median over the calls.
        lower: First quartile.
        upper: Third quartile.
    """

    batch: int
    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class BenchRow:
    """One variant of a network.

    Attributes:
        variant: Its name.
        state_bytes: All parameters and buffers as they are in memory; an ONNX file's size.
        file_bytes: Secateur's file, or the ONNX file.
        num_parameters: Entries of parameters; of a sparse kernel, its kept weights; None for ONNX.
        num_nonzero: Those that are not zero; None for ONNX.
        num_macs: Multiply-adds for one example; None for ONNX.
        latencies: One per batch size.
        peak_memory: Bytes of parameters and tensors alive at once, in a call with the largest batch; None
            for ONNX.
        largest_difference: Of outputs from the first variant's, relative to its largest output.
    """

    variant: str
    state_bytes: int
    file_bytes: int
    num_parameters: int | None
    num_nonzero: int | None
    num_macs: int | None
    latencies: tuple[Latency, ...]
    peak_memory: int | None
    largest_difference: float


def bench(
    variants: Mapping[str, nn.Module | Path],
    example_input: Any,
    *,
    batches: Sequence[int] = (1, 32, 256),
    seconds: float = 2.0,
) -> tuple[BenchRow, ...]:
    """Measure variants of one network, taking turns.

    Args:
        variants: Modules, run in evaluation mode, and paths of ONNX files; the first is the reference.
        example_input: A batch, or the tuple of positional arguments of a call; repeated or cut to each
            batch size.
        batches: Batch sizes.
        seconds: Time spent on each batch size, over all variants.

    Returns:
        One row per variant.

    Raises:
        InvalidArgumentError: If there are no variants or no batch sizes.
    """
    if not variants or not batches:
        raise InvalidArgumentError(
            f"expected variants and batch sizes, got {list(variants)} and {list(batches)}"
        )
    networks = [variant for variant in variants.values() if isinstance(variant, nn.Module)]
    with ExitStack() as modes:
        for network in networks:
            modes.enter_context(evaluation_mode(network))
        calls = {name: _call(variant) for name, variant in variants.items()}
        with torch.inference_mode():
            latencies = [_latencies(calls, _of_size(example_input, size), size, seconds) for size in batches]
            outputs = {name: each(example_input) for name, each in calls.items()}
        reference = next(iter(outputs.values()))
        largest = _of_size(example_input, max(batches))
        return tuple(
            _row(
                name,
                variant,
                [times[name] for times in latencies],
                largest_relative_difference(reference, outputs[name]),
                largest,
            )
            for name, variant in variants.items()
        )


def _row(
    name: str,
    variant: nn.Module | Path,
    latencies: list[Latency],
    difference: float,
    largest: Any,
) -> BenchRow:
    if isinstance(variant, Path):
        size = variant.stat().st_size
        return BenchRow(name, size, size, None, None, None, tuple(latencies), None, difference)
    floats = [tensor for tensor in _weights(variant) if tensor.is_floating_point()]
    one = _of_size(largest, 1)
    return BenchRow(
        variant=name,
        state_bytes=state_bytes(variant),
        file_bytes=_file_bytes(variant, one),
        num_parameters=sum(tensor.numel() for tensor in floats),
        num_nonzero=sum(int(torch.count_nonzero(tensor)) for tensor in floats),
        num_macs=num_macs(variant, one),
        latencies=tuple(latencies),
        peak_memory=peak_memory(variant, largest),
        largest_difference=difference,
    )


def _weights(network: nn.Module) -> list[Tensor]:
    """Return the parameters, and the buffers that stand for them in sparse kernels; masks applied."""
    plain = plain_copy(network)
    kept = [layer.values for layer in _csr(plain)]
    biases = [layer.bias for layer in _csr(plain) if layer.bias is not None]
    return [parameter.detach() for parameter in plain.parameters()] + kept + biases


def _csr(network: nn.Module) -> list[CsrLinear]:
    return [layer for layer in network.modules() if isinstance(layer, CsrLinear)]


def state_bytes(network: nn.Module) -> int:
    """Return the bytes of all parameters and buffers, masks included."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def _file_bytes(network: nn.Module, example: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return artifact.save(network, Path(folder) / "network.safetensors", example_input=example)


def num_macs(network: nn.Module, example: Any) -> int:
    """Return the multiply-adds of one call: of matrix products and convolutions, zeros skipped only by CSR.

    Args:
        network: In evaluation mode.
        example: Arguments of the call.
    """
    corrections = []

    def correct(layer: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(layer, CsrLinear)
        rows = output.numel() // layer.out_features
        by_vector = output.dim() == 2 and rows == 1 and layer.bias is not None  # which torch does not count
        counted = 0 if by_vector else layer.in_features * layer.out_features * rows
        corrections.append(len(layer.values) * rows - counted)

    handles = [layer.register_forward_hook(correct) for layer in _csr(network)]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(network, example)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() // 2 + sum(corrections)


class _AliveBytes(TorchDispatchMode):
    """Adds up the storages of tensors alive, those given apart (views of weights are no new memory)."""

    def __init__(self, apart: list[Tensor]) -> None:
        super().__init__()
        self.apart = {tensor.untyped_storage().data_ptr() for tensor in apart}
        self.alive: dict[int, tuple[int, int]] = {}  # address: bytes, tensors
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self.apart:
            return
        known, count = self.alive.get(address, (0, 0))
        self.alive[address] = (max(size, known), count + 1)
        self.now += max(size - known, 0)
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._remove, address)

    def _remove(self, address: int) -> None:
        size, count = self.alive.pop(address)
        if count > 1:
            self.alive[address] = (size, count - 1)
        else:
            self.now -= size


def peak_memory(network: nn.Module, example: Any) -> int:
    """Return the bytes of parameters, buffers and intermediate tensors alive at once in one call.

    Args:
        network: In evaluation mode.
        example: Arguments of the call, not counted.
    """
    if any(parameter.is_cuda for parameter in network.parameters()):
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            call(network, example)
        return torch.cuda.max_memory_allocated()
    apart = [x for x in pytree.tree_leaves(call_arguments(example)) if isinstance(x, Tensor)]
    apart += [*network.parameters(), *network.buffers()]
    with torch.no_grad(), _AliveBytes(apart) as counter:
        call(network, example)
    return state_bytes(network) + counter.peak


def _call(variant: nn.Module | Path) -> Callable[[Any], Any]:
    return partial(call, variant) if isinstance(variant, nn.Module) else onnx_session(variant)


def _of_size(example: Any, size: int) -> Any:
    def resized(x: Tensor) -> Tensor:
        return x.repeat(-(-size // len(x)), *[1] * (x.dim() - 1))[:size].contiguous() if x.dim() else x

    return map_tensors(resized, example)


def _latencies(
    calls: Mapping[str, Callable[[Any], Any]], example: Any, batch: int, seconds: float
) -> dict[str, Latency]:
    times = alternating_times(list(calls.values()), (example,), seconds=seconds, most_rounds=1000)
    result = {}
    for name, own in zip(calls, times, strict=True):
        lower, median, upper = statistics.quantiles(own, n=4)
        result[name] = Latency(batch, median, lower, upper)
    return result
