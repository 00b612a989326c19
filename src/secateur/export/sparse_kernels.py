"""Sparse kernels for what stays scattered, layer by layer, only where they are faster on this machine.

On a CPU a weight matrix becomes compressed sparse rows (CSR; torch hands it to MKL). Convolutions do the
same on unfolded patches. On CUDA, half-precision weights in which each four neighbours have two zeros use
the tensor cores' 2:4 format. Each candidate is timed against the dense layer on inputs of the shape that the
example sends through that layer, alternating, so that a busy machine slows both.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.pruning.compaction import permanent

__all__ = [
    "CsrConv2d",
    "CsrLinear",
    "KernelRow",
    "SemiStructuredLinear",
    "measure_kernels",
    "sparse",
    "with_csr",
    "without_csr",
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


class _Csr(nn.Module):
    """A weight matrix (out, in) in compressed sparse rows; torch's tensor is made of them when needed."""

    row_starts: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        rows = (weight != 0).sum(1)
        self.out_features, self.in_features = weight.shape
        # MKL wants 32-bit indices; with others torch converts them in each call.
        first = torch.cat([rows.new_zeros(1), rows.cumsum(0)]).to(torch.int32)
        self.register_buffer("row_starts", first)
        self.register_buffer("columns", weight.nonzero()[:, 1].to(torch.int32))
        self.register_buffer("values", weight[weight != 0].detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._matrix: Tensor | None = None

    def matrix(self) -> Tensor:
        """Return the CSR tensor, shape (out, in)."""
        if self._matrix is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*[Ss]parse.*")  # torch calls CSR a beta feature
                self._matrix = torch.sparse_csr_tensor(
                    self.row_starts, self.columns, self.values, (self.out_features, self.in_features)
                )
        return self._matrix

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Csr":
        self._matrix = None
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._matrix = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_matrix": None}

    def product(self, inputs: Tensor) -> Tensor:
        """Return weight @ inputs + bias, shapes (in, n) -> (out, n)."""
        if self.bias is None:
            return self.matrix() @ inputs
        return torch.addmm(self.bias.unsqueeze(1), self.matrix(), inputs)

    def extra_repr(self) -> str:
        """Show sizes as torch's layers do."""
        return f"{self.in_features}, {self.out_features}, num_kept={len(self.values)}"


class CsrLinear(_Csr):
    """`nn.Linear` with compressed sparse rows, for inference.

    Args:
        layer: The dense layer; not changed.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.weight.detach(), layer.bias)

    def dense(self) -> nn.Linear:
        """Return the dense layer it stands for."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        return _filled(layer, self)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b, shapes (*n, in) -> (*n, out)."""
        if x.dim() == 2:
            if len(x) == 1 and self.bias is not None:
                return torch.addmv(self.bias, self.matrix(), x[0]).unsqueeze(0)
            return self.product(x.t()).t()
        return self.product(x.reshape(-1, self.in_features).t()).t().reshape(*x.shape[:-1], self.out_features)


class CsrConv2d(_Csr):
    """`nn.Conv2d` as a sparse product with unfolded patches, for inference.

    Args:
        layer: The dense layer with `groups=1` and numeric zero padding; not changed.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.weight.detach().flatten(1), layer.bias)
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.padding, self.dilation = layer.padding, layer.dilation

    def dense(self) -> nn.Conv2d:
        """Return the dense layer it stands for."""
        height, width = self.kernel_size
        layer = nn.Conv2d(
            self.in_features // (height * width),
            self.out_features,
            (height, width),
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            bias=self.bias is not None,
        )
        return _filled(layer, self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution, shapes (n, c, h, w) -> (n, out, h', w')."""
        height, width = (
            (x.shape[2 + i] + 2 * int(self.padding[i]) - self.dilation[i] * (self.kernel_size[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        )
        patches = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)  # type: ignore[arg-type]
        columns = patches.transpose(0, 1).reshape(self.in_features, -1)
        return self.product(columns).reshape(self.out_features, len(x), height, width).transpose(0, 1)


_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)


@torch.no_grad()
def _filled(layer: _Layer, csr: _Csr) -> _Layer:
    """Return a dense layer in evaluation mode with the weights of its sparse twin."""
    layer.to(csr.values)
    layer.weight.copy_(csr.matrix().to_dense().reshape(layer.weight.shape))
    if layer.bias is not None and csr.bias is not None:
        layer.bias.copy_(csr.bias)
    return layer.eval()


def without_csr(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy with dense layers in place of CSR ones, and the names of those layers.

    Args:
        network: What `sparse` returned, or any module. It is not changed.
    """
    plain = permanent(network)
    layers = [(n, m) for n, m in plain.named_modules() if isinstance(m, (CsrLinear, CsrConv2d))]
    for name, layer in layers:
        plain.set_submodule(name, layer.dense())
    return plain, tuple(name for name, _ in layers)


def with_csr(network: nn.Module, names: Sequence[str]) -> nn.Module:
    """Put CSR kernels in place of the named layers, the reverse of `without_csr`.

    Args:
        network: Network with dense layers; changed in place.
        names: Qualified names of layers of type `nn.Linear` or `nn.Conv2d`.

    Returns:
        The network.

    Raises:
        AttributeError: If there is no such layer.
        TypeError: If a layer has no CSR kernel.
    """
    for name in names:
        layer = network.get_submodule(name)
        if type(layer) is nn.Linear:
            network.set_submodule(name, CsrLinear(layer).eval())
        elif type(layer) is nn.Conv2d and layer.groups == 1 and not isinstance(layer.padding, str):
            network.set_submodule(name, CsrConv2d(layer).eval())
        else:
            raise TypeError(f"{name}: expected a linear layer or a plain convolution, got {layer}")
    return network


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
    network = permanent(model).eval()
    reached = _inputs_of_layers(network, example_input)
    rows = []
    with torch.inference_mode():
        for name, layer in network.named_modules():
            if name not in reached:
                continue
            x = reached[name]
            candidate = _candidate(layer)
            if candidate is None:
                (dense,), faster, kernel = _medians([layer], x), None, "dense"
            else:
                dense, faster = _medians([layer, candidate[1]], x)
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
    network = permanent(model).eval()
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
            network(*(example_input if isinstance(example_input, tuple) else (example_input,)))
    finally:
        for handle in handles:
            handle.remove()
    return reached


def _medians(layers: Sequence[nn.Module], x: Tensor) -> list[float]:
    """Return the median time of each layer on `x`, in seconds, calls alternating."""
    times: list[list[float]] = [[] for _ in layers]
    for layer in layers:
        layer(x)
        layer(x)
    end = time.perf_counter() + _SECONDS
    while len(times[0]) < 5 or (time.perf_counter() < end and len(times[0]) < 200):
        for layer, own in zip(layers, times, strict=True):
            if x.is_cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            layer(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]
