"""Inline layers as calls of torch's functions, to cut Python overhead of small networks.

Calling a layer costs some 3 us in Python, whatever its size. That is nothing for a large one and more than
the arithmetic of one with a few dozen units. Here the graph calls the functions themselves; weights lie in
one flat module, `hidden.linear1.weight` as `hidden_linear1_weight`, and activations overwrite what only they
read.
"""

import itertools
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

__all__ = ["StraightModule", "inline"]

_READS = re.compile(r"(?m)= self\.(\w+)$")
_FRESH_METHODS = frozenset({"mean", "amax"})
_FRESH_FUNCTIONS = frozenset({F.linear, F.conv2d, F.conv1d, F.avg_pool2d, F.max_pool2d})


class StraightModule(fx.GraphModule):
    """A graph module that is called as any module is, and reads its weights without asking.

    `GraphModule` wraps each call to explain errors in generated code, and `nn.Module` looks up each weight by
    a function of its own. For a small network the two take as long as a third of its arithmetic.
    """

    def recompile(self) -> Any:
        """Generate the code of `forward` again."""
        with self.graph.on_generate_code(lambda before: lambda body: self._direct(before, body)):
            code = super().recompile()
        if "__call__" in vars(type(self)):
            del type(self).__call__
        return code

    def _direct(self, before: Callable[[list[str]], list[str]] | None, body: list[str]) -> list[str]:
        """Return the lines of `forward`, which read each parameter from where it is registered."""
        text = "".join(body if before is None else before(body))
        return [_READS.sub(self._read, text)]

    def _read(self, found: re.Match[str]) -> str:
        return f"= self._parameters[{found[1]!r}]" if found[1] in self._parameters else found[0]


def inline(root: nn.Module, graph: fx.Graph, class_name: str) -> StraightModule:
    """Return a network without submodules for those layers that are one function of torch.

    Args:
        root: Owner of the modules, in evaluation mode; its parameters are shared.
        graph: Changed in place.
        class_name: Name of the result's class.
    """
    flat = nn.Module()
    flat.training = False
    for node in list(graph.nodes):
        if node.op == "get_attr":
            node.target = _register(flat, str(node.target), _attribute(root, str(node.target)))
        elif node.op == "call_module":
            layer = root.get_submodule(str(node.target))
            write = None if _has_a_frame_of_its_own(layer) else _WRITERS.get(type(layer))
            if write is not None and len(node.args) == 1 and not node.kwargs:
                with graph.inserting_before(node):
                    new = write(_Place(flat, graph, str(node.target), node.args[0]), layer)
                node.replace_all_uses_with(new)
                graph.erase_node(node)
            else:
                flat.add_module(_free_name(flat, str(node.target)), layer)
                node.target = next(name for name, each in flat.named_children() if each is layer)
    return StraightModule(flat, graph, class_name)


class _Place:
    """Where a layer's function is written: the graph, the layer's name, what it reads."""

    def __init__(self, flat: nn.Module, graph: fx.Graph, name: str, source: Any) -> None:
        self.flat, self.graph, self.name, self.source = flat, graph, name, source

    def weights(self, layer: nn.Module, *names: str) -> list[fx.Node | None]:
        """Return nodes that read the layer's parameters, None for those it does not have."""
        found: list[fx.Node | None] = []
        for name in names:
            value = getattr(layer, name)
            if value is None:
                found.append(None)
            else:
                found.append(self.graph.get_attr(_register(self.flat, f"{self.name}.{name}", value)))
        return found

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Return a node that applies a function to what the layer reads."""
        return self.graph.call_function(function, (self.source, *args), kwargs)

    def may_overwrite(self) -> bool:
        """Return whether what the layer reads is a new tensor that nobody else reads."""
        source = self.source
        if not isinstance(source, fx.Node) or len(source.users) != 1:
            return False
        return source.target in (_FRESH_FUNCTIONS if source.op == "call_function" else _FRESH_METHODS)


def _linear(place: _Place, layer: nn.Linear) -> fx.Node:
    return place.call(F.linear, *place.weights(layer, "weight", "bias"))


def _conv2d(place: _Place, layer: nn.Conv2d) -> fx.Node:
    weights = place.weights(layer, "weight", "bias")
    return place.call(F.conv2d, *weights, layer.stride, layer.padding, layer.dilation, layer.groups)


def _activation(function: Callable[..., Any]) -> Callable[[_Place, nn.Module], fx.Node]:
    def write(place: _Place, _: nn.Module) -> fx.Node:
        return place.call(function, inplace=True) if place.may_overwrite() else place.call(function)

    return write


def _tanh(place: _Place, _: nn.Module) -> fx.Node:
    return place.graph.call_method("tanh_" if place.may_overwrite() else "tanh", (place.source,))


def _gelu(place: _Place, layer: nn.GELU) -> fx.Node:
    return place.call(F.gelu, approximate=layer.approximate)


def _flatten(place: _Place, layer: nn.Flatten) -> fx.Node:
    return place.call(torch.flatten, layer.start_dim, layer.end_dim)


def _avg_pool2d(place: _Place, layer: nn.AvgPool2d) -> fx.Node:
    options = (layer.padding, layer.ceil_mode, layer.count_include_pad, layer.divisor_override)
    return place.call(F.avg_pool2d, layer.kernel_size, layer.stride, *options)


def _layer_norm(place: _Place, layer: nn.LayerNorm) -> fx.Node:
    return place.call(
        F.layer_norm, layer.normalized_shape, *place.weights(layer, "weight", "bias"), layer.eps
    )


def _nothing(place: _Place, _: nn.Module) -> Any:
    return place.source


_WRITERS: dict[type[nn.Module], Callable[[_Place, Any], Any]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.ReLU: _activation(F.relu),
    nn.SiLU: _activation(F.silu),
    nn.Tanh: _tanh,
    nn.GELU: _gelu,
    nn.Flatten: _flatten,
    nn.AvgPool2d: _avg_pool2d,
    nn.LayerNorm: _layer_norm,
    nn.Dropout: _nothing,
    nn.Identity: _nothing,
}


def _has_a_frame_of_its_own(layer: nn.Module) -> bool:
    """Return whether a convolution pads with something else than zeros, which `F.conv2d` cannot."""
    return isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros"


def _attribute(root: nn.Module, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(root.get_submodule(owner), leaf)


def _register(flat: nn.Module, name: str, value: Any) -> str:
    """Give the flat module a parameter or buffer, once, and return its name there."""
    for known, other in itertools.chain(
        flat.named_parameters(recurse=False), flat.named_buffers(recurse=False)
    ):
        if other is value:
            return known
    free = _free_name(flat, name)
    if isinstance(value, nn.Parameter):
        flat.register_parameter(free, value)
    elif isinstance(value, Tensor):
        flat.register_buffer(free, value)
    else:
        setattr(flat, free, value)
    return free


def _free_name(flat: nn.Module, name: str) -> str:
    name = name.replace(".", "_")
    name = f"_{name}" if name[0].isdigit() else name
    while hasattr(flat, name):
        name += "_"
    return name
