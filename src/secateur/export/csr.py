"""Layers whose weights are compressed sparse rows (CSR), which torch hands to MKL on a CPU."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.compaction import plain_copy

__all__ = ["CsrConv2d", "CsrLinear", "with_csr", "without_csr"]


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
    plain = plain_copy(network)
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
