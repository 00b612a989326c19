"""Replace linear layers by sparse kernels where those are faster on this machine.

On a CPU a weight matrix becomes compressed sparse rows (CSR), which torch hands to MKL. On CUDA weights in
half precision, two of each four neighbours zero, use the tensor cores' 2:4 format. Each candidate is timed
against the dense layer, in turn, on inputs of the shape that the example sends through that layer.
Convolutions stay dense: as sparse products of unfolded patches they lost to onnxruntime at every batch size,
and from batch 32 on to dense ones (`docs/compaction.md`).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.compaction import plain_copy
from secateur.export.timing import alternating_medians
from secateur.modules import call

__all__ = [
    "CsrLinear", "KernelRow", "SemiStructuredLinear", "measure_kernels", "sparse", "with_csr", "without_csr",
]  # fmt: skip

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


class CsrLinear(nn.Module):
    """`nn.Linear` with compressed sparse rows, for inference.

    Args:
        layer: The dense layer; not changed.
    """

    row_starts: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight, bias = layer.weight.detach(), layer.bias
        rows = (weight != 0).sum(1)
        self.out_features, self.in_features = weight.shape
        # MKL wants 32-bit indices; with others torch converts them in each call.
        first = torch.cat([rows.new_zeros(1), rows.cumsum(0)]).to(torch.int32)
        self.register_buffer("row_starts", first)
        self.register_buffer("columns", weight.nonzero()[:, 1].to(torch.int32))
        self.register_buffer("values", weight[weight != 0].clone())
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CsrLinear":
        self._matrix = None
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._matrix = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_matrix": None}

    @torch.no_grad()
    def dense(self) -> nn.Linear:
        """Return the dense layer it stands for, in evaluation mode."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None).to(self.values)
        layer.weight.copy_(self.matrix().to_dense())
        if self.bias is not None:
            layer.bias.copy_(self.bias)
        return layer.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b, shapes (*n, in) -> (*n, out)."""
        if x.dim() == 2 and len(x) == 1 and self.bias is not None:
            return torch.addmv(self.bias, self.matrix(), x[0]).unsqueeze(0)
        inputs = x.reshape(-1, self.in_features).t()
        if self.bias is None:
            product = self.matrix() @ inputs
        else:
            product = torch.addmm(self.bias.unsqueeze(1), self.matrix(), inputs)
        return product.t().reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Show sizes as torch's layers do."""
        return f"{self.in_features}, {self.out_features}, num_kept={len(self.values)}"


class SemiStructuredLinear(nn.Module):
    """`nn.Linear` whose weight has two zeros in each four neighbours, on CUDA's sparse tensor cores.

    Args:
        layer: The dense layer, on CUDA in half precision; not changed.
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Ss]parse.*")
            packed = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b, shapes (*n, in) -> (*n, out)."""
        return F.linear(x, self.weight, self.bias)


def _candidate(layer: nn.Module) -> tuple[str, nn.Module] | None:
    """Return the sparse kernel for a layer that may have one."""
    if type(layer) is not nn.Linear or (layer.weight == 0).double().mean() < _LEAST_SPARSITY:
        return None
    weight = layer.weight
    if not weight.is_cuda:
        return ("csr", CsrLinear(layer)) if weight.dtype in {torch.float32, torch.float64} else None
    if weight.dtype not in {torch.float16, torch.bfloat16} or weight.shape[1] % 4:
        return None
    if ((weight.reshape(-1, 4) != 0).sum(1) > 2).any():
        return None
    try:
        return "2:4", SemiStructuredLinear(layer)
    except (RuntimeError, NotImplementedError):  # a shape or device without such cores
        return None


def measure_kernels(model: nn.Module, example_input: Any) -> tuple[KernelRow, ...]:
    """Time the dense and the sparse kernel of each linear layer.

    Args:
        model: Masked or compact network.
        example_input: A batch of the size to be fast at, or the tuple of positional arguments of a call.

    Returns:
        One row per linear layer that the example reaches, in the network's order.
    """
    network = plain_copy(model).eval()
    reached: dict[str, Tensor] = {}
    layers = {name: layer for name, layer in network.named_modules() if type(layer) is nn.Linear and name}

    def remember(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            reached[name] = args[0].detach()

        return hook

    handles = [layer.register_forward_pre_hook(remember(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            call(network, example_input)
    finally:
        for handle in handles:
            handle.remove()
    with torch.inference_mode():
        return tuple(_row(name, layer, reached[name]) for name, layer in layers.items() if name in reached)


def _row(name: str, layer: nn.Linear, x: Tensor) -> KernelRow:
    kind, other = _candidate(layer) or ("dense", None)
    dense, *rest = alternating_medians([layer] if other is None else [layer, other], (x,), seconds=_SECONDS)
    faster = rest[0] if rest else None
    sparsity = float((layer.weight == 0).double().mean())
    used = kind if faster is not None and faster < _MARGIN * dense else "dense"
    return KernelRow(name, tuple(layer.weight.shape), sparsity, dense, faster, used)


def sparse(model: nn.Module, example_input: Any, *, kernels: Sequence[KernelRow] | None = None) -> nn.Module:
    """Return the network with sparse kernels in those linear layers where they are faster.

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


def without_csr(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy with dense layers in place of CSR ones, and the names of those layers.

    Args:
        network: What `sparse` returned, or any module. It is not changed.
    """
    plain = plain_copy(network)
    layers = [(name, module) for name, module in plain.named_modules() if isinstance(module, CsrLinear)]
    for name, layer in layers:
        plain.set_submodule(name, layer.dense())
    return plain, tuple(name for name, _ in layers)


def with_csr(network: nn.Module, names: Sequence[str]) -> nn.Module:
    """Put CSR kernels in place of the named linear layers, the reverse of `without_csr`.

    Args:
        network: Network with dense layers; changed in place.
        names: Qualified names of layers of type `nn.Linear`.

    Returns:
        The network.

    Raises:
        AttributeError: If there is no such layer.
        TypeError: If a layer has no CSR kernel.
    """
    for name in names:
        layer = network.get_submodule(name)
        if type(layer) is not nn.Linear:
            raise TypeError(f"{name}: expected a linear layer, got {layer}")
        network.set_submodule(name, CsrLinear(layer).eval())
    return network
