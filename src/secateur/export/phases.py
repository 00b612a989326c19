"""A convolution whose result is pooled, computed once per pixel of the pool instead of pixel by pixel.

A window of k x k pixels that does not overlap its neighbours has k k *phases*. Each phase is the same
convolution of stride s, shifted by 0 ... k - 1 steps either way: one convolution of stride k s with k k times
the channels and a kernel larger by (k - 1) s, framed in zeros, gives them all. What stands between (an
activation, entry by entry) stays as it is, and the pool is a mean or maximum over groups of channels:

    pool_k(f(conv_s(x; w)))[c, i, j] = mean over p of f(conv_ks(x; shifted_p w))[p, c, i, j]

It multiplies by the zeros of the frame, ((K + (k - 1) s) / K)^2 times as many multiply-adds for a kernel of
size K, and still pays where channels are few: many of them fill the processor's vectors, and torch's own
pooling does not.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

__all__ = ["PooledConvolution", "find_pooled", "in_phases"]

_ENTRYWISE_LAYERS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Identity,
)  # fmt: skip
_ENTRYWISE_FUNCTIONS = frozenset({
    F.relu,
    torch.relu,
    F.silu,
    F.gelu,
    F.elu,
    F.leaky_relu,
    torch.tanh,
    torch.sigmoid,
})
_ENTRYWISE_METHODS = frozenset({"relu", "tanh", "sigmoid"})


@dataclass(frozen=True)
class PooledConvolution:
    """Nodes of a graph: a convolution, what acts on it entry by entry, and the pool that alone reads that.

    Attributes:
        convolution: Calls an `nn.Conv2d`.
        between: In order; may be empty.
        pool: Calls an `nn.AvgPool2d` or `nn.MaxPool2d`.
        size: Height and width of the pool's window.
        largest: Whether the pool takes the maximum, not the mean.
    """

    convolution: fx.Node
    between: tuple[fx.Node, ...]
    pool: fx.Node
    size: tuple[int, int]
    largest: bool


def find_pooled(root: nn.Module, graph: fx.Graph) -> list[PooledConvolution]:
    """Return every convolution whose pool can be taken over phases.

    Args:
        root: Owner of the modules, in evaluation mode.
        graph: Its graph; not changed.
    """
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    found = []
    for node in graph.nodes:
        layer = root.get_submodule(node.target) if node.op == "call_module" else None
        if type(layer) is not nn.Conv2d or calls.count(node.target) != 1:
            continue
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            continue
        if set(layer.dilation) != {1}:
            continue
        between: list[fx.Node] = []
        reader = _only_reader(node)
        while reader is not None and _is_entrywise(root, reader):
            between.append(reader)
            reader = _only_reader(reader)
        window = None if reader is None else _window(root, reader)
        if reader is not None and window is not None:
            found.append(PooledConvolution(node, tuple(between), reader, *window))
    return found


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_entrywise(root: nn.Module, node: fx.Node) -> bool:
    if len(node.all_input_nodes) != 1:
        return False
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))) in _ENTRYWISE_LAYERS
    if node.op == "call_function":
        return node.target in _ENTRYWISE_FUNCTIONS
    return node.op == "call_method" and node.target in _ENTRYWISE_METHODS


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _window(root: nn.Module, node: fx.Node) -> tuple[tuple[int, int], bool] | None:
    """Return the window's size and whether its maximum is taken; None if windows overlap or have a border."""
    pool = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if type(pool) is nn.AvgPool2d:
        plain = pool.divisor_override is None
    elif type(pool) is nn.MaxPool2d:
        plain = not pool.return_indices and _pair(pool.dilation) == (1, 1)
    else:
        return None
    size = _pair(pool.kernel_size)
    if not plain or _pair(pool.stride) != size or _pair(pool.padding) != (0, 0) or pool.ceil_mode:
        return None
    return size, type(pool) is nn.MaxPool2d


@torch.no_grad()
def in_phases(root: nn.Module, graph: fx.Graph, pooled: PooledConvolution) -> None:
    """Let one convolution of a graph compute all phases, and its pool reduce over them.

    Args:
        root: Owner of the modules; the convolution is replaced in place.
        graph: Changed in place.
        pooled: Of this graph.
    """
    name = str(pooled.convolution.target)
    layer = root.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    assert not isinstance(layer.padding, str)
    (rows, columns), (down, right) = pooled.size, _pair(layer.stride)
    out, channels, height, width = layer.weight.shape
    phases = nn.Conv2d(
        channels,
        rows * columns * out,
        (height + (rows - 1) * down, width + (columns - 1) * right),
        stride=(rows * down, columns * right),
        padding=_pair(layer.padding),
        bias=layer.bias is not None,
    ).to(layer.weight)
    phases.weight.zero_()
    each = phases.weight.view(rows, columns, out, channels, *phases.kernel_size)
    for row in range(rows):
        for column in range(columns):
            top, left = row * down, column * right
            each[row, column, :, :, top : top + height, left : left + width] = layer.weight
    if phases.bias is not None and layer.bias is not None:
        phases.bias.copy_(layer.bias.repeat(rows * columns))
    root.set_submodule(name, phases.train(layer.training))
    with graph.inserting_before(pooled.pool):
        grouped = graph.call_method("unflatten", (pooled.pool.args[0], 1, (rows * columns, out)))
        reduced = graph.call_method("amax" if pooled.largest else "mean", (grouped, 1))
    pooled.pool.replace_all_uses_with(reduced)
    graph.erase_node(pooled.pool)
