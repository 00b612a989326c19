"""Replace layers by sparse kernels where those are faster on this machine.

On a CPU a weight matrix becomes compressed sparse rows (CSR; torch hands it to MKL). Convolutions do the
same on unfolded patches. On CUDA, half-precision weights in which each four neighbours have two zeros use
the tensor cores' 2:4 format. Each candidate is timed against the dense layer on inputs of the shape that the
example sends through that layer, alternating, so that a busy machine slows both.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.compaction import plain_copy
from secateur.export.csr import CsrConv2d, CsrLinear
from secateur.export.timing import alternating_medians
from secateur.modules import call

__all__ = [
    "CsrConv2d",
    "CsrLinear",
    "KernelRow",
    "SemiStructuredLinear",
    "measure_kernels",
    "sparse",
]

_MARGIN = 0.95  # a sparse kernel has to save a twentieth
_SECONDS = 0.1  # spent on each layer
_LEAST_SPARSITY = 0.5


@dataclass(frozen=True)
class KernelRow:
    """The measurement behind one layer's kernel.

    Attributes:
        layer: Qualified name.
        shape: Shape of its weight.
        sparsity: Fraction of its weights that are zero.
        dense_seconds: Median time of one dense call.
        sparse_seconds: Median time of the sparse kernel; None if there is none for this layer.
        kernel: What is used: `"dense"`, `"csr"` or `"2:4"`.
    """

    layer: str
    shape: tuple[int, ...]
    sparsity: float
    dense_seconds: float
    sparse_seconds: float | None
    kernel: str


class SemiStructuredLinear(nn.Module):
    """`nn.Linear` whose weight has two zeros in each four neighbours, on CUDA's sparse tensor cores.

    Args:
        layer: The dense layer, on CUDA in half precision; not changed.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Ss]parse.*")
            packed = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = (
            None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b, shapes (*n, in) -> (*n, out)."""
        return F.linear(x, self.weight, self.bias)


def _candidate(layer: nn.Module) -> tuple[str, nn.Module] | None:
    """Return the sparse kernel for a layer that may have one."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or (weight == 0).double().mean() < _LEAST_SPARSITY:
        return None
    if weight.is_cuda:
        half = weight.dtype in {torch.float16, torch.bfloat16}
        if type(layer) is not nn.Linear or not half or weight.shape[1] % 4:
            return None
        if ((weight.reshape(-1, 4) != 0).sum(1) > 2).any():
            return None
        try:
            return "2:4", SemiStructuredLinear(layer)
        except (RuntimeError, NotImplementedError):  # a shape or device without such cores
            return None
    if weight.dtype not in {torch.float32, torch.float64}:
        return None
    if type(layer) is nn.Linear:
        return "csr", CsrLinear(layer)
    if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
        return None if isinstance(layer.padding, str) else ("csr", CsrConv2d(layer))
    return None


def measure_kernels(model: nn.Module, example_input: Any) -> tuple[KernelRow, ...]:
    """Time dense and sparse kernels of each Linear and Conv2d layer.

    Args:
        model: Masked or compact network.
        example_input: A batch of the size to be fast at, or the tuple of positional arguments of a call.

    Returns:
        One row per layer that the example reaches, in the network's order.
    """
    network = plain_copy(model).eval()
    reached = _inputs_of_layers(network, example_input)
    rows = []
    with torch.inference_mode():
        for name, layer in network.named_modules():
            if name not in reached:
                continue
            x = reached[name]
            candidate = _candidate(layer)
            if candidate is None:
                (dense,), faster, kernel = alternating_medians([layer], (x,), seconds=_SECONDS), None, "dense"
            else:
                dense, faster = alternating_medians([layer, candidate[1]], (x,), seconds=_SECONDS)
                kernel = candidate[0] if faster < _MARGIN * dense else "dense"
            weight = layer.weight
            assert isinstance(weight, Tensor)
            sparsity = float((weight == 0).double().mean())
            rows.append(KernelRow(name, tuple(weight.shape), sparsity, dense, faster, kernel))
    return tuple(rows)


def sparse(model: nn.Module, example_input: Any, *, kernels: Sequence[KernelRow] | None = None) -> nn.Module:
    """Return the network with sparse kernels in those layers where they are faster.

    Args:
        model: Masked or compact network. It is not changed.
        example_input: A batch of the size to be fast at, or the tuple of positional arguments of a call.
        kernels: What `measure_kernels` returned, to use that choice. None measures now.

    Returns:
        A copy for inference, in evaluation mode; equal to the network up to rounding.
    """
    network = plain_copy(model).eval()
    for row in measure_kernels(model, example_input) if kernels is None else kernels:
        candidate = None if row.kernel == "dense" else _candidate(network.get_submodule(row.layer))
        if candidate is not None:
            network.set_submodule(row.layer, candidate[1].eval())
    return network


def _inputs_of_layers(network: nn.Module, example_input: Any) -> dict[str, Tensor]:
    """Return what the example sends into each Linear and Conv2d layer, by qualified name."""
    reached: dict[str, Tensor] = {}
    handles = []

    def remember(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            reached[name] = args[0].detach()

        return hook

    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and name:
            handles.append(module.register_forward_pre_hook(remember(name)))
    try:
        with torch.no_grad():
            call(network, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return reached
