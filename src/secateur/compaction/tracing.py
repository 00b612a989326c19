"""A `torch.fx` trace that knows the shapes of an example, so that code may branch on shapes.

Every proxy carries the value it has on the example. Questions about shapes, types and devices are answered
from it; questions about the data themselves (`if x.sum() > 0`) cannot be, because another batch may answer
otherwise. A module whose `forward` asks one becomes a leaf of the graph, opaque to every later step.
Batch sizes stay symbolic where the code passes them on (`x.view(x.shape[0], -1)`).
"""

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import jaxtyping
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

__all__ = ["Trace", "UntraceableError", "trace", "with_one_more"]

# What a tensor may be asked without looking at its entries.
_STATIC_QUESTIONS = frozenset({
    "shape", "ndim", "dtype", "device", "size", "dim", "numel", "is_floating_point", "is_complex", "is_cuda",
    "requires_grad", "layout", "itemsize", "element_size", "nelement", "ndimension", "stride",
    "is_contiguous", "is_nested", "is_sparse", "is_quantized", "names", "_is_all_true", "__len__",
})  # fmt: skip


class UntraceableError(Exception):
    """The network's `forward` depends on its data in a way that no fixed graph can express."""


@dataclass(frozen=True)
class Trace:
    """A network as a graph.

    Attributes:
        graph: The graph over `root`'s submodules; leaves are torch's own modules and the opaque ones.
        opaque: Modules that could not be traced, by qualified name, with the reason.
    """

    graph: fx.Graph
    opaque: dict[str, str]


class _ValueProxy(fx.Proxy):
    """A proxy that knows its value on the example."""

    def __getattr__(self, name: str) -> Any:
        return _ValueAttribute(self, name)

    def _concrete(self, what: str) -> Any:
        tracer = self.tracer
        assert isinstance(tracer, _ValueTracer)
        node = self.node
        if isinstance(tracer.values[node], Tensor) or node in tracer.data_dependent:
            raise UntraceableError(f"takes the {what} of {node.name}, which depends on the data")
        return tracer.values[node]

    def __bool__(self) -> bool:
        return bool(self._concrete("truth"))

    def __int__(self) -> int:
        return int(self._concrete("integer value"))

    def __index__(self) -> int:
        return operator.index(self._concrete("integer value"))

    def __float__(self) -> float:
        return float(self._concrete("value"))

    def __len__(self) -> int:
        tracer = self.tracer
        assert isinstance(tracer, _ValueTracer)
        return len(tracer.values[self.node])

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))  # type: ignore[index]


class _ValueAttribute(_ValueProxy):
    """`x.name`: a method if it is called next, an attribute otherwise."""

    def __init__(self, root: fx.Proxy, name: str) -> None:
        self.root = root
        self.attribute = name
        self.tracer = root.tracer
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        if self._node is None:
            proxy = self.tracer.create_proxy("call_function", getattr, (self.root, self.attribute), {})
            self._node = proxy.node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_method", self.attribute, (self.root, *args), kwargs)


class _ValueTracer(fx.Tracer):
    """Evaluates each node as soon as it is made."""

    def __init__(self, inputs: tuple[Any, ...], opaque: set[str]) -> None:
        super().__init__(param_shapes_constant=False)
        self.inputs = iter(inputs)
        self.opaque = opaque
        self.values: dict[fx.Node, Any] = {}
        self.data_dependent: set[fx.Node] = set()
        self.evaluating = False
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep torch's own modules, and those already found to be untraceable, whole."""
        return module_qualified_name in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace into a module, remembering the innermost one that fails."""
        if self.evaluating:  # while tracing, torch.fx patches every module call, these included
            return forward(*args, **kwargs)
        name = self.path_of_module(m)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None:
                self.failed = name
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Read a module's attribute: as a node when tracing, as it is when evaluating."""
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Evaluate `node` on the example and wrap it."""
        self.evaluating = True
        try:
            with torch.no_grad():
                value = self._evaluate(node)
        finally:
            self.evaluating = False
        self.values[node] = value
        self._mark_data_dependence(node, value)
        return _ValueProxy(node, self)

    def _value(self, node: fx.Node) -> Any:
        if node not in self.values and node.op == "get_attr":  # a buffer, which torch.fx wraps in no proxy
            self.values[node] = operator.attrgetter(str(node.target))(self.root)
        return self.values[node]

    def _evaluate(self, node: fx.Node) -> Any:
        args = map_arg(node.args, self._value)
        kwargs = map_arg(node.kwargs, self._value)
        target: Any = node.target
        if node.op == "placeholder":
            return next(self.inputs, *node.args)
        if node.op == "get_attr":
            return operator.attrgetter(target)(self.root)
        if node.op == "call_function":
            return target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        return None

    def _mark_data_dependence(self, node: fx.Node, value: Any) -> None:
        sources = node.all_input_nodes
        inherited = any(source in self.data_dependent for source in sources)
        question = node.args[1] if node.target is getattr else node.target
        asked = any(isinstance(self._value(source), Tensor) for source in sources)
        plain = isinstance(value, (bool, int, float, list))
        if inherited or (asked and plain and question not in _STATIC_QUESTIONS):
            self.data_dependent.add(node)


@contextmanager
def _no_shape_checks() -> Iterator[None]:
    """Let proxies pass annotations that only tensors satisfy."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def trace(root: nn.Module, inputs: tuple[Any, ...]) -> Trace:
    """Return the graph of `root`, leaving whole what cannot be traced.

    Args:
        root: The network, in the mode to be traced; modules and parameters are not changed.
        inputs: Positional arguments of an example call.

    Returns:
        The graph, and each module that stayed whole with the reason.

    Raises:
        UntraceableError: If the outermost `forward` itself cannot be traced.
    """
    opaque: dict[str, str] = {}
    graph = _traced(root, inputs, opaque)
    one_more = with_one_more(inputs)
    if one_more is not None:
        # What fails here is a network of one batch size; what was traced holds for that.
        with suppress(UntraceableError, RuntimeError, ValueError):
            _follow_batch(graph, _traced(root, one_more[0], dict(opaque)), *one_more[1:])
    return Trace(graph, opaque)


def _traced(root: nn.Module, inputs: tuple[Any, ...], opaque: dict[str, str]) -> fx.Graph:
    """Return the graph of one example call, adding to `opaque` what has to stay whole."""
    while True:
        tracer = _ValueTracer(inputs, set(opaque))
        try:
            with _no_shape_checks():
                graph = tracer.trace(root, concrete_args=_defaults(root, len(inputs)))
        except Exception as error:  # whatever the network's own code raises when it meets a proxy
            reason = " ".join(str(error).split()) or type(error).__name__
            if tracer.failed is None or tracer.failed in opaque:
                raise UntraceableError(reason) from error
            opaque[tracer.failed] = reason
            continue
        graph.eliminate_dead_code(is_impure_node=lambda node: node.op in {"placeholder", "output"})
        graph.lint()
        return graph


def with_one_more(inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], int, int] | None:
    """Return the example with its first row repeated, the number of a tensor that has the batch, its size."""
    sizes = [len(x) for x in inputs if isinstance(x, Tensor) and x.dim()]
    if not sizes or min(sizes) != max(sizes) or sizes[0] == 0:
        return None
    first = next(number for number, x in enumerate(inputs) if isinstance(x, Tensor) and x.dim())
    longer = tuple(torch.cat([x, x[:1]]) if isinstance(x, Tensor) and x.dim() else x for x in inputs)
    return longer, first, sizes[0]


def _follow_batch(graph: fx.Graph, longer: fx.Graph, batched_input: int, batch: int) -> None:
    """Let numbers that grow with the batch (from `len(x)` or `int(x.shape[0])`) follow it in `graph`."""
    pairs = list(zip(graph.nodes, longer.nodes, strict=True))
    placeholder = [node for node in graph.nodes if node.op == "placeholder"][batched_input]
    sizes: dict[int, fx.Node] = {}

    def size(multiple: int) -> fx.Node:
        if multiple not in sizes:
            after = sizes.get(1, placeholder)
            with graph.inserting_after(after):
                if multiple == 1:
                    sizes[1] = graph.call_method("size", (placeholder, 0))
                else:
                    sizes[multiple] = graph.call_function(operator.mul, (size(1), multiple))
        return sizes[multiple]

    def followed(short: Any, long: Any) -> Any:
        if isinstance(short, (tuple, list)):
            return type(short)(followed(a, b) for a, b in zip(short, long, strict=True))
        if isinstance(short, slice):
            return slice(*(followed(getattr(short, k), getattr(long, k)) for k in ("start", "stop", "step")))
        if isinstance(short, bool) or not isinstance(short, int) or short == long:
            return short
        multiple = short // batch
        if (short, long) != (multiple * batch, multiple * (batch + 1)):
            raise UntraceableError(
                f"has a number that is {short} for {batch} examples and {long} for one more"
            )
        size(1)
        return size(multiple)

    for node, other in pairs:
        if (node.op, node.target) != (other.op, other.target):
            raise UntraceableError("takes another path for another batch size")
        node.args = followed(node.args, other.args)
        node.kwargs = {name: followed(value, other.kwargs[name]) for name, value in node.kwargs.items()}


def _defaults(root: nn.Module, num_inputs: int) -> dict[str, Any]:
    """Return the values of the arguments of `forward` that the example leaves at their defaults."""
    parameters = list(inspect.signature(root.forward).parameters.values())
    return {p.name: p.default for p in parameters[num_inputs:] if p.default is not inspect.Parameter.empty}
