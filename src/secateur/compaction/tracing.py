"""A network's graph, recorded while it runs on an example.

Every call of a torch function is intercepted as it happens (`torch.overrides.TorchFunctionMode`), so that the
network's own Python runs unchanged: it may branch on shapes, take keyword arguments and call any library.
Numbers that the code reads off a tensor's shape, or off an attribute of a module, remember where they came
from, so the graph holds `x.size(0) * self.num_heads` rather than 8. A module whose `forward` asks for the
data themselves (`if x.sum() > 0`) becomes a leaf of the graph, because another batch may answer otherwise.
"""

import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from secateur.modules.inputs import call_arguments, map_tensors

__all__ = ["Trace", "UntraceableError", "captured", "mutated", "record"]

# Functions that answer with something else than a tensor, by the entries of one.
_QUESTIONS = frozenset({
    "__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "item", "tolist", "numpy",
    "__array__", "__dlpack__", "is_nonzero", "equal", "allclose",
})  # fmt: skip
_SWAPPED = {f"__r{name}__": getattr(operator, name) for name in
            ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")}  # fmt: skip
_SWAPPED["__rdiv__"] = operator.truediv


class UntraceableError(Exception):
    """The network's `forward` depends on its data in a way that no fixed graph can express."""


@dataclass(frozen=True)
class Trace:
    """A network as a graph.

    Attributes:
        graph: The graph over `root`'s submodules; leaves are torch's own modules and the opaque ones.
        inputs: Values of the graph's placeholders on the example.
        opaque: Modules that could not be traced, by qualified name, with the reason.
        only_analysis: Why the graph cannot take the network's place; None where it can.
        in_double: Whether `root` was in float64.
    """

    graph: fx.Graph
    inputs: tuple[Any, ...]
    opaque: dict[str, str]
    only_analysis: str | None = None
    in_double: bool = False


class captured:  # noqa: N801  (a function with a value of its own)
    """Return a tensor that came from where no torch function was seen."""

    def __init__(self, value: Tensor) -> None:
        self.value, self.__name__ = value, "captured"

    def __call__(self) -> Tensor:
        """Return the tensor."""
        return self.value


def mutated(*operands: Any) -> Any:
    """Return the first operand, which was written to in part."""
    return operands[0]


class _Number(int):
    """An integer that knows how the network's code came by it."""

    recorder: "_Recorder"
    make: Callable[[], fx.Node]

    @staticmethod
    def of(value: int, recorder: "_Recorder", make: Callable[[], fx.Node]) -> "_Number":
        number = _Number(value)
        number.recorder, number.make = recorder, functools.cache(make)
        return number

    def _combined(self, function: Callable[..., int], *operands: Any) -> Any:
        if any(isinstance(x, bool) or not isinstance(x, int) for x in operands):
            return NotImplemented
        recorder = self.recorder
        value = function(*(int(x) for x in operands))
        return _Number.of(
            value, recorder, lambda: recorder.graph.call_function(function, recorder.argument(operands))
        )

    def __neg__(self) -> Any:
        return self._combined(operator.neg, self)


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _function = getattr(operator, _name)
    setattr(_Number, f"__{_name}__", lambda a, b, f=_function: a._combined(f, a, b))
    setattr(_Number, f"__r{_name}__", lambda a, b, f=_function: a._combined(f, b, a))


class _Recorder(TorchFunctionMode):
    """Records each torch function, and each call of a leaf module, as a node."""

    def __init__(self, root: nn.Module, opaque: Mapping[str, str]) -> None:
        super().__init__()
        self.root, self.opaque, self.graph = root, opaque, fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.tainted: set[fx.Node] = set()  # what depends on floating-point numbers
        self.alive: list[Any] = []  # an id is of use only while its tensor lives
        self.paused = False
        self.failed: str | None = None
        self.only_analysis: str | None = None
        self.numeric: tuple[fx.Node, Tensor] | None = None  # a floating-point input
        self.path = ""
        self.names = {
            id(value): f"{path}.{name}" if path else name
            for path, module in reversed(list(root.named_modules()))
            for name, value in {**module._buffers, **module._parameters, **vars(module)}.items()
            if isinstance(value, Tensor)
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        getter = name == "__get__"
        if getter:
            name = func.__self__.__name__
        if name in {"shape", "size"}:
            return self._sizes(*args, **kwargs)
        result = func(*args, **kwargs)
        if name in {"__set__", "__setitem__"}:
            operands = [x for x in pytree.tree_leaves(args) if isinstance(x, Tensor)]
            self._bind(operands[0], self.graph.call_function(mutated, self.argument(tuple(operands))))
            self.only_analysis = "it writes into parts of tensors"
        elif not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            if name in _QUESTIONS:
                self._answer(name, args)
        else:
            in_place = (
                (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace") or "out" in kwargs
            )
            node = self._node(func, getattr if getter else name, (*args, name) if getter else args, kwargs)
            result = self._fresh(result, (args, kwargs), bool(in_place))
            self._bind(result, node)
        return result

    def _node(self, func: Any, name: Any, args: Any, kwargs: Any) -> fx.Node:
        arguments, keywords = self.argument(tuple(args)), self.argument(dict(kwargs))
        if name is getattr:
            return self.graph.call_function(getattr, arguments)
        if name in _SWAPPED:
            return self.graph.call_function(_SWAPPED[name], arguments[::-1])
        if name.startswith("__") and hasattr(operator, name):
            return self.graph.call_function(getattr(operator, name), arguments, keywords)
        wrapped = getattr(func, "__module__", None) == "torch._tensor"  # `x ** 2` comes as one of its own
        if getattr(Tensor, name, None) is func or (wrapped and hasattr(Tensor, name)):
            # Written out of place: what held the old value is not asked again.
            name = name[:-1] if name.endswith("_") and hasattr(Tensor, name[:-1]) else name
            return self.graph.call_method(name, arguments, keywords)
        return self.graph.call_function(func, arguments, keywords)

    def _sizes(self, x: Tensor, dim: int | None = None) -> Any:
        def size(axis: int, length: int) -> _Number:
            return _Number.of(length, self, lambda: self.graph.call_method("size", (source, axis)))

        source = self._of(x)
        sizes = torch.Size([size(axis, length) for axis, length in enumerate(Tensor.size(x))])
        return sizes if dim is None else sizes[dim]

    def _answer(self, name: str, args: Any) -> None:
        for tensor in pytree.tree_leaves(args):
            if isinstance(tensor, Tensor) and self._of(tensor) in self.tainted:
                what = "truth" if name == "__bool__" else "value"
                raise UntraceableError(f"takes the {what} of {self._of(tensor)}, which depends on the data")
        self.only_analysis = "it asks for the values of its inputs"

    def argument(self, value: Any) -> Any:
        """Return an argument as a node takes it."""
        if isinstance(value, Tensor):
            return self._of(value)
        if isinstance(value, _Number):
            return value.make() if value.recorder is self else int(value)
        if isinstance(value, (tuple, list)):
            return (list if type(value) is list else tuple)(self.argument(item) for item in value)
        if isinstance(value, dict):
            return {key: self.argument(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*(self.argument(getattr(value, part)) for part in ("start", "stop", "step")))
        if self.numeric is not None and isinstance(value, torch.dtype | torch.device):
            node, like = self.numeric
            question = "dtype" if isinstance(value, torch.dtype) else "device"
            if value == getattr(like, question):
                return self.graph.call_function(getattr, (node, question))
        return value

    def _of(self, x: Tensor) -> fx.Node:
        if id(x) not in self.nodes:
            if id(x) in self.names:
                node = self.graph.get_attr(self.names[id(x)])
            else:
                node = self.graph.call_function(captured(x.detach()))
                self.only_analysis = "it takes tensors from where no torch function was seen"
            self._bind(x, node)
        return self.nodes[id(x)]

    def _bind(self, value: Any, node: fx.Node) -> None:
        """Remember that `node` is where `value` came from."""
        node.meta.setdefault("module", self.path)
        if isinstance(value, Tensor):
            self.alive.append(value)
            self.nodes[id(value)] = node
            source = node.op in {"placeholder", "get_attr"} and value.is_floating_point()
            if source or not self.tainted.isdisjoint(node.all_input_nodes):
                self.tainted.add(node)
        elif isinstance(value, (tuple, list, dict)):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(part, (Tensor, tuple, list, dict)):
                    self.tainted.update({node} if not self.tainted.isdisjoint(node.all_input_nodes) else ())
                    self._bind(part, self.graph.call_function(operator.getitem, (node, key)))

    def _fresh(self, result: Any, arguments: Any, in_place: bool) -> Any:
        """Return a result that is told from the arguments by its identity, unless it was written into one."""
        if in_place:
            return result
        given = {id(x) for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor)}
        return map_tensors(lambda x: x.view_as(x) if id(x) in given else x, result) if given else result

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the calls of the modules, and the whole numbers they hold."""
        before = [(module, dict(vars(module))) for module in self.root.modules()]
        try:
            for path, module in self.root.named_modules():
                leaf = path in self.opaque or (path != "" and _is_leaf(module))
                if not leaf:
                    for name, value in list(vars(module).items()):
                        if type(value) is int:
                            vars(module)[name] = self._attribute(f"{path}.{name}" if path else name, value)
                vars(module)["forward"] = self._watched(path, module, leaf)
            yield
        finally:
            for module, state in before:
                vars(module).clear()
                vars(module).update(state)

    def _attribute(self, path: str, value: int) -> _Number:
        return _Number.of(value, self, lambda: self.graph.get_attr(path))

    def _watched(self, path: str, module: nn.Module, leaf: bool) -> Callable[..., Any]:
        forward = module.forward

        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.paused:
                return forward(*args, **kwargs)
            if not leaf:
                outer, self.path = self.path, path
                try:
                    return forward(*args, **kwargs)
                except Exception:
                    self.failed = path if self.failed is None else self.failed
                    raise
                finally:
                    self.path = outer
            node = self.graph.call_module(path, self.argument(args), self.argument(kwargs))
            self.paused = True
            try:
                result = forward(*args, **kwargs)
                result = self._fresh(result, (args, kwargs), getattr(module, "inplace", False))
            finally:
                self.paused = False
            self._bind(result, node)
            if isinstance(result, Tensor) and any(p.is_floating_point() for p in module.parameters()):
                self.tainted.add(node)
            return result

        return run


def _is_leaf(module: nn.Module) -> bool:
    """Return whether a module stays whole: torch's own with weights of its own, and the transposed Linear."""
    ours = type(module).__module__.startswith("torch.nn.modules")
    return type(module).__name__ == "Conv1D" or (
        ours and (next(module.children(), None) is None or isinstance(module, nn.MultiheadAttention))
    )


def record(root: nn.Module, example: Any, opaque: dict[str, str]) -> Trace:
    """Return the graph of one call of `root`, leaving whole what cannot be traced.

    Args:
        root: The network, in the mode to be traced; modules and parameters are not changed.
        example: Arguments of the call, as for `secateur.modules.inputs.call_arguments`.
        opaque: Modules to leave whole, with the reason; those found now are added.

    Raises:
        UntraceableError: If the outermost `forward` itself cannot be traced.
    """
    while True:
        recorder = _Recorder(root, opaque)
        args, kwargs = call_arguments(example)
        inputs = _named(root, args, kwargs)
        for name, value in inputs.items():
            node = recorder.graph.placeholder(name)
            recorder._bind(value, node)
            if recorder.numeric is None and isinstance(value, Tensor) and value.is_floating_point():
                recorder.numeric = node, value
        try:
            with torch.no_grad(), recorder.watching(), recorder:
                result = root(*args, **kwargs)
            leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
            kinds = {type(item) for item in _nests(result)}
            if not kinds <= {tuple, list, dict}:
                recorder.only_analysis = f"it returns a {type(result).__name__}"
                result = tuple(leaves)
            recorder.graph.output(recorder.argument(result))
        except Exception as error:  # whatever the network's own code raises
            reason = " ".join(str(error).split()) or type(error).__name__
            if not recorder.failed or recorder.failed in opaque:
                raise UntraceableError(reason) from error
            opaque[recorder.failed] = reason
            continue
        graph = recorder.graph
        graph.eliminate_dead_code(is_impure_node=lambda node: node.op in {"placeholder", "output"})
        graph.lint()
        numbers = [x for x in [*root.parameters(), *inputs.values()] if isinstance(x, Tensor)]
        doubled = any(x.dtype == torch.float64 for x in numbers)
        return Trace(graph, tuple(inputs.values()), opaque, recorder.only_analysis, doubled)


def _nests(value: Any) -> Iterator[Any]:
    """Yield whatever holds others in a network's output, and what is neither that nor a plain value."""
    if isinstance(value, (tuple, list, dict)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _nests(item)
    elif not isinstance(value, (Tensor, int, float, str, type(None))):
        yield value


def _named(root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    taken = [
        p.name
        for p in inspect.signature(root.forward).parameters.values()
        if p.kind <= p.POSITIONAL_OR_KEYWORD
    ]
    names = [*taken, *(f"argument_{number}" for number in range(len(taken), len(args)))]
    return {**dict(zip(names, args, strict=False)), **kwargs}
